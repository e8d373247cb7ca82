"""Mapping of shards on a Ray cluster: the files of one machine, also when nodes, actors and drivers are lost."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from job_helpers import wait_for
from ray_clusters import ray_cluster
from scored_shards import scored_shards
from shard_folders import parquet_shards, tensor_shards
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.config import AdapterConfig
from puma_engine.errors import Cancelled, JobError, MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
from puma_engine.exchange.packed import PromptShards
from puma_engine.exchange.storage import folder_of
from puma_engine.jobs import cluster_stream
from puma_engine.jobs.cluster import Cluster
from puma_engine.migration.adapter import Adapter
from puma_engine.pipeline import Execution
from puma_engine.selection import clustering
from puma_engine.serving.bulk import migrate_stream, select_stream
from puma_engine.serving.bulk_evaluation import evaluate_stream, scores_of
from puma_engine.serving.cluster_bulk import (
    PromptsOnCluster,
    ShardMapping,
    ShardsOnCluster,
    ShardsScoredOnCluster,
)
from puma_engine.serving.mapper import Mapper

SHARDS, ROWS, NODES = 6, 40, 3
KINDS = {"tensors": tensor_shards, "parquet": parquet_shards}


def adapter_file():
    network = Adapter(8, 12, AdapterConfig(hidden=16), generator=torch.Generator().manual_seed(0))
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    return AdapterFile(tensors, {"d_in": 8, "d_out": 12, "hidden": 16, "depth": 4, "dropout": 0.1})


@pytest.fixture(scope="module")
def ray():
    with ray_cluster(NODES) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(ray):
    with Cluster(ray.address) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def mapper():
    return Mapper(adapter_file(), "cpu")


@pytest.fixture(scope="module")
def folders(mapper, tmp_path_factory):
    """The shards of each kind, and the files that one machine makes of them, by name."""
    made = {}
    for kind, write in KINDS.items():
        source = write(tmp_path_factory.mktemp(kind) / "in", SHARDS, ROWS)
        migrate_stream(mapper, source, source.parent / "out", chunk_rows=16)
        made[kind] = source, contents(source.parent / "out")
    return made


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name[0] != "."}


def times(folder, pattern="p-*"):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob(pattern)}


def lose_node(ray):
    ray.remove_node(next(iter(ray.worker_nodes)), allow_graceful=False)


def kill_actor(ray):
    """Kill the process of one actor of this cluster, as the system does where memory runs out."""
    nodes = {node.all_processes["raylet"][0].process.pid for node in ray.worker_nodes}
    actors = [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::MapWorker")
        and process.info["ppid"] in nodes
    ]
    actors[0].kill()


@pytest.mark.parametrize("lose", [lose_node, kill_actor])
def test_a_lost_actor_or_node_changes_no_file_and_no_shard_is_mapped_twice(
    ray, cluster, mapper, folders, tmp_path, lose
):
    source, plain = folders["parquet"]
    target, seen, finished = tmp_path / "out", [], {}

    def report(*args):
        seen.append(args)
        if len(seen) == 1:
            # What is there and was not reported may be of the lost node, and made again.
            finished[args[0]] = times(target)[args[0]]
            lose(ray)

    mapping = ShardsOnCluster(cluster, mapper, Execution())
    arguments = {"chunk_rows": 16, "map_shards": mapping}
    result = migrate_stream(mapper, source, target, report=report, **arguments)
    again = migrate_stream(mapper, source, target, **arguments)
    if lose is lose_node:
        ray.add_node(num_cpus=1)
    assert (result["users"], result["skipped"]) == (SHARDS * ROWS, 0)
    assert [done for _, done, _ in seen] == list(range(1, SHARDS + 1))
    assert len({name for name, *_ in seen}) == SHARDS
    assert finished and finished.items() <= times(target).items()
    assert contents(target) == plain
    assert (again["users"], again["skipped"]) == (0, SHARDS)


def test_a_cancelled_mapping_goes_on_at_the_first_unfinished_shard(
    cluster, mapper, folders, tmp_path
):
    source, plain = folders["tensors"]
    target, finished = tmp_path / "out", []
    execution = Execution(None, None, lambda: len(finished) >= 2)
    mapping = ShardsOnCluster(cluster, mapper, execution, actors=1)
    with pytest.raises(Cancelled, match="Cancelled before the rest"):
        migrate_stream(
            mapper,
            source,
            target,
            chunk_rows=16,
            report=lambda name, *_: finished.append(name),
            map_shards=mapping,
        )
    assert set(finished) <= set(contents(target))
    result = migrate_stream(mapper, source, target, chunk_rows=16)
    assert result["skipped"] >= 2 and contents(target) == plain


def test_a_killed_command_goes_on_at_the_first_unfinished_shard_of_storage(ray, folders, tmp_path):
    source, plain = folders["parquet"]
    target = tmp_path / "out"
    write_adapter(tmp_path / "adapter", adapter_file(), "A card.")
    words = ["migrate-stream", f"shared://{source}", f"shared://{target}"]
    words += ["--adapter", tmp_path / "adapter", "--chunk-rows", 16, "--json"]
    words = [str(word) for word in words]
    command = [sys.executable, "-m", "puma_engine.cli", *words, "--on", ray.address]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(target.glob("p-*")))
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = times(target)
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    result = json.loads(ended.stdout)
    assert result["skipped"] >= len(before) and result["shards"] == SHARDS
    assert before.items() <= times(target).items()
    assert contents(target).keys() - {"stream.json"} == plain.keys()
    # What a shard says of its input differs: storage has other versions of files than a disk.
    for name in plain:
        assert pq.read_table(target / name).equals(pq.read_table(source.parent / "out" / name))


def test_two_mappings_at_once_in_a_full_object_store(cluster, mapper, folders, tmp_path):
    import ray

    # The store of a simulated node has 150 MiB.
    others = [ray.put(np.zeros(40 << 20, np.uint8)) for _ in range(4)]

    def mapped(kind):
        mapping = ShardsOnCluster(cluster, mapper, Execution())
        arguments = {"chunk_rows": 16, "map_shards": mapping}
        return migrate_stream(mapper, folders[kind][0], tmp_path / kind, **arguments)["users"]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(mapped, KINDS)) == [SHARDS * ROWS] * 2
    for kind, (_, plain) in folders.items():
        assert contents(tmp_path / kind) == plain
    assert len(others) == 4


def test_other_versions_are_refused_before_anything_is_done(
    cluster, mapper, folders, tmp_path, monkeypatch
):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "ray" else version(name)
    )
    mapping = ShardsOnCluster(cluster, mapper, Execution())
    with pytest.raises(JobError, match=r"other versions .*ray .* there and 9\.9 here"):
        migrate_stream(mapper, folders["tensors"][0], tmp_path / "out", map_shards=mapping)
    assert contents(tmp_path / "out") == {}


def test_a_piece_that_ends_its_process_each_time_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_stream, "MAX_LOST", 1)
    pieces = [{"file": str(tmp_path / "tries")}]
    with pytest.raises(JobError, match=r"was lost each time .*memory of the nodes"):
        list(cluster_stream.stream(cluster, Deadly, (), pieces, Execution()))
    assert (tmp_path / "tries").read_text() == ".."


class Deadly:
    """Work that ends its process."""

    def do(self, piece):
        with Path(piece["file"]).open("a") as file:
            file.write(".")
        os.kill(os.getpid(), signal.SIGKILL)


class LosingNode(PromptsOnCluster):
    """Prompts that nodes read, one of which is lost behind the first shard."""

    def __init__(self, *arguments, ray, **options):
        super().__init__(*arguments, **options)
        self.ray = ray

    def projected_shards(self, *arguments):
        for number, part in super().projected_shards(*arguments):
            if self.ray is not None:
                lose_node(self.ray)
                self.ray = None
            yield number, part


def test_users_that_nodes_read_are_selected_as_by_one_machine_also_where_one_is_lost(
    ray, cluster, folders, tmp_path, monkeypatch
):
    source, options = folders["parquet"][0], {"budget": 30, "strategy": "kmeans-pca"}
    options |= {"clusters": 3, "min_cluster": 1}
    # As of a large table: components of a sample, and mini-batches.
    monkeypatch.setattr(clustering, "MAX_IN_MEMORY", 100)
    monkeypatch.setattr(clustering, "SAMPLE", 64)
    select_stream(source, tmp_path / "here", **options)
    opened = partial(LosingNode, cluster=cluster, execution=Execution(), ray=ray)
    select_stream(source, tmp_path / "there", **options, open_prompts=opened)
    assert len(ray.worker_nodes) == NODES - 1
    ray.add_node(num_cpus=1)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    # Single users are read by nodes where the shards are not on a disk.
    rows = np.array([SHARDS * ROWS - 1, 3, 77])
    prompts = PromptsOnCluster(folder_of(f"shared://{source}"), cluster, Execution())
    np.testing.assert_array_equal(prompts.take(rows), PromptShards(source).take(rows))


def test_scores_that_nodes_compute_are_those_of_one_machine_also_where_one_is_lost(
    ray, cluster, tmp_path
):
    world = scored_shards(tmp_path)
    arguments = (world.ws, world.shards)
    here = evaluate_stream(*arguments, tmp_path / "here", "moved", device="cpu")
    scored, begun, finished = ShardsScoredOnCluster(cluster, Execution()), [], []

    def report(name, done, _total):
        begun.append((name, done))
        if len(begun) == 1:
            finished.append(times(tmp_path / "there", scores_of(name)))
            lose_node(ray)

    there = evaluate_stream(
        *arguments, tmp_path / "there", "moved", do_pieces=scored, report=report
    )
    ray.add_node(num_cpus=1)
    # No shard is counted twice, and none that was reported is scored again.
    assert [done for _, done in begun] == list(range(1, there["shards"] + 1))
    assert len(dict(begun)) == there["shards"]
    assert finished == [times(tmp_path / "there", scores_of(begun[0][0]))]
    # The sums of a float depend on the number of threads, and a node takes its own.
    assert list(there) == list(here)
    for name, value in here.items():
        if name != "metrics":
            assert there[name] == value, name
    for name, metric in here["metrics"].items():
        assert there["metrics"][name] == pytest.approx(metric, rel=1e-5), name
    ours, theirs = (read_scores(tmp_path / name) for name in ("here", "there"))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)
    again = evaluate_stream(*arguments, tmp_path / "there", "moved", do_pieces=scored)
    assert again == there | {"skipped": there["shards"]}


def read_scores(folder):
    frames = [pd.read_parquet(file) for file in sorted(folder.glob("scores-*"))]
    return pd.concat(frames, ignore_index=True)


def test_folders_that_a_node_does_not_see_and_actors_without_a_cluster_are_refused(tmp_path):
    node = ShardMapping(adapter_file(), "cpu")
    task = {"source": str(tmp_path), "target": str(tmp_path / "b"), "name": "a.safetensors"}
    with pytest.raises(MigrationError, match="all nodes of the cluster share"):
        node.do(task | {"origin": "x", "chunk_rows": 4, "dtype": "float32"})
    words = ["migrate-stream", tmp_path, tmp_path / "out", "--adapter", "x", "--actors", "2"]
    ended = CliRunner().invoke(app, [str(word) for word in words])
    assert ended.exit_code == 1 and "name it with --on" in ended.stderr
