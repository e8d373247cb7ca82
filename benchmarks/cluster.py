"""Users a second that a Ray cluster of simulated nodes maps, against the plain stream and its limits.

    python benchmarks/cluster.py --users 1000 100000 --actors 1 2 --folder /a/large/disk

Starts a head node and a node of one CPU for each actor on this machine, writes prompts of --shape's first
width as shards of 5,000 users, and maps them with `puma migrate-stream` in one process and on the
cluster, one thread each. "seconds" is the mapping; "total_seconds" has the start of the process, or of the
actors, too. The limits are the adapter on prompts in memory, and writing what it makes to the disk. Peak
memory is the largest resident size of one process or actor, with all libraries. All share the cores and
the disk of one machine, so rates say what Ray costs here, and not how a cluster scales.
Writes benchmarks/results/cluster.json.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import scale
from provenance import machine, measured, provenance, write_results
from serving import make_adapter

RESULTS = Path(__file__).parent / "results" / "cluster.json"
SHARD = 5_000
LIMIT_ROWS = 4096
ACTOR = "ray::MapWorker"


def plain(folder: Path, target: Path, adapter: Path) -> dict[str, Any]:
    """Map everybody in this process; return what the stream says of it."""
    from puma_engine.serving.bulk import migrate_stream
    from puma_engine.serving.mapper import Mapper, adapter_of

    return migrate_stream(Mapper(adapter_of(None, str(adapter)), "cpu"), folder, target)


def on_cluster(
    address: str, folder: Path, target: Path, adapter: Path, actors: int
) -> dict[str, Any]:
    """Map everybody with actors of a cluster; return what the stream says of it."""
    from puma_engine.jobs.cluster import Cluster
    from puma_engine.pipeline.stage import Execution
    from puma_engine.serving.bulk import migrate_stream
    from puma_engine.serving.cluster_bulk import ShardsOnCluster
    from puma_engine.serving.mapper import Mapper, adapter_of

    mapper = Mapper(adapter_of(None, str(adapter)), "cpu")
    with Cluster(address) as cluster:
        shards = ShardsOnCluster(cluster, mapper, Execution(), actors=actors)
        return migrate_stream(mapper, folder, target, map_shards=shards)


def adapter_limit(adapter: Path, width: int) -> dict[str, Any]:
    """Return the users a second that the adapter alone maps."""
    from puma_engine.serving.mapper import Mapper, adapter_of

    mapper = Mapper(adapter_of(None, str(adapter)), "cpu")
    block = np.random.default_rng(0).standard_normal((LIMIT_ROWS, 1, width), np.float32)
    mapper(block)
    start, rounds = time.perf_counter(), 5
    for _ in range(rounds):
        mapper(block)
    seconds = time.perf_counter() - start
    return {"users_per_s": round(rounds * LIMIT_ROWS / seconds, 1)}


def disk_limit(folder: Path, width: int) -> dict[str, Any]:
    """Return the users a second whose mapped prompts the disk takes, synchronised."""
    block = os.urandom(64 << 20)
    count, start = 16, time.perf_counter()
    with (folder / "disk").open("wb") as file:
        for _ in range(count):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    (folder / "disk").unlink()
    return {
        "users_per_s": round(count * len(block) / (4 * width) / seconds, 1),
        "mib_per_s": round(count * len(block) / 2**20 / seconds, 1),
    }


@contextmanager
def simulated_nodes(count: int) -> Iterator[str]:
    """Yield the address of a cluster with so many nodes of one CPU each on this machine."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


@contextmanager
def watched_actors() -> Iterator[dict[int, int]]:
    """Yield the largest resident bytes of each actor, by process, while the block runs."""
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for process in psutil.process_iter(["cmdline", "memory_info"]):
                if (process.info["cmdline"] or [""])[0].startswith(ACTOR):
                    used = process.info["memory_info"].rss
                    peaks[process.pid] = max(peaks.get(process.pid, 0), used)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def row_of(where: str, users: int, result: dict[str, Any], cost: dict[str, float]) -> Any:
    """Return the figures of one mapping."""
    return {
        "where": where,
        "users": users,
        "seconds": round(result["seconds"], 2),
        "total_seconds": round(cost["total_seconds"], 2),
        "users_per_s": round(users / result["seconds"], 1),
        "peak_memory_gb": round(cost["peak_bytes"] / 2**30, 3),
        "load_before": round(cost["load"], 1),
    }


def rows_of(folder: Path, adapter: Path, users: int, actors: list[int]) -> Iterator[Any]:
    """Map a folder in every way, and yield the figures of each."""
    load, start = os.getloadavg()[0], time.perf_counter()
    result, cost = measured(plain, folder, folder / "plain", adapter)
    total = time.perf_counter() - start
    costs = {"total_seconds": total, "peak_bytes": cost["peak_kib"] * 1024, "load": load}
    yield row_of("plain", users, result, costs)
    names = [file.name for file in (folder / "plain").glob("*.safetensors")]
    with simulated_nodes(max(actors)) as address:
        for count in actors:
            target, load, start = folder / "cluster", os.getloadavg()[0], time.perf_counter()
            with watched_actors() as peaks:
                result, _ = measured(on_cluster, address, folder, target, adapter, count)
            total = time.perf_counter() - start
            costs = {"total_seconds": total, "peak_bytes": max(peaks.values()), "load": load}
            for name in names:
                if (target / name).read_bytes() != (folder / "plain" / name).read_bytes():
                    raise SystemExit(f"{name} of {count} actors differs from the plain stream's.")
            shutil.rmtree(target)
            yield {"actors": count} | row_of("cluster", users, result, costs)


def main() -> None:
    """Measure every number of users and actors, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shape", type=int, nargs=2, default=[2048, 3072])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where the files go (default: temporary)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Any] = []
    scale.SHARD = SHARD
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        adapter = Path(name) / "adapter"
        make_adapter(adapter, *given.shape, given.hidden)
        limits = {
            "adapter": measured(adapter_limit, adapter, given.shape[0])[0],
            "disk": disk_limit(Path(name), given.shape[1]),
        }
        for users in given.users:
            folder = Path(name) / "prompts"
            scale.write_prompts(folder, users, given.shape[0])
            for row in rows_of(folder, adapter, users, given.actors):
                rows.append(row)
                print(json.dumps(row), flush=True)
                write_results(
                    given.out,
                    provenance("ray", "safetensors")
                    | {"device": "cpu", "cores": machine()["cores"], "hidden": given.hidden}
                    | {"d_in": given.shape[0], "d_out": given.shape[1]}
                    | {"limits": limits, "rows": rows},
                )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
