"""Evaluation of shards: the numbers of an evaluation run, and intervals in closed form."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored_shards import scored_shards
from typer.testing import CliRunner

from puma_engine import pipeline
from puma_engine.cli import app
from puma_engine.errors import Cancelled, DataError, MigrationError
from puma_engine.evaluation import metrics
from puma_engine.evaluation.streamed_metrics import intervals, user_sums
from puma_engine.exchange.prompt_formats import write_parquet
from puma_engine.serving.bulk_evaluation import SUMMARY, evaluate_stream


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return scored_shards(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def evaluated(world):
    """The evaluation run of all prompts, and its table of users."""
    run = pipeline.evaluate(world.ws, world.moved, device="cpu")
    return run, world.ws.get_table(run.id, "user_metrics").set_index("user_id")


def scores(folder):
    frames = [pd.read_parquet(file) for file in folder.glob("scores-*")]
    return pd.concat(frames).set_index("user_id")


@pytest.mark.parametrize("kind", ["tensors", "parquet"])
def test_scores_of_shards_are_those_of_an_evaluation(world, evaluated, tmp_path, kind):
    run, users = evaluated
    source = world.shards
    if kind == "parquet":
        source = tmp_path / "in"
        source.mkdir()
        write_parquet(source / "a.parquet", world.prompts, {})
    result = evaluate_stream(world.ws, source, tmp_path / "out", "moved", device="cpu")
    assert (result["users"], result["rows"]) == (run.summary["users"], run.summary["rows"])
    assert result["shards"] == (5 if kind == "tensors" else 1)
    assert (result["skipped"], result["rows_without_prompt"]) == (0, 0)
    for name, value in run.summary["metrics"].items():
        assert result["metrics"][name]["value"] == pytest.approx(value, rel=1e-5), name
    actual = scores(tmp_path / "out").loc[users.index, list(users.columns)]
    pd.testing.assert_frame_equal(actual, users, check_dtype=False, rtol=1e-5)
    stored = json.loads((tmp_path / "out" / SUMMARY).read_text())
    assert stored == {name: result[name] for name in stored}


def test_a_stopped_evaluation_goes_on_at_the_first_shard_without_scores(world, tmp_path):
    seen, target = [], tmp_path / "out"
    with pytest.raises(Cancelled, match="run it again"):
        evaluate_stream(
            *(world.ws, world.shards, target, "moved"),
            device="cpu",
            report=lambda name, done, total: seen.append((name, done, total)),
            should_cancel=lambda: len(seen) == 2,
        )
    assert [done for _, done, _ in seen] == [0, 1] and len(list(target.glob("scores-*"))) == 2
    times = {file: file.stat().st_mtime_ns for file in target.glob("scores-*")}
    result = evaluate_stream(world.ws, world.shards, target, "moved", device="cpu")
    assert result["skipped"] == 2 and all(f.stat().st_mtime_ns == t for f, t in times.items())
    uninterrupted = evaluate_stream(
        world.ws, world.shards, tmp_path / "whole", "moved", device="cpu"
    )
    assert {**uninterrupted, "skipped": 2} == result


def test_rows_without_a_prompt_are_counted_and_other_folders_refused(world, tmp_path):
    subset = tmp_path / "few"
    subset.mkdir()
    first = sorted(world.shards.glob("prompts-*"))[0]
    (subset / first.name).write_bytes(first.read_bytes())
    result = evaluate_stream(world.ws, subset, tmp_path / "out", "moved", device="cpu")
    assert result["users"] == 5 and result["rows_without_prompt"] > 0
    with pytest.raises(MigrationError, match="is of another evaluation"):
        evaluate_stream(world.ws, subset, tmp_path / "out", "moved", split="train", device="cpu")
    (subset / "again.safetensors").write_bytes(first.read_bytes())
    with pytest.raises(DataError, match="occurs twice in"):
        evaluate_stream(world.ws, subset, tmp_path / "two", "moved", device="cpu")
    others = dataclasses.replace(
        world.prompts, user_ids=np.char.add("new-", world.prompts.user_ids.astype(str))
    )
    (tmp_path / "new").mkdir()
    write_parquet(tmp_path / "new" / "a.parquet", others, {})
    with pytest.raises(DataError, match="No user of the shards"):
        evaluate_stream(world.ws, tmp_path / "new", tmp_path / "none", "moved", device="cpu")
    wide = pa.table({"user_id": world.prompts.user_ids.tolist()})
    wide = wide.append_column(
        "vector", pa.array([[0.0] * 7] * len(wide), pa.list_(pa.float32(), 7))
    )
    (tmp_path / "wide").mkdir()
    pq.write_table(wide, tmp_path / "wide" / "a.parquet")
    with pytest.raises(DataError, match="width 7 came in a.parquet, and the model reads 48"):
        evaluate_stream(world.ws, tmp_path / "wide", tmp_path / "bad", "moved", device="cpu")


def test_the_command_evaluates_shards(world, tmp_path):
    arguments = [
        "evaluate-stream",
        world.shards,
        tmp_path / "out",
        "--like",
        "moved",
        "--device",
        "cpu",
    ]
    arguments += ["--workspace", world.ws.root, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["shards"] == 5


@pytest.mark.parametrize("task", ["rating", "click"])
def test_sums_over_parts_give_the_metrics_of_all_and_intervals_near_the_bootstrap(task):
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(3000), rng.integers(1, 9, 3000)).astype(str)
    y = rng.integers(1, 6, len(users)) if task == "rating" else rng.integers(0, 2, len(users))
    p = y + rng.normal(size=len(y)) if task == "rating" else rng.uniform(0.05, 0.95, len(y))
    frame = metrics.per_user(task, y, p, users)
    parts = [user_sums(task, frame[start::7]) for start in range(7)]
    actual = intervals({name: np.sum([part[name] for part in parts], 0) for name in parts[0]})
    bootstrapped = metrics.bootstrap(task, y, [p], users, names=list(actual), draws=1000)[0]
    assert set(actual) == set(metrics.metrics_of(task)) - {"auc"}
    for name, interval in actual.items():
        expected = bootstrapped[name].interval
        assert interval.value == pytest.approx(expected.value, rel=1e-9)
        assert interval.n_users == expected.n_users
        width = expected.high - expected.low
        assert interval.low == pytest.approx(expected.low, abs=0.1 * width), name
        assert interval.high == pytest.approx(expected.high, abs=0.1 * width), name
