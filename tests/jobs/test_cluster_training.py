"""Trainings that two processes on two nodes share: results of one process, also where one is lost."""

import os
import re
import signal

import numpy as np
import pytest
from cluster_worlds import cluster_world, execute, execute_here
from failing_groups import FailingGroup

from puma_engine import pipeline
from puma_engine.errors import Cancelled, ConfigError
from puma_engine.jobs import cluster as clusters
from puma_engine.jobs import dispatch
from puma_engine.jobs.cluster import Cluster
from puma_engine.requests import FitRequest, MigrationRequest

TRAINING = {"epochs": 2, "batch_size": 32}
LONG = {"epochs": 20, "batch_size": 16, "learning_rate": 1e-3, "patience": 0}
LONG |= {"checkpoint_seconds": 0.1}
ADAPTER = {"hidden": 16, "dropout": 0.0, "noise": 0.0}
# What the log says of each process that takes part: its number, its id, and that of its node.
PROCESS = re.compile(r"process ([12]) of 2 is (\d+) on \S+ \((\w+)\)")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two nodes of one CPU each, and a connection whose trainings are shared by two processes."""
    with cluster_world(tmp_path_factory.mktemp("world"), nodes=2) as world:
        world.cluster = Cluster(world.ray.address, workers=2)
        yield world


@pytest.fixture(scope="module")
def source(world):
    """Source prompts, computed here in both workspaces."""
    request = FitRequest(dataset=world.data.name, backbone=str(world.small), training=TRAINING)
    runs = [pipeline.run_fit(ws, request, pipeline.Execution()) for ws in (world.here, world.there)]
    assert runs[0].id == runs[1].id
    return runs[0]


@pytest.fixture
def migration(world, source):
    """A migration of some two hundred steps, and its run as one process here makes it."""
    request = MigrationRequest(
        sources=(source.id,), target=str(world.large), training=LONG, adapter=ADAPTER
    )
    return request, execute_here(world, "migrate", request)


@pytest.fixture
def processes(caplog):
    """A function that returns the processes that took part so far, as the log names them."""
    caplog.set_level("INFO", logger="puma_engine")
    return lambda: [(int(n), int(pid), node) for n, pid, node in PROCESS.findall(caplog.text)]


def saved_step(world, run):
    """Return the step of the checkpoint that the driver has of a run."""
    return clusters._saved_at(world.there.work(run.id))[0]


def test_a_training_of_two_nodes_is_cancelled_loses_a_process_and_ends_like_that_of_one(
    world, migration, processes, monkeypatch
):
    request, alone = migration
    with pytest.raises(Cancelled, match="at step"):
        execute(world, "migrate", request, should_cancel=lambda: saved_step(world, alone) > 0)
    assert world.there.run(alone.id).status == "interrupted"
    assert [number for number, *_ in sorted(processes())] == [1, 2]
    assert len({node for *_, node in processes()}) == 2
    stopped = saved_step(world, alone)
    steps, lost, call = [], [], world.cluster.call

    def calling(actor, method, *arguments):
        result = call(actor, method, *arguments)
        # The driver, and so the group, has a checkpoint that this attempt has made.
        if method == "discard" and not lost and saved_step(world, alone) > stopped:
            lost.append(saved_step(world, alone))
            _, pid, _ = processes()[-1]
            os.kill(pid, signal.SIGKILL)
        return result

    monkeypatch.setattr(world.cluster, "call", calling)
    there = execute(
        world,
        "migrate",
        request,
        progress=lambda report: steps.append((len(processes()), report.step)),
    )
    assert [number for number, *_ in sorted(processes())] == [1, 1, 1, 2, 2, 2]
    assert min(step for _, step in steps if step) >= stopped
    assert min(step for begun, step in steps if step and begun == 6) >= lost[0]
    assert_close(world, there, alone)


def test_a_process_that_fails_alone_ends_the_others(world, source, processes, monkeypatch):
    monkeypatch.setattr(clusters, "TrainingGroup", FailingGroup)
    request = MigrationRequest(sources=(source.id,), target=str(world.large), adapter=ADAPTER)
    with pytest.raises(ConfigError) as error:
        execute(world, "migrate", request)
    # Nothing began again.
    assert [number for number, *_ in sorted(processes())] == [1, 2]
    words = r"The device 'cuda' is not here; .* \(process 2 of 2, on \S+\)"
    assert re.fullmatch(words, str(error.value))
    (run,) = (run for run in world.there.runs(kind="migration") if run.status == "failed")
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


def test_several_workers_without_a_cluster_or_with_layers_on_all_gpus_are_refused(world):
    with pytest.raises(ConfigError, match="name it with --on"):
        dispatch.run_command(world.there, "migrate", workers=2, sources=["x"], target="y")
    with pytest.raises(ConfigError, match="leave out --device auto or --workers"):
        Cluster(world.ray.address, device="auto", workers=2)
    with pytest.raises(ConfigError, match="1 or more"):
        Cluster(world.ray.address, workers=0)
