"""Stages joined with the workspace, on tiny real models: reuse, resume, lineage, controls."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from small_runs import QUICK, SMALL, write_ratings
from store_edits import edited
from store_processes import start_process
from tiny import tiny_backbone_folder

from puma_engine import jobs, pipeline
from puma_engine.config import TrainingConfig
from puma_engine.defaults import fit_defaults
from puma_engine.errors import (
    BackboneError,
    Cancelled,
    ConfigError,
    DataError,
    MigrationError,
    NotFoundError,
    SelectionError,
    StoreError,
    TrainingError,
)
from puma_engine.evaluation import metrics
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.pipeline import backbones
from puma_engine.pipeline.evaluating import read_user_metric
from puma_engine.pipeline.stage import (
    Execution,
    OverallProgress,
    Part,
    StageProgress,
    StageResult,
    run_stage,
)
from puma_engine.store import Workspace
from puma_engine.store.records import now


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with a data set, two backbones of unequal width and source prompts."""
    folder = tmp_path_factory.mktemp("world")
    ws = Workspace.open(folder / "workspace", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(folder / "ratings.csv"), task="rating"
    )
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    source = pipeline.fit_prompts(ws, data, small, training=QUICK)
    return {
        "ws": ws,
        "data": data,
        "small": small,
        "large": large,
        "source": source,
        "folder": folder,
    }


def test_a_repeated_request_returns_the_run_without_work(world):
    ws, reports = world["ws"], []
    again = pipeline.fit_prompts(
        ws, world["data"], world["small"], training=QUICK, progress=reports.append
    )
    assert again == world["source"] and reports == []
    by_name = pipeline.fit_prompts(
        ws,
        world["data"].name,
        "llama",
        training=TrainingConfig(**fit_defaults("rating", 24).to_dict() | QUICK),
    )
    assert by_name.id == again.id
    other = pipeline.fit_prompts(ws, world["data"], "llama", training=QUICK | {"epochs": 1})
    assert other.id != again.id


def test_a_prompt_table_is_loaded_by_user_id(world):
    ws = world["ws"]
    table = pipeline.load_prompts(ws, world["source"])
    assert table.vectors.shape == (24, 1, 32) and table.vectors.dtype == np.float32
    assert table.user_ids.tolist() == pipeline.load_dataset(ws, world["data"]).users.tolist()
    assert table.user_ids[7] == "007" and set(table.head)


def test_migration_maps_all_users_and_records_its_origin(world):
    ws = world["ws"]
    run = pipeline.migrate(
        ws,
        world["source"],
        world["large"],
        strategy="random",
        budget=6,
        training=QUICK,
        adapter=SMALL,
    )
    table = pipeline.load_prompts(ws, run)
    assert table.vectors.shape == (24, 1, 48)
    assert run.cost["users_trained"] == 6
    ancestors = ws.lineage(run.id)
    assert {ancestor.kind for ancestor in ancestors} == {
        "migration",
        "selection",
        "prompts",
        "backbone",
        "dataset",
    }
    chosen = pipeline.selected_users(ws, run.inputs["selection"])
    assert len(chosen) == 6 and set(chosen) < set(table.user_ids)
    tensors, meta = pipeline.load_adapter(ws, run)
    assert (meta["d_in"], meta["d_out"]) == (32, 48)
    from puma_engine.migration.adapter import apply_adapter
    from puma_engine.migration.adapter import load_adapter as rebuild

    source = pipeline.load_prompts(ws, world["source"]).take(table.user_ids)
    np.testing.assert_allclose(
        apply_adapter(rebuild(tensors, meta), source), table.vectors, atol=1e-5
    )


def test_evaluation_metrics_equal_those_of_its_predictions(world):
    ws = world["ws"]
    run = pipeline.evaluate(ws, world["source"])
    frame = pipeline.read_predictions(ws, run)
    test = pipeline.load_dataset(ws, world["data"]).rows("test")
    assert len(frame) == len(test)
    expected = float(np.sqrt(np.mean((frame["prediction"] - frame["outcome"]) ** 2)))
    assert run.summary["metrics"]["rmse"] == pytest.approx(expected, abs=1e-5)
    scores = ws.metrics(run.id).set_index("metric")
    assert set(scores.index) == set(metrics.metrics_of("rating"))
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    users = ws.user_metrics(run.id)
    assert set(users["user_id"]) == set(test["user_id"])


def test_user_metrics_are_read_by_id_from_file_or_database(world):
    ws = world["ws"]
    run = pipeline.evaluate(ws, world["source"])
    known = ws.user_metrics(run.id).set_index("user_id")["rmse"]
    users = ["nobody", *known.index[::-1], known.index[3]]
    expected = known.reindex(users).to_numpy(np.float32)
    for _ in ("by columns", "in the database alone"):
        np.testing.assert_array_equal(
            read_user_metric(ws, run.id, "rmse", pa.array(users, pa.string())), expected
        )
        with edited(ws) as db:
            db.execute(
                "DELETE FROM artifacts WHERE run_id = ? AND name = ?", [run.id, "user_metrics"]
            )


def test_comparison_pairs_rows_and_counts_costs(world):
    ws = world["ws"]
    moved = pipeline.migrate(
        ws,
        world["source"],
        world["large"],
        strategy="random",
        budget=6,
        training=QUICK,
        adapter=SMALL,
    )
    again = pipeline.fit_prompts(
        ws, world["data"], world["large"], role="retrained", training=QUICK
    )
    runs = [pipeline.evaluate(ws, prompts) for prompts in (world["source"], moved, again)]
    runs.append(pipeline.evaluate(ws, "item_mean", dataset=world["data"]))
    compared = pipeline.compare(ws, runs)
    methods = ws.get_table(compared.id, "methods").set_index("kind")
    assert set(methods.index) == {"source", "migrated", "retrained", "baseline"}
    assert bool(methods.loc["retrained", "is_baseline"])
    selection = ws.run(moved.inputs["selection"])
    assert methods.loc["migrated", "seconds"] == pytest.approx(moved.seconds + selection.seconds)
    assert methods.loc["migrated", "users_trained"] == 6
    scores = ws.get_table(compared.id, "comparison").query("metric == 'rmse'").set_index("kind")
    gap = scores.loc["migrated", "value"] - scores.loc["retrained", "value"]
    assert scores.loc["migrated", "difference"] == pytest.approx(gap, abs=1e-6)
    assert np.isnan(scores.loc["retrained", "difference"])
    assert pipeline.compare(ws, list(reversed(runs))).id == compared.id
    assert pipeline.find_comparison(ws, runs).id == compared.id
    assert pipeline.find_comparison(ws, runs, reference=runs[0]) is None
    verdict = pipeline.judge_comparison(ws, compared)
    migrated = methods.loc["migrated"]
    assert (verdict.method, verdict.reference) == (migrated["method"], "Full retraining")
    assert verdict.cost == pytest.approx(migrated["seconds"] / methods.loc["retrained", "seconds"])
    assert verdict.loss == pytest.approx(gap, abs=1e-6)


def test_comparison_stores_the_losses_of_each_user(world):
    ws = world["ws"]
    source = pipeline.evaluate(ws, world["source"])
    compared = pipeline.compare(ws, [source], baselines=True)
    methods = ws.get_table(compared.id, "methods")
    assert methods["kind"].tolist() == ["source", *["baseline"] * len(BASELINES)]
    users = ws.get_table(compared.id, "users")
    scores = ws.get_table(compared.id, "comparison").query("metric == 'rmse'")
    for method, evaluation in zip(methods["method"], methods["evaluation"], strict=True):
        pooled = np.average(users[f"loss_{evaluation}"], weights=users["n"]) ** 0.5
        expected = scores.set_index("method").loc[method, "value"]
        assert pooled == pytest.approx(expected, abs=1e-5)
    train = pipeline.load_dataset(ws, world["data"]).rows("train")
    user = users.set_index("user_id").loc["007"]
    outcomes = train[train["user_id"] == "007"]["outcome"]
    assert user["train_rows"] == len(outcomes)
    assert user["variance"] == pytest.approx(outcomes.var(ddof=0))
    with edited(ws) as db:
        db.execute("DELETE FROM artifacts WHERE run_id = ? AND name = 'users'", [compared.id])
    pd.testing.assert_frame_equal(pipeline.comparison_users(ws, compared), users)


def test_shuffled_control_differs_only_in_its_source(world):
    ws, settings = world["ws"], {"training": QUICK, "adapter": SMALL}
    moved = pipeline.migrate(ws, world["source"], world["large"], **settings)
    control = pipeline.migrate(ws, world["source"], world["large"], shuffled=True, **settings)
    assert control.config["role"] == "shuffled" and moved.config["role"] == "migrated"
    same = {"role": None, "shuffle_seed": None}
    assert control.config | same == moved.config | same
    first, second = (pipeline.load_prompts(ws, run).vectors for run in (moved, control))
    assert not np.allclose(first, second)


def test_random_prompts_are_not_trained(world):
    ws = world["ws"]
    run = pipeline.fit_prompts(ws, world["data"], world["small"], role="random", training=QUICK)
    vectors = pipeline.load_prompts(ws, run).vectors
    assert np.abs(vectors).max() <= 0.1 and run.cost["users_trained"] == 0


def test_a_chain_and_an_aggregation_have_their_inputs(world):
    ws, settings = world["ws"], {"training": QUICK, "adapter": SMALL}
    first, second = pipeline.chain(
        ws,
        world["source"],
        [world["large"], world["small"]],
        strategy="random",
        share=0.5,
        **settings,
    )
    assert second.inputs["source_0"] == first.id
    assert pipeline.load_prompts(ws, second).width == 32
    both = pipeline.migrate(ws, [world["source"], first], world["large"], **settings)
    assert pipeline.load_adapter(ws, both)[1]["d_in"] == 32 + 48


def test_cancelled_run_resumes_to_the_same_prompts(world, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = pipeline.import_dataset(ws, "table", path=world["folder"] / "ratings.csv", task="rating")
    calls = iter(range(1000))
    with pytest.raises(Cancelled):
        pipeline.fit_prompts(
            ws, data, world["small"], training=QUICK, should_cancel=lambda: next(calls) >= 3
        )
    (broken,) = ws.runs(kind="prompts")
    assert broken.status == "interrupted"
    with pytest.raises(StoreError, match="not finished"):
        pipeline.evaluate(ws, broken.id)
    done = pipeline.fit_prompts(ws, data, world["small"], training=QUICK)
    assert done.id == broken.id == world["source"].id and done.status == "finished"
    resumed = pipeline.load_prompts(ws, done).vectors
    uninterrupted = pipeline.load_prompts(world["ws"], world["source"]).vectors
    np.testing.assert_array_equal(resumed, uninterrupted)


def test_exported_prompts_can_be_imported(world, tmp_path):
    ws = world["ws"]
    file = pipeline.export_prompts(
        ws, world["source"], tmp_path / "p.safetensors", command="puma x"
    )
    imported_run = pipeline.import_prompts(ws, world["data"], world["small"], file, name="imported")
    assert imported_run.id != world["source"].id and imported_run.summary["command"] == "puma x"
    exported, imported = (pipeline.load_prompts(ws, run) for run in (world["source"], imported_run))
    np.testing.assert_array_equal(exported.vectors, imported.take(exported.user_ids))
    assert pipeline.method_cost(ws, pipeline.evaluate(ws, imported_run))[
        "seconds"
    ] == pytest.approx(world["source"].seconds)
    with pytest.raises(BackboneError, match="dimension"):
        pipeline.import_prompts(ws, world["data"], world["large"], file)
    more = pipeline.import_dataset(
        ws, "table", path=write_ratings(tmp_path / "more.csv", users=26), task="rating"
    )
    with pytest.raises(DataError, match="2 of the 26 users"):
        pipeline.import_prompts(ws, more, world["small"], file)


def test_changed_weights_are_detected(world, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    folder = tiny_backbone_folder(tmp_path, "llama")
    added = pipeline.add_backbone(ws, folder)
    assert added.summary["width"] == 32
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BackboneError, match="changed"):
        pipeline.load_backbone(ws, added)
    assert pipeline.add_backbone(ws, folder).id != added.id


@pytest.fixture
def large_files(monkeypatch):
    """Files above 32 KiB count as large: earlier versions did not hash the middle of large weights."""
    monkeypatch.setattr(backbones, "LARGE", 32 << 10)
    monkeypatch.setattr(backbones, "SAMPLE", 1 << 10)


def edit_middle(file):
    """Change one byte in the middle of a file, and set its time back."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_byte_in_the_middle_of_large_weights_is_noticed(large_files, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    folder = tiny_backbone_folder(tmp_path, "llama")
    added = pipeline.add_backbone(ws, folder)
    pipeline.load_backbone(ws, added)
    assert len(ws.query("SELECT * FROM file_hashes")) == sum(
        file.stat().st_size > backbones.LARGE for file in folder.iterdir()
    )
    edit_middle(folder / "model.safetensors")
    assert backbones.sampled_fingerprint(str(folder)) is not None
    with pytest.raises(BackboneError, match="changed"):
        pipeline.load_backbone(ws, added)
    assert pipeline.add_backbone(ws, folder).id != added.id


def test_a_large_model_of_an_earlier_version_keeps_its_run_and_is_hashed_completely(
    large_files, tmp_path
):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    folder = tiny_backbone_folder(tmp_path, "llama")
    config = {"spec": str(folder), "revision": None}
    config["fingerprint"] = backbones.sampled_fingerprint(str(folder))
    run = ws.begin("backbone", name="llama", config=config, inputs={})
    old = ws.finish(run.id, seconds=1, device="cpu", summary={"width": 32})
    assert pipeline.add_backbone(ws, folder).id == old.id
    pipeline.load_backbone(ws, old)
    assert backbones.fingerprints(ws, old) == {
        config["fingerprint"],
        backbones.fingerprint(ws, str(folder)),
    }
    edit_middle(folder / "model.safetensors")
    assert backbones.sampled_fingerprint(str(folder)) == config["fingerprint"]
    with pytest.raises(BackboneError, match="changed"):
        pipeline.load_backbone(ws, old)
    assert pipeline.add_backbone(ws, folder).id != old.id


@pytest.mark.parametrize("first", ["finishes", "is killed"])
def test_adding_a_model_waits_for_another_process_that_adds_it(world, tmp_path, first):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    config = {"spec": str(world["small"].resolve()), "revision": None}
    config["fingerprint"] = backbones.fingerprint(ws, config["spec"])
    run_id = ws.run_key("backbone", config, {})
    other = start_process(
        f"run = ws.begin('backbone', name='other', config={config!r}, inputs={{}})\n"
        "print('adding', flush=True)\n"
        "sys.stdin.readline()\n"
        + ("ws.finish(run.id, seconds=1, device='cpu')" if first == "finishes" else ""),
        ws.root,
    )
    assert other.stdout.readline() == "adding\n"
    with pytest.raises(Cancelled, match="waiting for another process that adds"):
        answers = iter([False, False, True])
        pipeline.add_backbone(ws, world["small"], should_cancel=lambda: next(answers))
    messages = []

    def progress(report):
        messages.append(report.stage)
        if report.stage.startswith("waiting"):
            other.stdin.write("go on\n")
            other.stdin.flush()

    run = pipeline.add_backbone(ws, world["small"], progress=progress)
    assert other.wait(120) == 0, other.stderr.read()
    assert run.id == run_id and run.status == "finished"
    assert run.name == ("other" if first == "finishes" else world["small"].name)
    assert messages[:2] == [
        f"inspecting {world['small']}",
        f"waiting for another process that adds {world['small'].name}",
    ]


def test_threads_that_add_the_same_model_at_once_get_one_run(world, tmp_path):
    ws, barrier = Workspace.open(tmp_path / "workspace", create=True), threading.Barrier(3)

    def add(_number):
        barrier.wait()
        return pipeline.add_backbone(ws, world["small"])

    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(add, range(3)))
    assert len({run.id for run in runs}) == 1
    assert {run.status for run in runs} == {"finished"}


@pytest.fixture(scope="module")
def killed_adding(world):
    """A workspace with a data set in which a process that added a model was killed."""
    ws = Workspace.open(world["folder"] / "killed", create=True)
    pipeline.import_dataset(ws, "table", path=world["folder"] / "ratings.csv", task="rating")
    killed = start_process(
        "import puma_engine.backbone as backbone\n"
        "from puma_engine import pipeline\n"
        "backbone.inspect_backbone = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "pipeline.add_backbone(ws, 'llama-small')",
        ws.root,
    )
    assert killed.wait(120) == -9
    ws.close()
    return ws.root


@pytest.mark.parametrize("command", ["by name", "by id", "by run", "as a job"])
def test_a_model_whose_adding_was_killed_is_added_by_the_next_command(
    killed_adding, tmp_path, command
):
    ws = Workspace.open(shutil.copytree(killed_adding, tmp_path / "workspace"))
    (data,) = ws.runs(kind="dataset")
    (killed,) = ws.runs(kind="backbone")
    assert killed.status == "interrupted"
    if command == "as a job":
        arguments = {"dataset": data, "backbone": "llama-small", "training": QUICK}
        job = jobs.enqueue(ws, "fit_prompts", arguments, title="Fit")
        jobs.worker(ws, devices=["cpu"], once=True)
        done = ws.run(jobs.job(ws, job.id).run_id)
    else:
        model = {"by name": "llama-small", "by id": killed.id, "by run": killed}[command]
        done = pipeline.fit_prompts(ws, data, model, training=QUICK)
    assert done.status == "finished" and done.inputs["backbone"] == killed.id
    assert [run.status for run in ws.runs(kind="backbone")] == ["finished"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"strategy": "random"}, ConfigError, "budget"),
        ({"budget": 3}, ConfigError, "needs a strategy"),
        ({"strategy": "random", "budget": 99}, SelectionError, "99"),
        ({"strategy": "random", "share": 1.5}, SelectionError, "1.5"),
        ({"strategy": "best", "budget": 3}, SelectionError, "best"),
        ({"adapter": {"wide": 3}}, ConfigError, "wide"),
        ({"training": {"epochs": 0}}, ConfigError, "epochs"),
        ({"missing": "guess"}, ConfigError, "guess"),
        ({"template": "click"}, DataError, "click"),
    ],
)
def test_bad_migrations_are_refused_with_the_reason(world, settings, error, message):
    with pytest.raises(error, match=message):
        pipeline.migrate(world["ws"], world["source"], world["large"], **settings)


def test_bad_references_are_refused_with_the_reason(world):
    ws = world["ws"]
    with pytest.raises(NotFoundError):
        pipeline.evaluate(ws, "nothing-of-the-kind")
    with pytest.raises(NotFoundError, match="dataset"):
        pipeline.migrate(ws, world["data"].id, world["large"])
    with pytest.raises(MigrationError):
        pipeline.migrate(ws, [], world["large"])
    with pytest.raises(ConfigError, match="two"):
        pipeline.compare(ws, [pipeline.evaluate(ws, world["source"])])
    with pytest.raises(DataError, match="goodbooks"):
        pipeline.import_dataset(ws, "nowhere")


def test_a_failed_stage_is_recorded_and_can_be_repeated(world):
    ws, attempts = world["ws"], []

    def compute(run_id, folder, clock):
        attempts.append(run_id)
        if len(attempts) == 1:
            raise DataError("the first attempt fails")
        return StageResult(summary={"attempt": len(attempts)})

    settings = {"name": "flaky", "config": {"x": 1}, "inputs": {}, "compute": compute}
    with pytest.raises(DataError, match="first attempt"):
        run_stage(ws, "dataset", **settings)
    failed = ws.run(attempts[0])
    assert failed.status == "failed" and "first attempt" in failed.error
    assert run_stage(ws, "dataset", **settings).summary == {"attempt": 2}
    assert run_stage(ws, "dataset", **settings).id == failed.id
    assert len(attempts) == 2


def test_the_measured_seconds_exclude_the_description_of_the_result(world):
    def compute(_run_id, _folder, clock):
        return StageResult(describe=lambda: {"described_at": clock.seconds})

    settings = {"name": "timed", "config": {"timed": 1}, "inputs": {}, "compute": compute}
    run = run_stage(world["ws"], "dataset", **settings)
    assert run.seconds <= run.summary["described_at"]
    assert world["source"].summary["participation_ratio"] >= 1


def test_overall_progress_weights_parts_and_skips_existing_runs(world):
    reports = []
    parts = [Part("one", 20), Part("two", 30), Part("three", 50, measured=False)]
    overall = OverallProgress(parts, reports.append)
    existed = world["source"]
    assert overall.do(0, Execution(), lambda _part: existed) is existed
    assert [part["status"] for part in reports[-1].parts] == ["reused", "waiting", "waiting"]
    assert reports[-1].overall == 0 and reports[-1].unmeasured == pytest.approx(50 / 80)

    def work(part):
        part.progress(StageProgress("training", step=15, total=30, saved_step=10))
        assert (reports[-1].overall, reports[-1].saved_step) == (pytest.approx(15 / 80), 10)
        # Another stage of the same part begins at step 0: the progress of the part does not decrease.
        part.progress(StageProgress("mapping", step=0, total=5))
        assert reports[-1].overall == pytest.approx(15 / 80)
        return replace(existed, finished=now())

    overall.do(1, Execution(progress=reports.append), work)
    assert reports[-1].overall == pytest.approx(30 / 80) and reports[-1].unmeasured == 1
    assert reports[-1].parts[1]["status"] == "finished" and reports[-1].parts[1]["seconds"] >= 0


def test_progress_of_parts_within_a_part_counts_as_its_share():
    reports = []
    outer = OverallProgress([1, 1], reports.append)
    inner = OverallProgress([1, 1], outer.part(0))
    inner.part(1)(StageProgress("second hop", step=1, total=2))
    assert reports[-1].overall == pytest.approx(0.125)
    inner.part(0)(StageProgress("first hop", step=2, total=2))
    assert reports[-1].overall == pytest.approx(0.375)


def test_the_python_api_returns_the_runs_of_the_stages(world):
    from puma_engine import Workbench

    bench = Workbench(world["ws"].root)
    assert bench.fit_prompts(world["data"], world["small"], training=QUICK) == world["source"]
    moved = bench.migrate(world["source"], world["large"], training=QUICK, adapter=SMALL)
    again = bench.fit_prompts(world["data"], world["large"], role="retrained", training=QUICK)
    table = bench.table(bench.compare([bench.evaluate(moved), bench.evaluate(again)]))
    assert {"method", "metric", "value", "difference", "seconds"} <= set(table.columns)


def test_running_out_of_gpu_memory_is_reported_in_one_sentence(tmp_path):
    def compute(_run_id, _folder, _clock):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a")

    ws = Workspace.open(tmp_path / "ws", create=True)
    with pytest.raises(TrainingError, match=r"no memory left \(CUDA out of memory\); use"):
        run_stage(ws, "prompts", name="full", config={}, inputs={}, compute=compute)
    (run,) = ws.runs()
    assert run.status == "failed" and run.error.startswith("The GPU has no memory left")
    ws.close()


def test_a_failed_model_blocks_neither_its_name_nor_that_of_another_model(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    for folder in ("first", "second"):
        (tmp_path / folder / "llama").mkdir(parents=True)
        with pytest.raises(BackboneError):
            pipeline.add_backbone(ws, tmp_path / folder / "llama")
    assert [run.name for run in ws.runs(status="failed")] == ["llama", "llama"]
    # The name of a failed model is also that of a zoo model, which is meant.
    tiny_backbone_folder(tmp_path, "llama")
    monkeypatch.chdir(tmp_path)
    added = backbones.backbone_run(ws, "llama")
    assert added.status == "finished" and added.config["spec"] == str(tmp_path / "llama")
    assert backbones.backbone_run(ws, "llama") == ws.run("llama") == added
