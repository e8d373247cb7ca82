"""Bulk work on a Ray cluster: the same files as on one machine, also when nodes, actors and drivers are lost."""

import importlib.metadata
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import waiting_shards
from command_line import puma
from lost_work import LostWork, PatientWork
from ray_clusters import ray_cluster
from scored_shards import scored_shards
from shard_folders import parquet_shards, tensor_shards
from typer.testing import CliRunner
from waiting import wait_for
from waiting_shards import COMMANDS, SELECTING, use_waiting_work

from puma_engine.cli import app
from puma_engine.config import AdapterConfig
from puma_engine.errors import Cancelled, JobError, MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
from puma_engine.jobs import cluster_stream
from puma_engine.jobs.cluster import Cluster
from puma_engine.migration.adapter import Adapter
from puma_engine.pipeline import Execution
from puma_engine.selection import clustering
from puma_engine.serving.bulk import migrate_stream, select_stream
from puma_engine.serving.bulk_evaluation import SUMMARY, evaluate_stream
from puma_engine.serving.cluster_bulk import ShardMapping, ShardsOnCluster
from puma_engine.serving.mapper import Mapper

SHARDS, ROWS, NODES = 6, 40, 2
KINDS = {"tensors": tensor_shards, "parquet": parquet_shards}
# Names of the files that a command writes for a shard.
OUTPUTS = {"migrate": "p-*", "select": "no file", "evaluate": "scores-*"}
# How many shards were done when the driver was killed, a node was lost, and the command was cancelled.
KILLED_AT, LOST_AT, CANCELLED_AT = 2, 3, 4


def adapter_file():
    network = Adapter(8, 12, AdapterConfig(hidden=16), generator=torch.Generator().manual_seed(0))
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    return AdapterFile(tensors, {"d_in": 8, "d_out": 12, "hidden": 16, "depth": 4, "dropout": 0.1})


@pytest.fixture(scope="module")
def ray():
    with ray_cluster(NODES, cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(ray):
    with Cluster(ray.address) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def mapper():
    return Mapper(adapter_file(), "cpu")


@pytest.fixture(scope="module")
def world(mapper, tmp_path_factory):
    """A folder for each command, with its shards, and what one machine makes of them in `here`."""
    root = tmp_path_factory.mktemp("commands")
    folders = {name: root / name for name in COMMANDS}
    for name in ("migrate", "select"):
        folders[name].mkdir()
        parquet_shards(folders[name] / "in", SHARDS, ROWS)
    write_adapter(folders["migrate"] / "adapter", adapter_file(), "A card.")
    here = folders["migrate"]
    migrate_stream(mapper, f"shared://{here / 'in'}", here / "here", chunk_rows=16)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in waiting_shards.LARGE.items():
            patch.setattr(clustering, name, value)
        here = folders["select"]
        select_stream(here / "in", here / "here", **SELECTING)
    folders["evaluate"].mkdir()
    scored = scored_shards(folders["evaluate"])
    scored.shards.rename(folders["evaluate"] / "in")
    here = folders["evaluate"]
    expected = evaluate_stream(scored.ws, here / "in", here / "here", "moved", device="cpu")
    names = {
        name: sorted(file.name for file in (folder / "in").glob("p*.[ps]*"))
        for name, folder in folders.items()
    }
    return SimpleNamespace(root=root, folders=folders, names=names, scores=expected)


@pytest.fixture(scope="module")
def killed(ray, world):
    """All commands in one process, which is killed in the middle of each."""
    for name, folder in world.folders.items():
        for shard in world.names[name][KILLED_AT:]:
            (folder / f"held-{shard}").touch()
    command = [sys.executable, waiting_shards.__file__, world.root, ray.address]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def in_the_middle():
        assert running.poll() is None
        return all(
            (folder / f"began-{world.names[name][KILLED_AT]}").exists()
            for name, folder in world.folders.items()
        )

    wait_for(in_the_middle)
    assert len(actors(ray)) == len(COMMANDS)
    running.send_signal(signal.SIGKILL)
    running.wait()
    # Actors end with their driver.
    wait_for(lambda: not actors(ray))


def actors(ray):
    """Return the processes that work on shards on this cluster."""
    nodes = {node.all_processes["raylet"][0].process.pid for node in ray.worker_nodes}
    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::MapWorker")
        and process.info["ppid"] in nodes
    ]


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name[0] != "."}


def times(folder, pattern):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob(pattern)}


def release(folder, shards):
    """Release some shards, and remove the records of where their work began."""
    for file in folder.glob("began-*"):
        file.unlink()
    for shard in shards:
        (folder / f"held-{shard}").unlink(missing_ok=True)


def lose_node(ray, folder, shard):
    """Kill the node that works on a shard, and release the shard for another node."""
    at = wait_for(lambda: (began := folder / f"began-{shard}").exists() and began.read_text())
    (node,) = (node for node in ray.worker_nodes if node.node_id == at)
    ray.remove_node(node, allow_graceful=False)
    release(folder, [shard])


@pytest.mark.parametrize("name", COMMANDS)
def test_files_equal_those_of_one_machine_after_a_kill_a_lost_node_and_a_cancel(
    ray, cluster, world, killed, monkeypatch, name
):
    use_waiting_work(monkeypatch.setattr)
    if len(ray.worker_nodes) < NODES:
        ray.add_node(num_cpus=2)
    folder, shards, target = world.folders[name], world.names[name], world.folders[name] / "out"
    at_kill = times(target, OUTPUTS[name])
    release(folder, shards[:LOST_AT])
    losing = threading.Thread(target=lose_node, args=(ray, folder, shards[LOST_AT]))
    losing.start()
    held, seen = folder / f"began-{shards[CANCELLED_AT]}", []

    def should_cancel():
        # A selection reports nothing.
        return held.exists() and (name == "select" or seen)

    with pytest.raises(Cancelled, match="Cancelled before"):
        COMMANDS[name](
            folder,
            cluster,
            Execution(None, None, should_cancel),
            report=lambda shard, done, total: seen.append((shard, done, total)),
        )
    losing.join()
    assert len(ray.worker_nodes) == NODES - 1
    # An actor that still ran could go on with the shard that was held.
    wait_for(lambda: not actors(ray))
    release(folder, shards)
    at_cancel = times(target, OUTPUTS[name])
    if name == "select":
        assert not target.exists()
    else:
        assert (len(at_kill), len(at_cancel)) == (KILLED_AT, CANCELLED_AT)
        assert not (target / SUMMARY).exists()
        # Finished shards are not repeated, and the others are reported once.
        assert at_kill.items() <= at_cancel.items()
        expected = [
            (shard, number + 1, len(shards))
            for number, shard in enumerate(shards)
            if KILLED_AT <= number < CANCELLED_AT
        ]
        assert seen and seen == expected[: len(seen)]
    report = FINISH[name](world, folder, ["--on", ray.address, "--actors", 1])
    assert at_cancel.items() <= times(target, OUTPUTS[name]).items()
    if name != "select":
        assert (report["shards"], report["skipped"]) == (len(shards), CANCELLED_AT)


def finish_migration(_world, folder, on):
    words = ["migrate-stream", f"shared://{folder / 'in'}", f"shared://{folder / 'out'}"]
    report = puma(None, *words, "--adapter", folder / "adapter", "--chunk-rows", 16, *on)
    assert report["users"] == (SHARDS - CANCELLED_AT) * ROWS
    actual, expected = (contents(folder / name) for name in ("out", "here"))
    assert actual.keys() - {"stream.json"} == expected.keys() - {"stream.json"}
    assert all(actual[name] == expected[name] for name in expected.keys() - {"stream.json"})
    return report


def finish_selection(_world, folder, on):
    # If shards are not on a disk, nodes read the chosen users, too.
    words = ["select-stream", f"shared://{folder / 'in'}", folder / "out"]
    for option, value in SELECTING.items():
        words += [f"--{option.replace('_', '-')}", value]
    report = puma(None, *words, *on)
    assert (report["users"], report["selected"]) == (SHARDS * ROWS, SELECTING["budget"])
    assert contents(folder / "out") == contents(folder / "here")
    return report


def finish_evaluation(world, folder, _on):
    # One machine continues the work of nodes.
    words = ["evaluate-stream", folder / "in", folder / "out", "--like", "moved"]
    report = puma(None, *words, "-w", folder / "workspace", "--device", "cpu")
    # Sums of floats depend on the number of threads, which a node chooses.
    for name, value in world.scores.items():
        if name not in ("metrics", "skipped"):
            assert report[name] == value, name
    for name, metric in world.scores["metrics"].items():
        assert report["metrics"][name] == pytest.approx(metric, rel=1e-5), name
    actual, expected = (read_scores(folder / name) for name in ("out", "here"))
    pd.testing.assert_frame_equal(actual, expected, rtol=1e-5)
    return report


FINISH = {"migrate": finish_migration, "select": finish_selection, "evaluate": finish_evaluation}


def read_scores(folder):
    frames = [pd.read_parquet(file) for file in sorted(folder.glob("scores-*"))]
    return pd.concat(frames, ignore_index=True)


def test_two_mappings_at_once_in_a_full_object_store(cluster, mapper, tmp_path):
    import ray

    # The store of a simulated node has 150 MiB.
    objects = [ray.put(np.zeros(40 << 20, np.uint8)) for _ in range(4)]
    sources = {kind: write(tmp_path / kind, SHARDS, ROWS) for kind, write in KINDS.items()}

    def mapped(kind):
        mapping = ShardsOnCluster(cluster, mapper, Execution(), actors=1)
        arguments = {"chunk_rows": 16, "map_shards": mapping}
        return migrate_stream(mapper, sources[kind], tmp_path / f"{kind}-there", **arguments)

    with ThreadPoolExecutor(2) as pool:
        assert [result["users"] for result in pool.map(mapped, KINDS)] == [SHARDS * ROWS] * 2
    for kind, source in sources.items():
        migrate_stream(mapper, source, tmp_path / f"{kind}-here", chunk_rows=16)
        actual, expected = (contents(tmp_path / f"{kind}-{place}") for place in ("there", "here"))
        assert actual == expected
    assert len(objects) == 4


def test_other_versions_are_refused_before_anything_is_done(cluster, mapper, tmp_path, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "ray" else version(name)
    )
    source = tensor_shards(tmp_path / "in", 1, ROWS)
    mapping = ShardsOnCluster(cluster, mapper, Execution())
    with pytest.raises(JobError, match=r"other versions .*ray .* there and 9\.9 here"):
        migrate_stream(mapper, source, tmp_path / "out", map_shards=mapping)
    assert contents(tmp_path / "out") == {}


def test_a_piece_whose_process_is_lost_is_repeated_a_limited_number_of_times(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster_stream, "MAX_LOST", 1)
    pieces = [{"file": str(tmp_path / f"lost-{times}"), "times": times} for times in (1, 2)]
    results = []
    with pytest.raises(JobError, match=r"was lost each time .*memory of the nodes"):
        for finished in cluster_stream.stream(cluster, LostWork, (), pieces, Execution(), actors=1):
            results.append(finished)
    assert results == [(0, b"done")]
    assert [len((tmp_path / f"lost-{times}").read_text()) for times in (1, 2)] == [2, 2]


def test_a_finished_piece_comes_back_while_the_next_one_is_done(cluster, tmp_path):
    files = [None, str(tmp_path / "first"), str(tmp_path / "second")]
    pieces = [{"file": file} for file in files]
    done = []
    for number, value in cluster_stream.stream(
        cluster, PatientWork, (), pieces, Execution(), actors=1
    ):
        done.append((number, value))
        # The piece that is being done now waits for this.
        if number + 1 < len(files):
            Path(files[number + 1]).touch()
    assert done == [(0, b"done"), (1, b"done"), (2, b"done")]


def test_folders_that_a_node_cannot_read_and_actors_without_a_cluster_are_refused(tmp_path):
    node = ShardMapping(adapter_file(), "cpu")
    task = {"source": str(tmp_path), "target": str(tmp_path / "b"), "name": "a.safetensors"}
    with pytest.raises(MigrationError, match="all nodes of the cluster share"):
        node.do(task | {"origin": "x", "chunk_rows": 4, "dtype": "float32"})
    arguments = ["migrate-stream", tmp_path, tmp_path / "out", "--adapter", "x", "--actors", "2"]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 1 and "name it with --on" in result.stderr
