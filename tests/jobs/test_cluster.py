"""Runs on a Ray cluster: the same as on this machine, also when nodes, drivers and stores fail."""

import functools
import importlib.metadata
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from cluster_worlds import assert_same, cluster_world, execute, execute_here
from command_line import puma
from ray_clusters import TOKEN
from small_runs import QUICK, SMALL
from tiny import tiny_backbone_folder
from waiting import free_port, wait_for
from waiting_nodes import MANY, WaitingWorker, job_command

from puma_engine import jobs, pipeline
from puma_engine.backbone.packages import RELOCATED
from puma_engine.errors import Cancelled, ConfigError, JobError, StoreError, TrainingError
from puma_engine.jobs import cluster as clusters
from puma_engine.jobs import dispatch, node_worker, queue, worker_loop
from puma_engine.jobs.cluster import Cluster
from puma_engine.requests import (
    AnchorRequest,
    EvaluationRequest,
    FitRequest,
    MigrationRequest,
    PlanRequest,
    RefineRequest,
)
from puma_engine.store import Workspace, scratch
from puma_engine.studies import Cell, run_cells
from puma_engine.workbench import Workbench

# Several hundred steps; nodes stop behind a checkpoint of MANY.
LONG = {"epochs": 24, "batch_size": 16, "learning_rate": 1e-3, "patience": 0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two workspaces with the same data and models: runs of the one are computed here, of the other on nodes.

    Nodes stop behind a checkpoint of MANY steps, which only a long fit has.
    """
    folder = tmp_path_factory.mktemp("world")
    with cluster_world(folder, nodes=2, cpus=2) as world:
        world.patch.setattr(clusters, "NodeWorker", WaitingWorker)
        world.patch.setattr(clusters, "CHECKPOINT_SHARE", 1e6)
        yield world


@pytest.fixture(scope="module")
def source(world):
    """The source prompts, in both workspaces."""
    request = FitRequest(dataset=world.data.name, backbone=str(world.small), training=QUICK)
    return execute(world, "fit_prompts", request), pipeline.run_fit(
        world.here, request, pipeline.Execution()
    )


def test_fit_migration_refining_and_evaluation_equal_those_of_one_machine(world, source, tmp_path):
    assert_same(world, *source)
    other_weights = tiny_backbone_folder(tmp_path, "llama", seed=8)
    words = tmp_path / "words.toml"
    words.write_text('task = "rating"\ntext = "How good is {item}? Stars:{prompt}"\n')
    reusing = RefineRequest(
        start=source[0].name, backbone=str(other_weights), template=str(words), training=QUICK
    )
    migrating = MigrationRequest(
        sources=(source[0].name,),
        target=str(world.large),
        strategy="kmeans-variance",
        budget=12,
        training=QUICK,
        adapter=SMALL,
        name="moved",
    )
    for command, request in (
        ("migrate", migrating),
        ("evaluate", EvaluationRequest(subject="moved")),
        ("refine", RefineRequest(start="moved", training=QUICK)),
        ("refine", reusing),
        ("predict_anchors", AnchorRequest(prompts="moved", count=4)),
    ):
        actual = execute(world, command, request)
        expected = pipeline.EXECUTORS[command](world.here, request, pipeline.Execution())
        assert_same(world, actual, expected)
        if request is reusing:
            start, model = (world.there.run(actual.inputs[role]) for role in ("start", "backbone"))
            before = world.there.run(start.inputs["backbone"])
            assert model.config["fingerprint"] != before.config["fingerprint"]
            assert actual.config["template_text"] != start.config.get("template_text")
            options = reusing.to_dict()["training"] | {
                "backbone": other_weights,
                "template": words,
                "on": world.ray.address,
            }
            arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
            printed = puma(world.there, "prompts", "refine", source[0].name, *arguments)
            assert printed["id"] == actual.id
    selection = world.there.runs(kind="selection")[0]
    assert_same(world, selection, world.here.run(selection.id))
    assert world.there.verify() == []
    assert not list(world.there.root.glob(".*.tmp"))


def test_a_plan_and_a_migration_from_predictions_equal_those_of_one_machine(world, source):
    learning = {"training": QUICK, "adapter": SMALL}
    plan = PlanRequest(
        sources=(source[0].name,),
        targets=(str(world.large),),
        retrain=True,
        retraining=QUICK,
        share=0.5,
        strategy="random",
        **learning,
    )
    pairs = MigrationRequest(
        sources=(source[0].name,), target=str(world.large), from_predictions=4, **learning
    )
    for command, request in (("run_plan", plan), ("migrate", pairs)):
        actual = execute(world, command, request)
        expected = pipeline.EXECUTORS[command](world.here, request, pipeline.Execution())
        assert actual.id == expected.id and actual.status == "finished"
        for step in world.there.lineage(actual.id):
            files = [
                {row["name"]: row["sha256"] for row in ws.artifacts(step.id)}
                for ws in (world.there, world.here)
            ]
            # A comparison has the seconds of each training.
            if step.kind != "comparison":
                assert files[0] == files[1], step.name


def test_an_existing_run_is_not_computed_again(world, source):
    reports = []
    request = FitRequest(dataset=world.data.name, backbone=str(world.small), training=QUICK)
    assert execute(world, "fit_prompts", request, progress=reports.append) == source[0]
    assert reports == []


def long_fit(world, seed):
    """A fit of LONG that no other test has."""
    return FitRequest(dataset=world.data.name, backbone=str(world.small), training=LONG, seed=seed)


def test_a_cancelled_run_goes_on_from_its_checkpoint(world):
    request, steps = long_fit(world, seed=31), [0]
    expected = execute_here(world, "fit_prompts", request)

    def progress(report):
        steps.append(report.step)

    with pytest.raises(Cancelled, match="at step"):
        execute(
            world,
            "fit_prompts",
            request,
            progress=progress,
            should_cancel=lambda: max(steps) >= MANY,
        )
    assert world.there.run(expected.id).status == "interrupted"
    saved_step = clusters._saved_at(world.there.work(expected.id))[0]
    assert saved_step >= max(steps)
    steps.clear()
    actual = execute(world, "fit_prompts", request, progress=progress)
    assert min(filter(None, steps)) >= saved_step
    assert_same(world, actual, expected)


def test_an_actor_whose_run_was_abandoned_is_not_reused(world):
    def fail(report):
        if report.step:
            raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"):
        execute(world, "fit_prompts", long_fit(world, seed=32), progress=fail)
    assert world.cluster._idle == []


def saved(ws, job_id):
    job = jobs.job(ws, job_id)
    assert not job.finished, job.error
    return job.progress.get("saved_step", 0) >= MANY and job


def test_a_job_whose_process_is_killed_goes_on_from_its_checkpoint(world, monkeypatch):
    monkeypatch.setattr(worker_loop, "POLL_SECONDS", 0.1)
    ws, request = world.there, long_fit(world, seed=33)
    here = execute_here(world, "fit_prompts", request)
    arguments = request.to_dict() | {"on": world.ray.address}
    job = jobs.enqueue(ws, "fit_prompts", arguments, title="Long")
    serving = {"devices": ["cpu"], "once": True, "runner": job_command}
    worker = threading.Thread(target=jobs.worker, args=(ws,), kwargs=serving)
    worker.start()
    running = wait_for(functools.partial(saved, ws, job.id))
    assert running.progress["node"] and running.progress["total"]
    os.kill(running.pid, signal.SIGKILL)
    worker.join()
    done = jobs.job(ws, job.id)
    assert (done.status, done.attempt, done.error) == ("finished", 2, None)
    assert_same(world, ws.run(done.run_id), here)
    steps = [step for trace in done.progress["trace"].values() for step, _ in trace]
    assert all(step >= MANY for step in steps)
    assert f"{running.progress['node']}: CPU" in jobs.read_log(ws, job.id)
    # This process, the job's and the nodes have a token of Ray in their environment.
    assert os.environ["RAY_AUTH_TOKEN"] == TOKEN
    # Another process reads the files: closing the database's file here would end SQLite's locks on it.
    assert subprocess.run(["grep", "-rqF", done.run_id, ws.root]).returncode == 0
    assert subprocess.run(["grep", "-rqF", TOKEN, ws.root]).returncode == 1


def test_runs_finish_with_a_full_object_store(world):
    import ray

    request = FitRequest(dataset=world.data.name, backbone=str(world.small), training=QUICK, seed=6)
    expected = pipeline.run_fit(world.here, request, pipeline.Execution())
    # 64 MiB that go to the node with the checkpoint, while other data fill the store.
    extra = world.there.work(expected.id) / "extra.bin"
    extra.write_bytes(np.random.default_rng(0).bytes(64 << 20))
    objects = [ray.put(np.zeros(40 << 20, np.uint8)) for _ in range(4)]
    actual = execute(world, "fit_prompts", request)
    assert_same(world, actual, expected)
    assert len(objects) == 4


def test_a_model_that_a_node_lacks_is_sent(world, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = pipeline.import_dataset(ws, "table", path=world.table, task="rating")
    model = tiny_backbone_folder(tmp_path / "models", "llama")
    added = pipeline.add_backbone(ws, model)
    moved = model.rename(tmp_path / "elsewhere")
    RELOCATED[str(model)] = moved
    try:
        request = FitRequest(dataset=data.id, backbone=added.id, training=QUICK)
        actual = execute(world, "fit_prompts", request, ws)
    finally:
        del RELOCATED[str(model)]
    moved.rename(model)
    again = Workspace.open(tmp_path / "again", create=True)
    pipeline.import_dataset(again, "table", path=world.table, task="rating")
    expected = pipeline.fit_prompts(again, data.id, model, training=QUICK)
    files = [[row["sha256"] for row in w.artifacts(expected.id)] for w in (ws, again)]
    assert actual.id == expected.id and files[0] == files[1]


def test_an_error_of_a_node_is_the_error_of_the_command(world):
    request = FitRequest(
        dataset=world.data.name,
        backbone=str(world.small),
        training=QUICK | {"learning_rate": 1e30},
        seed=7,
    )
    with pytest.raises(TrainingError, match="became nan"):
        execute(world, "fit_prompts", request)
    (run,) = (run for run in world.there.runs(kind="prompts") if run.seed == 7)
    assert run.status == "failed" and "became nan" in run.error


def test_other_versions_are_refused(world, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "4.0.0" if name == "transformers" else version(name),
    )
    request = FitRequest(dataset=world.data.name, backbone=str(world.small), training=QUICK, seed=8)
    # The versions of a running actor were compared when it started.
    with (
        Cluster(world.ray.address) as another,
        pytest.raises(JobError, match=r"other versions .*transformers .* there and 4\.0\.0 here"),
    ):
        another.run(world.there, "fit_prompts", request.to_dict())


def test_a_gpu_that_the_cluster_lacks_is_refused(world):
    with pytest.raises(ConfigError, match="has no GPU"):
        Cluster(world.ray.address, device="cuda")
    with pytest.raises(ConfigError, match="Ray chooses the GPU"):
        Cluster(world.ray.address, device="cuda:1")


def test_unknown_clusters_and_commands_are_refused(world, monkeypatch):
    with pytest.raises(JobError, match="is not an address of a cluster"):
        dispatch.run_command(world.there, "evaluate", on="the moon", subject="x")
    with pytest.raises(JobError, match="on this machine alone; a cluster takes chain"):
        dispatch.run_command(world.there, "compare", on="ray", evaluations=[])
    # Commands that no cluster computes run on this machine, also in a worker of a cluster.
    monkeypatch.setenv(dispatch.VARIABLE, "ray")
    run = dispatch.run_command(
        world.there, "import_dataset", source="table", path=world.table, task="rating"
    )
    assert run.id == world.data.id


def test_a_scratch_folder_that_another_user_could_redirect_is_refused(tmp_path, monkeypatch):
    target = tmp_path / "home" / "letters"
    target.mkdir(parents=True)
    (tmp_path / f"puma-{os.getuid()}").symlink_to(target.parent)
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    with pytest.raises(StoreError, match="is a link, or another user's"):
        node_worker.NodeWorker()
    assert target.is_dir()


def test_a_checkpoint_without_its_record_is_not_offered(tmp_path, monkeypatch):
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    worker = node_worker.NodeWorker()
    worker._run_id = "a" * 16
    folder = worker.ws.work(worker._run_id)
    (folder / "checkpoint-14.safetensors").write_bytes(b"numbers")
    assert worker.checkpoint() is None
    (folder / node_worker.CHECKPOINT).write_text("{}", encoding="utf-8")
    assert {name for name, *_ in worker.checkpoint()} == {file.name for file in folder.iterdir()}


def test_several_processes_of_a_launcher_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without a launcher"):
        dispatch.open_cluster("ray")


def test_without_ray_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(JobError, match=r"pip install 'puma-workbench\[cluster\]'"):
        Cluster("ray")


def test_an_address_without_a_cluster_is_refused_at_once(tmp_path):
    port = free_port()
    code = f"from puma_engine.jobs.cluster import Cluster; Cluster('ray://127.0.0.1:{port}')"
    secret = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=secret
    )
    assert f"Nothing answers at ray://127.0.0.1:{port} (" in result.stderr
    assert TOKEN not in result.stderr


def test_a_worker_of_a_cluster_and_the_python_interface_make_the_same_run(world, source):
    ws = world.there
    request = FitRequest(dataset=world.data.name, backbone=str(world.small), training=QUICK, seed=9)
    bench = Workbench(ws.root, on=world.ray.address)
    actual = bench.fit_prompts(world.data, world.small, training=QUICK, seed=9)
    assert_same(world, actual, pipeline.run_fit(world.here, request, pipeline.Execution()))
    with pytest.raises(TypeError):
        bench.fit_prompts(world.data, world.small, epochs=2)


def test_jobs_of_a_cluster_take_slots_and_change_no_visible_device(world, monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, world.ray.address)
    monkeypatch.setenv(worker_loop.VISIBLE, "7")
    assert worker_loop.served_devices() == ["cluster:0", "cluster:1", "cluster:2", "cluster:3"]
    seen = world.there.root / "seen"
    code = f"import os; open({str(seen)!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    jobs.enqueue(world.there, "evaluate", {"subject": "moved"}, title="Place")
    monkeypatch.setattr(queue, "MAX_CRASHES", 1)
    jobs.worker(world.there, once=True, runner=lambda _ws, _job: [sys.executable, "-c", code])
    assert seen.read_text() == "7"
    assert (
        world.there.query("SELECT device FROM jobs WHERE title = 'Place'")[0]["device"]
        == "cluster:0"
    )


def test_a_study_runs_its_cells_at_the_same_time_and_makes_the_same_runs(world):
    on, model = {"dataset": "data"}, {"backbone": str(world.small), "training": QUICK}
    cells = [
        Cell("data", "import_dataset", {"source": "table", "path": world.table, "task": "rating"}),
        Cell("one", "fit_prompts", model | {"seed": 11}, on),
        Cell("two", "fit_prompts", model | {"seed": 12}, on),
        Cell("best", "best", {}, {"candidates": ["one", "two"]}),
        Cell("bad", "select", {"strategy": "nothing", "budget": 2}, {"prompts": "one"}),
        Cell("scored", "evaluate", {}, {"subject": "best"}),
        Cell("mean", "evaluate", {"subject": "global_mean"}, on),
    ]
    actual = run_cells(world.there, cells, on=world.ray.address)
    expected = run_cells(world.here, cells)
    assert actual.runs == expected.runs and set(actual.runs) == {cell.name for cell in cells} - {
        "bad"
    }
    assert actual.failed == expected.failed and "nothing" in actual.failed["bad"]
    for name in ("one", "two", "scored", "mean"):
        assert_same(world, world.there.run(actual.runs[name]), world.here.run(expected.runs[name]))
    with pytest.raises(Cancelled):
        run_cells(world.there, cells, on=world.ray.address, should_cancel=lambda: True)


def test_a_study_whose_backbone_is_missing_closes_its_connection(world, tmp_path):
    code = f"""
import ray
from puma_engine.errors import BackboneError
from puma_engine.store import Workspace
from puma_engine.studies import Cell, run_cells

cell = Cell("one", "fit_prompts", {{"backbone": "/no/model"}})
try:
    run_cells(Workspace.open({str(tmp_path / "ws")!r}, create=True), [cell], on={world.ray.address!r})
except BackboneError as error:
    print(error, ray.is_initialized())
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("There is no backbone '/no/model'"), result.stderr
    assert result.stdout.endswith(" False\n")
