"""Mapping of shards on a Ray cluster: the files of one machine, also when a node is lost."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from ray_clusters import ray_cluster
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.config import AdapterConfig
from puma_engine.errors import Cancelled, MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
from puma_engine.files import save_tensors
from puma_engine.jobs.cluster import Cluster
from puma_engine.migration.adapter import Adapter
from puma_engine.pipeline import Execution
from puma_engine.serving.bulk import migrate_stream
from puma_engine.serving.cluster_bulk import NodeMapper, ShardsOnCluster
from puma_engine.serving.mapper import Mapper

SHARDS, ROWS = 6, 40


def adapter_file():
    network = Adapter(8, 12, AdapterConfig(hidden=16), generator=torch.Generator().manual_seed(0))
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    return AdapterFile(tensors, {"d_in": 8, "d_out": 12, "hidden": 16, "depth": 4, "dropout": 0.1})


@pytest.fixture(scope="module")
def ray():
    with ray_cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def mapper():
    return Mapper(adapter_file(), "cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    rng, index = np.random.default_rng(0), []
    for number in range(SHARDS):
        name, ids = f"p-{number}.safetensors", [f"u{number}-{row}" for row in range(ROWS)]
        block = rng.normal(size=(ROWS, 2, 8)).astype(np.float32)
        save_tensors(folder / name, {"vectors": block}, {"user_ids": ids})
        index.append(pd.DataFrame({"user_id": ids, "shard": name, "row": range(ROWS)}))
    pd.concat(index).to_parquet(folder / "index.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def plain(mapper, source, tmp_path_factory):
    """The files that one machine makes, by name."""
    target = tmp_path_factory.mktemp("plain")
    migrate_stream(mapper, source, target, chunk_rows=16)
    return contents(target)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_lost_node_changes_no_file_and_a_second_call_maps_nothing(
    ray, mapper, source, plain, tmp_path
):
    seen, lost = [], []

    def report(name, finished, total):
        seen.append((name, finished, total))
        if finished == 1 and not lost:
            # Both nodes map now; the shard that this one has comes back to the others.
            lost.append(next(iter(ray.worker_nodes)))
            ray.remove_node(lost[0], allow_graceful=False)

    with Cluster(ray.address) as cluster:
        mapping = ShardsOnCluster(cluster, mapper, Execution())
        result = migrate_stream(
            mapper, source, tmp_path / "out", chunk_rows=16, report=report, map_shards=mapping
        )
        again = migrate_stream(mapper, source, tmp_path / "out", map_shards=mapping)
    ray.add_node(num_cpus=1)
    assert lost and (result["users"], result["skipped"]) == (SHARDS * ROWS, 0)
    assert {name for name, *_ in seen} == {f"p-{number}.safetensors" for number in range(SHARDS)}
    assert contents(tmp_path / "out") == plain
    assert (again["users"], again["skipped"]) == (0, SHARDS)


def test_a_cancelled_mapping_goes_on_at_the_first_unfinished_shard(
    ray, mapper, source, plain, tmp_path
):
    finished = []

    with Cluster(ray.address) as cluster:
        mapping = ShardsOnCluster(cluster, mapper, Execution(), actors=1)
        with pytest.raises(Cancelled, match="run it again to go on"):
            migrate_stream(
                mapper,
                source,
                tmp_path / "out",
                chunk_rows=16,
                report=lambda _name, done, _total: finished.append(done),
                should_cancel=lambda: len(finished) == 3,
                map_shards=mapping,
            )
    kept = contents(tmp_path / "out")
    assert len(kept) == 3 and kept.items() <= plain.items()
    assert migrate_stream(mapper, source, tmp_path / "out", chunk_rows=16)["skipped"] == 3
    assert contents(tmp_path / "out") == plain


def test_the_command_maps_on_a_cluster(ray, source, plain, tmp_path):
    write_adapter(tmp_path / "adapter", adapter_file(), "A card.")
    words = ["migrate-stream", source, tmp_path / "out", "--adapter", tmp_path / "adapter"]
    words += ["--chunk-rows", 16, "--on", ray.address, "--json"]
    ended = CliRunner().invoke(app, [str(word) for word in words])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["users"] == SHARDS * ROWS
    assert contents(tmp_path / "out") == plain


def test_folders_that_a_node_does_not_see_and_actors_without_a_cluster_are_refused(tmp_path):
    node = NodeMapper(adapter_file(), "cpu")
    task = {"shard": str(tmp_path / "a.safetensors"), "made": str(tmp_path / "b.safetensors")}
    with pytest.raises(MigrationError, match="storage that all nodes of the cluster share"):
        node.map(task | {"origin": "x", "chunk_rows": 4})
    words = [
        "migrate-stream",
        str(tmp_path),
        str(tmp_path / "out"),
        "--adapter",
        "x",
        "--actors",
        "2",
    ]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 1 and "name it with --on" in ended.stderr
