"""Bulk selection: streamed and in-memory selections agree, and memory stays bounded."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.errors import ConfigError, DataError, SelectionError
from puma_engine.exchange.packed import PromptShards
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.files import TensorFile, save_tensors
from puma_engine.selection.clustering import MAX_IN_MEMORY, kmeans, principal_components
from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import select_users
from puma_engine.serving.bulk import SELECTION_FILE, select_stream

LARGE = MAX_IN_MEMORY + 3_000


def tastes(n, width=12, seed=0):
    """Prompts [n, width] in six groups, ids in no order, and each user's variance."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, 6, n)
    centres = generator.normal(0, 3, (6, width))
    vectors = (centres[group] + generator.normal(size=(n, width))).astype(np.float32)
    ids = np.array([f"u{number}" for number in generator.permutation(n)])
    return ids, vectors, generator.random(n), group


def write_shards(folder, ids, vectors, count):
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(ids)), count)):
        block = vectors[rows][:, None]
        meta = {"user_ids": ids[rows].tolist()}
        save_tensors(folder / f"p-{number}.safetensors", {"vectors": block}, meta)
    return folder


def write_signals(path, ids, variance):
    frame = pd.DataFrame({"user_id": ids, "variance": variance})
    frame.sample(frac=1, random_state=1).to_parquet(path)
    return path


@pytest.mark.parametrize("n", [400, LARGE])
def test_a_streamed_selection_equals_the_in_memory_one_for_any_sharding(n, tmp_path):
    ids, vectors, variance, _ = tastes(n)
    expected = select_users("kmeans-variance", Signals(ids, vectors, variance), 200, seed=3)
    table = write_signals(tmp_path / "signals.parquet", ids, variance)
    order = np.random.default_rng(1).permutation(n)
    for count, rows in ((1, order), (5, np.arange(n))):
        source = write_shards(tmp_path / f"in-{count}", ids[rows], vectors[rows], count)
        target = tmp_path / f"out-{count}"
        counts = select_stream(source, target, budget=200, signals=table, seed=3)
        assert (counts["users"], counts["selected"]) == (n, 200)
        chosen = read_prompts(target)
        assert chosen.user_ids == expected.user_ids.tolist()
        rows = pd.Index(ids).get_indexer(chosen.user_ids)
        np.testing.assert_array_equal(chosen.vectors[:, 0], vectors[rows])
        labels = pd.read_parquet(target / SELECTION_FILE).set_index("user_id").loc[ids]
        assert (labels["cluster"].to_numpy() == expected.group["cluster"]).all()
        assert set(labels.index[labels["selected"]]) == set(chosen.user_ids)


def test_mini_batch_clustering_recovers_the_true_groups():
    _, vectors, _, group = tastes(LARGE)
    space = principal_components(vectors, 0)
    assert adjusted_rand_score(group, kmeans(space, 6, 0)) > 0.95
    in_memory = kmeans(space[: MAX_IN_MEMORY // 2], 6, 0)
    assert adjusted_rand_score(group[: MAX_IN_MEMORY // 2], in_memory) > 0.95


def test_components_of_a_sample_span_those_of_all_users():
    generator = np.random.default_rng(0)
    low_rank = generator.normal(size=(LARGE, 4)) @ generator.normal(size=(4, 30))
    values = (low_rank + 0.01 * generator.normal(size=low_rank.shape)).astype(np.float32)
    space = principal_components(values, 0)[:5000]
    centred = values[:5000] - values.mean(0)
    residual = centred - space[:, :4] @ np.linalg.lstsq(space[:, :4], centred, rcond=None)[0]
    assert (residual**2).sum() < 1e-3 * (centred**2).sum()


@pytest.mark.parametrize("n", [20, LARGE])
def test_identical_users_can_be_streamed(n, tmp_path):
    ids = np.arange(n).astype(str)
    source = write_shards(tmp_path / "in", ids, np.ones((n, 4), np.float32), 2)
    counts = select_stream(source, tmp_path / "out", budget=10, strategy="kmeans-pca")
    assert counts["selected"] == 10


def test_memory_is_bounded_by_the_sample_size(tmp_path):
    """A selection from prompts of 109 MB adds less than half of that to the memory in use."""
    ids, vectors, variance, _ = tastes(LARGE, width=512)
    source = write_shards(tmp_path / "in", ids, vectors, 4)
    table = write_signals(tmp_path / "signals.parquet", ids, variance)
    script = """
import resource, sys
from pathlib import Path
from puma_engine.selection import clustering
clustering.SAMPLE = 2048
from puma_engine.serving.bulk import select_stream
import puma_engine.prompts.table, pyarrow.parquet
import sklearn.cluster, sklearn.decomposition
source, target, table = map(Path, sys.argv[1:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
select_stream(source, target, budget=500, signals=table)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out"), str(table)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024
    assert grown < vectors.nbytes / 2


def test_single_rows_are_read_in_the_requested_order(tmp_path):
    ids, vectors, *_ = tastes(50)
    source = write_shards(tmp_path / "in", ids, vectors, 3)
    rows = np.array([49, 0, 17, 16, 33])
    np.testing.assert_array_equal(PromptShards(source).take(rows), vectors[rows])
    file = TensorFile(source / "p-0.safetensors")
    np.testing.assert_array_equal(file.take("vectors", np.array([3, 1]))[:, 0], vectors[[3, 1]])


def test_impossible_streams_are_refused_and_leave_no_files(tmp_path):
    ids, vectors, variance, _ = tastes(40)
    source, target = write_shards(tmp_path / "in", ids, vectors, 2), tmp_path / "out"
    with pytest.raises(ConfigError, match="needs variance of each user"):
        select_stream(source, target, budget=5)
    with pytest.raises(ConfigError, match="cannot be streamed; .*kmeans-variance"):
        select_stream(source, target, budget=5, strategy="ffn-kmeans")
    table = write_signals(tmp_path / "few.parquet", ids[:30], variance[:30])
    with pytest.raises(SelectionError, match="10 users of the shards are not in"):
        select_stream(source, target, budget=5, signals=table)
    with pytest.raises(ConfigError, match="no column loss"):
        select_stream(source, target, budget=5, strategy="kmeans-loss", signals=table)
    with pytest.raises(ConfigError, match="reads prompts alone, and no signals"):
        select_stream(source, target, budget=5, strategy="random", signals=table)
    with pytest.raises(SelectionError, match="takes all 40 users, not 5"):
        select_stream(source, target, budget=5, strategy="all")
    with pytest.raises(SelectionError, match="'random' forms no strata"):
        select_stream(source, target, budget=5, strategy="random", strata=3)
    with pytest.raises(SelectionError, match="from 1 to the 40 users"):
        select_stream(source, target, budget=41, strategy="random")
    save_tensors(source / "p-2.safetensors", {"vectors": vectors[:1, None]}, {"user_ids": ["u3"]})
    with pytest.raises(DataError, match="'u3' occurs twice"):
        select_stream(source, target, budget=5, strategy="random")
    save_tensors(source / "p-2.safetensors", {"vectors": vectors[:1, None]})
    with pytest.raises(DataError, match="does not name the user of each row"):
        select_stream(source, target, budget=5, strategy="random")
    save_tensors(
        source / "p-2.safetensors", {"vectors": vectors[:1, None] * np.nan}, {"user_ids": ["x"]}
    )
    with pytest.raises(DataError, match="NaN"):
        select_stream(source, target, budget=5, strategy="kmeans-pca")
    assert not target.exists() and not list(tmp_path.glob(".*"))


def test_the_command_prints_counts(tmp_path):
    ids, vectors, variance, _ = tastes(60)
    source = write_shards(tmp_path / "in", ids, vectors, 2)
    table = write_signals(tmp_path / "signals.parquet", ids, variance)
    command = ["--json", "select-stream", str(source), str(tmp_path / "out")]
    # --groups is the old name of --strata.
    options = ["--budget", "7", "--signals", str(table), "--groups", "3"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["selected"] == 7
