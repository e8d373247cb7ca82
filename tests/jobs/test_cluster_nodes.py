"""Three nodes: runs are those of one machine, work is spread, and nodes, drivers and processes that die are replaced.

Trainings that two processes on two nodes share have the results of one process.
"""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import waiting_nodes
from cluster_worlds import assert_same, cluster_world, execute, execute_here
from dashboard_pages import add_job, open_page, report, texts
from failing_groups import FailingGroup
from small_runs import QUICK, SMALL
from waiting import wait_for

from puma_engine import pipeline
from puma_engine.errors import Cancelled, ConfigError
from puma_engine.jobs import cluster as clusters
from puma_engine.jobs import cluster_nodes, dispatch, node_worker
from puma_engine.jobs.cluster import Cluster, NodeLost
from puma_engine.requests import EvaluationRequest, FitRequest, MigrationRequest
from puma_engine.store.records import now

NODES = 3
# Some two hundred steps, so that a checkpoint comes back before the last one.
LONG = {"epochs": 16, "batch_size": 16, "learning_rate": 1e-3, "patience": 0}
LONG |= {"checkpoint_seconds": 0.1}
# An adapter whose results do not depend on the number of processes.
ADAPTER = {"hidden": 16, "dropout": 0.0, "noise": 0.0}
# The line of the log about each process: its number, its id, and the id of its node.
PROCESS = re.compile(r"process ([12]) of 2 is (\d+) on \S+ \((\w+)\)")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with cluster_world(tmp_path_factory.mktemp("world"), NODES) as world:
        yield world


@pytest.fixture
def actors(world, monkeypatch):
    """The actors of the cluster, with the ids of their nodes; those that start are added."""
    while len(world.ray.worker_nodes) < NODES:
        world.ray.add_node(num_cpus=1)
    known, ready = list(world.cluster._idle), world.cluster.ready

    def noted(starting):
        known.append(ready(starting))
        return known[-1]

    monkeypatch.setattr(world.cluster, "ready", noted)
    return known


@pytest.fixture
def losing(world, actors, monkeypatch):
    """A function that takes a method, and kills the node of the first actor that has returned from it.

    It returns the list of all calls: the id of the node, the method and its arguments. The call "lost", with
    the result of `note`, says when the node was killed.
    """
    call, calls = world.cluster.call, []

    def lose_after(last, note=lambda: None):
        def calling(actor, method, *arguments):
            result = call(actor, method, *arguments)
            at = next(node.id for node in actors if node.actor is actor)
            calls.append((at, method, *arguments))
            if method == last and "lost" not in [name for _, name, *_ in calls]:
                (node,) = (node for node in world.ray.worker_nodes if node.node_id == at)
                world.ray.remove_node(node, allow_graceful=False)
                # An actor that still runs could return a run that it has finished meanwhile.
                wait_for(lambda: is_lost(actor))
                calls.append((at, "lost", note()))
            return result

        def is_lost(actor):
            try:
                call(actor, "info")
            except NodeLost:
                return True
            return False

        monkeypatch.setattr(world.cluster, "call", calling)
        return calls

    return lose_after


def fit(world, **more):
    return FitRequest(dataset=world.data.name, backbone=str(world.small), training=QUICK, **more)


@pytest.fixture(scope="module")
def source(world):
    """The source prompts, in both workspaces."""
    return execute(world, "fit_prompts", fit(world)), execute_here(world, "fit_prompts", fit(world))


def training(world, source, command, **more):
    """A request for a training of LONG."""
    settings = LONG | more
    if command == "fit_prompts":
        return FitRequest(dataset=world.data.name, backbone=str(world.small), training=settings)
    return MigrationRequest(
        sources=(source[0].id,), target=str(world.large), training=settings, adapter=SMALL
    )


def test_concurrent_runs_use_three_nodes_and_equal_those_of_one_machine(world, actors):
    world.cluster.end_idle()
    actors.clear()
    assert world.cluster.capacity() == NODES
    requests = [fit(world, seed=seed) for seed in (*range(1, NODES + 1), NODES)]
    with ThreadPoolExecutor(len(requests)) as pool:
        runs = list(pool.map(lambda request: execute(world, "fit_prompts", request), requests))
    assert len({run.id for run in runs}) == NODES and runs[-1].id == runs[-2].id
    for run, request in zip(runs, requests, strict=True):
        assert_same(world, run, execute_here(world, "fit_prompts", request))
    # A node has one CPU, so each node computed one run.
    used = Counter(node.id for node in actors)
    assert used == Counter(node.node_id for node in world.ray.worker_nodes)
    # The locks that kept two threads from computing the same run are freed.
    gc.collect()
    assert len(world.cluster._at_work) == 0


@pytest.mark.parametrize("command", ["fit_prompts", "migrate"])
def test_a_training_whose_node_dies_goes_on_from_its_checkpoint(world, source, losing, command):
    request = training(world, source, command)
    expected = execute_here(world, command, request)
    # The driver discards a node's copy of a checkpoint when it has its own.
    work = world.there.work(expected.id)
    calls, steps = losing("discard", lambda: clusters._saved_at(work)[0]), []
    actual = execute(
        world, command, request, progress=lambda report: steps.append((report.step, len(calls)))
    )
    lost_call = replaced(calls)
    (begun,) = (n for n, call in enumerate(calls) if n > lost_call and call[1] == "start")
    assert node_worker.CHECKPOINT in calls[begun][2]["checkpoint"]
    # Earlier reports may be older than the checkpoint.
    assert min(step for step, at in steps if at > begun and step) >= calls[lost_call][2] > 1
    assert_same(world, actual, expected)
    assert_committed_once(world, actual)


def test_an_evaluation_whose_node_dies_is_repeated_on_another_node(world, source, losing):
    request = EvaluationRequest(subject=source[0].id, split="validation")
    expected = execute_here(world, "evaluate", request)
    calls = losing("start")
    actual = execute(world, "evaluate", request)
    replaced(calls)
    assert_same(world, actual, expected)
    assert_committed_once(world, actual)


def test_a_killed_driver_that_is_started_again_goes_on_and_commits_each_run_once(
    world, source, actors
):
    # Its nodes stop behind a checkpoint, or as soon as they evaluate.
    requests = {
        "migrate": training(world, source, "migrate", epochs=LONG["epochs"] + 1),
        "evaluate": EvaluationRequest(subject=source[0].id),
    }
    expected = {name: execute_here(world, name, request) for name, request in requests.items()}
    ws = world.there
    text = json.dumps({name: request.to_dict() for name, request in requests.items()})
    world.cluster.end_idle()
    command = [sys.executable, waiting_nodes.__file__, ws.root, world.ray.address, text]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def in_the_middle():
        assert driver.poll() is None
        return all((ws.root / f"reached-{name}").exists() for name in requests)

    wait_for(in_the_middle)
    driver.kill()
    driver.wait()
    saved = clusters._saved_at(ws.work(expected["migrate"].id))[0]
    assert saved >= waiting_nodes.MANY
    assert not {ws.run(run.id).status for run in expected.values()} & {"finished", "failed"}
    for name, request in requests.items():
        steps = []
        actual = execute(
            world, name, request, progress=lambda report, seen=steps: seen.append(report.step)
        )
        if name == "migrate":
            assert min(filter(None, steps)) >= saved
        assert_same(world, actual, expected[name])
    for run in expected.values():
        assert_committed_once(world, ws.run(run.id))


def replaced(calls):
    """Return the number of the call after which a node was killed; a run was begun on another then."""
    (lost,) = (number for number, (_, method, *_) in enumerate(calls) if method == "lost")
    before, after = (
        [at for at, method, *_ in part if method == "start"]
        for part in (calls[:lost], calls[lost:])
    )
    assert before == [calls[lost][0]] and len(after) == 1 and after != before
    return lost


def assert_committed_once(world, run):
    """One run of this question, and nothing left of the attempt that was lost."""
    ws = world.there
    same = [
        other.id
        for other in ws.runs(kind=run.kind)
        if (other.config, other.inputs) == (run.config, run.inputs)
    ]
    assert same == [run.id]
    assert ws.verify() == []
    assert not list(ws.root.glob(".*.tmp")) and not list((ws.root / "work").glob("*"))


def test_the_dashboard_shows_nodes_and_what_runs_where(world, actors, monkeypatch):
    ws = world.there
    for name in ("PUMA_ON", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert "Ray" not in texts(open_page("jobs", ws.root, monkeypatch))
    monkeypatch.setenv("PUMA_ON", world.ray.address)
    (ws.root / cluster_nodes.FILE).unlink(missing_ok=True)
    # A separate process looks at the cluster.
    assert "looking at its nodes" in texts(open_page("plan", ws.root, monkeypatch))
    wait_for(lambda: cluster_nodes.state_of(ws, world.ray.address).nodes)
    title = "Migration to the new model"
    report(ws, add_job(ws, status="running", title=title), node=socket.gethostname())
    for page in ("plan", "jobs"):
        app = open_page(page, ws.root, monkeypatch)
        (line,) = (part.label for part in app.expander if "Ray cluster" in part.label)
        assert line.endswith(f"{NODES} nodes, {NODES} CPUs, no GPU")
        (table,) = (t.value for t in app.dataframe if "Runs now" in t.value)
        assert list(table["CPUs"]) == [1] * NODES and set(table["Runs now"]) == {title}
    monkeypatch.delenv("PUMA_ON")
    monkeypatch.setenv("RAY_ADDRESS", world.ray.address)
    cluster_nodes.write_state(
        ws, cluster_nodes.ClusterState("ray", now(), problem="Nothing answers.")
    )
    text = texts(open_page("jobs", ws.root, monkeypatch))
    assert "There is a Ray cluster at" in text and "Nothing answers." in text
    assert "Jobs run on this machine" in text


@pytest.fixture
def group(world, actors):
    """The world with a connection whose trainings are shared by two processes, and all nodes free for them."""
    world.cluster.end_idle()
    return SimpleNamespace(**vars(world) | {"cluster": Cluster(world.ray.address, workers=2)})


@pytest.fixture
def processes(caplog):
    """A function that returns the processes that took part so far, as the log names them."""
    caplog.set_level("INFO", logger="puma_engine")
    return lambda: [(int(n), int(pid), node) for n, pid, node in PROCESS.findall(caplog.text)]


def saved_step(world, run):
    """Return the step of the checkpoint that the driver has of a run."""
    return clusters._saved_at(world.there.work(run.id))[0]


def test_a_training_of_two_nodes_that_is_cancelled_and_loses_a_process_equals_that_of_one(
    group, source, processes, monkeypatch
):
    request = MigrationRequest(
        sources=(source[0].id,), target=str(group.large), training=LONG, adapter=ADAPTER
    )
    expected = execute_here(group, "migrate", request)
    with pytest.raises(Cancelled, match="at step"):
        execute(group, "migrate", request, should_cancel=lambda: saved_step(group, expected) > 0)
    assert group.there.run(expected.id).status == "interrupted"
    assert [number for number, *_ in sorted(processes())] == [1, 2]
    assert len({node for *_, node in processes()}) == 2
    cancelled_step = saved_step(group, expected)
    steps, lost, call = [], [], group.cluster.call

    def calling(actor, method, *arguments):
        result = call(actor, method, *arguments)
        # The driver, and so the group, has a checkpoint that this attempt has made.
        if method == "discard" and not lost and saved_step(group, expected) > cancelled_step:
            lost.append(saved_step(group, expected))
            _, pid, _ = processes()[-1]
            os.kill(pid, signal.SIGKILL)
        return result

    monkeypatch.setattr(group.cluster, "call", calling)
    actual = execute(
        group,
        "migrate",
        request,
        progress=lambda report: steps.append((len(processes()), report.step)),
    )
    assert [number for number, *_ in sorted(processes())] == [1, 1, 1, 2, 2, 2]
    assert min(step for _, step in steps if step) >= cancelled_step
    assert min(step for begun, step in steps if step and begun == 6) >= lost[0]
    assert_close(group, actual, expected)


def test_a_process_that_fails_alone_ends_the_others(group, source, processes, monkeypatch):
    monkeypatch.setattr(clusters, "TrainingGroup", FailingGroup)
    request = MigrationRequest(sources=(source[0].id,), target=str(group.large), adapter=ADAPTER)
    with pytest.raises(ConfigError) as error:
        execute(group, "migrate", request)
    # No attempt was repeated.
    assert [number for number, *_ in sorted(processes())] == [1, 2]
    words = r"The device 'cuda' is not available; .* \(process 2 of 2, on \S+\)"
    assert re.fullmatch(words, str(error.value))
    (run,) = (run for run in group.there.runs(kind="migration") if run.status == "failed")
    assert run.error == str(error.value)


def assert_close(world, run, other):
    """The run of two processes has the id of the one of one process, its losses, and close tensors."""
    assert (run.id, run.status, run.config) == (other.id, "finished", other.config)
    first, second = (
        [[epoch[key] for key in ("train_loss", "validation")] for epoch in one.summary["history"]]
        for one in (run, other)
    )
    # Sums in fp32 differ in their last digits.
    np.testing.assert_allclose(first, second, rtol=1e-5)
    tables = [pipeline.load_prompts(ws, run).vectors for ws in (world.there, world.here)]
    np.testing.assert_allclose(*tables, atol=1e-5)
    assert world.there.verify() == []


def test_several_workers_are_refused_without_a_cluster_and_with_layers_on_all_gpus(world):
    with pytest.raises(ConfigError, match="name it with --on"):
        dispatch.run_command(world.there, "migrate", workers=2, sources=["x"], target="y")
    with pytest.raises(ConfigError, match="leave out --device auto or --workers"):
        Cluster(world.ray.address, device="auto", workers=2)
    with pytest.raises(ConfigError, match="1 or more"):
        Cluster(world.ray.address, workers=0)
