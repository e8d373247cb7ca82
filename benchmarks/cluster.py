"""Users a second that a Ray cluster of simulated nodes maps, against the plain stream and its limits.

    python benchmarks/cluster.py --users 1000 100000 --actors 1 2 --folder /a/large/disk
    python benchmarks/cluster.py --device cuda --dtype float16 --users 1000 500000 10000000 --actors 1 2

Starts a head node, and a node of one CPU (--device cuda: and one GPU) for each actor on this
machine, and maps prompts of --shape's first width with `puma migrate-stream` in one process and on
the cluster, one thread each. Up to --compared users every number of actors is measured, and the
plain stream; more users are mapped by the most actors alone. "seconds" is the mapping;
"total_seconds" has the start of the process, or of the actors, too.

Inputs are shards of --shard users. At most --distinct of them are written; the others are hard
links to these, under names of their own, so they are read from the page cache. Where there are
links, shards name no users, because a user may be in one shard only ("inputs"). Each mapped shard
is compared with the plain stream's of the same input (SHA-256 of its numbers, number of rows) and
removed, so that ten million users need the disk for a few shards only ("outputs").

The limits are the adapter on prompts in memory, and writing what it makes to the disk. Memory is
the largest resident size of each process, with all libraries and mapped files, and of the actors in
each quarter of the time: where it is constant, the quarters are alike. That of a GPU is what all
processes have more there than before the mapping. All share the cores and the disk of one machine,
so rates say what Ray costs here, and not how a cluster scales. --minutes ends a mapping early, and
says so. Writes benchmarks/results/cluster.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import scale
from provenance import machine, measured, provenance, write_results
from serving import make_adapter

from puma_engine.training.device import device_memory

RESULTS = Path(__file__).parent / "results" / "cluster.json"
LIMIT_ROWS, LIMIT_SECONDS = 4096, 3.0
# A GPU counts as used if its memory has grown by at least so much.
AT_WORK_BYTES = 100 << 20
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Names of the processes of a mapping in Ray.
ACTORS, DRIVER = "ray::MapWorker", "ray::StreamDriver"


@dataclass(frozen=True)
class MappingSettings:
    """Settings of a mapping: the adapter's folder, device, type of the mapped numbers, and time limit."""

    adapter: Path
    device: str
    dtype: str
    minutes: float


class ShardVerifier:
    """Compares mapped shards with the plain stream's result for the same input, and removes them.

    Threads compute the hashes, so that the stream does not wait for them.
    """

    def __init__(self, target: Path, sources: dict[str, str], expected: dict[str, Any]) -> None:
        self.target, self.sources, self.wanted = target, sources, expected
        self.pool = ThreadPoolExecutor(4)
        self.compared: list[Future[int]] = []

    def __call__(self, name: str, _finished: int, _total: int) -> None:
        """Compare a shard that is finished."""
        self.compared.append(self.pool.submit(self._compare, name))

    def users(self) -> int:
        """Return the users of all shards, when they are compared."""
        return sum(future.result() for future in self.compared)

    def _compare(self, name: str) -> int:
        made = fingerprint(self.target / name)
        if made != self.wanted[self.sources[name]]:
            raise SystemExit(f"{name} differs from what the plain stream makes of it.")
        (self.target / name).unlink()
        return int(made[0])


def fingerprint(shard: Path) -> list[Any]:
    """Return the rows of a mapped shard and the SHA-256 of its numbers, without its header."""
    with shard.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return [header["vectors"]["shape"][0], hashlib.file_digest(file, "sha256").hexdigest()]


def plain(folder: Path, target: Path, args: MappingSettings) -> dict[str, Any]:
    """Map all users in this process; return the result of the stream."""
    from puma_engine.serving.bulk import migrate_stream
    from puma_engine.serving.mapper import Mapper, adapter_of

    mapper = Mapper(adapter_of(None, str(args.adapter)), args.device)
    return migrate_stream(mapper, folder, target, dtype=args.dtype)


def on_cluster(
    address: str,
    folder: Path,
    target: Path,
    args: MappingSettings,
    actors: int,
    sources: dict[str, str],
    expected: dict[str, Any],
) -> dict[str, Any]:
    """Map all users with actors of a cluster; return the result of the stream, and the verified users."""
    from puma_engine.errors import Cancelled
    from puma_engine.jobs.cluster import Cluster
    from puma_engine.pipeline.stage import Execution
    from puma_engine.serving.bulk import migrate_stream
    from puma_engine.serving.cluster_bulk import ShardsOnCluster
    from puma_engine.serving.mapper import Mapper, adapter_of

    mapper = Mapper(adapter_of(None, str(args.adapter)), "cpu")
    verified, start = ShardVerifier(target, sources, expected), time.perf_counter()
    late = lambda: time.perf_counter() - start > 60 * args.minutes
    stopped = False
    with Cluster(address, device=args.device) as cluster:
        shards = ShardsOnCluster(cluster, mapper, Execution(None, None, late), actors=actors)
        begun = time.perf_counter()
        try:
            migrate_stream(
                mapper, folder, target, dtype=args.dtype, report=verified, map_shards=shards
            )
        except Cancelled:
            stopped = True
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "users": verified.users(), "stopped": stopped}


def adapter_limit(args: MappingSettings, width: int) -> dict[str, Any]:
    """Return the users a second that the adapter maps in the memory of this process."""
    from puma_engine.serving.mapper import Mapper, adapter_of

    mapper = Mapper(adapter_of(None, str(args.adapter)), args.device)
    block = np.random.default_rng(0).standard_normal((LIMIT_ROWS, 1, width), np.float32)
    mapper(block)
    start, rounds, seconds = time.perf_counter(), 0, 0.0
    while seconds < LIMIT_SECONDS:
        mapper(block)
        rounds, seconds = rounds + 1, time.perf_counter() - start
    return {"users_per_s": round(rounds * LIMIT_ROWS / seconds, 1)}


def disk_limit(folder: Path, user_bytes: int) -> dict[str, Any]:
    """Return the users a second whose mapped prompts can be written and synced to the disk."""
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
        "users_per_s": round(count * len(block) / user_bytes / seconds, 1),
        "mib_per_s": round(count * len(block) / 2**20 / seconds, 1),
    }


@contextmanager
def simulated_nodes(count: int, device: str) -> Iterator[str]:
    """Yield the address of a cluster with so many nodes of one CPU, and perhaps a GPU, on this machine."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
        os.environ[name] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False},
    )
    try:
        given = os.environ.get(VISIBLE)
        visible = given.split(",") if given else [str(number) for number in range(count)]
        for number in range(count):
            environment = {"env_vars": {VISIBLE: visible[number]}} if device == "cuda" else {}
            cluster.add_node(num_cpus=1, num_gpus=int(device == "cuda"), **environment)
        yield cluster.address
    finally:
        cluster.shutdown()


@dataclass(frozen=True)
class MemorySample:
    """Bytes in use at one time: resident, by process, and of each GPU, more than before the mapping."""

    processes: dict[str, int]
    gpus: list[int]


@contextmanager
def watched() -> Iterator[list[MemorySample]]:
    """Yield samples of memory, taken while the block runs."""
    samples: list[MemorySample] = []
    stop, before = threading.Event(), gpu_bytes()

    def watch() -> None:
        while not stop.wait(0.5):
            used = {}
            for process in psutil.process_iter(["cmdline", "memory_info"]):
                name = (process.info["cmdline"] or [""])[0]
                if name.startswith((ACTORS, DRIVER)) and process.info["memory_info"]:
                    kind = "actor" if name.startswith(ACTORS) else "driver"
                    used[f"{kind} {process.pid}"] = process.info["memory_info"].rss
            gpus = [now - then for now, then in zip(gpu_bytes(), before, strict=False)]
            samples.append(MemorySample(used, gpus))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def gpu_bytes() -> list[int]:
    """Return the bytes in use on each GPU."""
    return [memory.total - memory.free for memory in device_memory() if memory.device != "cpu"]


def memory_of(samples: list[MemorySample], asking_kib: float) -> Any:
    """Return peaks of memory in GB: of the asking process, Ray Data's driver, actors by quarter, and GPUs."""
    gb = lambda values: round(max(values, default=0) / 2**30, 3)
    working = [s.processes for s in samples if any(n.startswith("actor") for n in s.processes)]
    quarters = []
    for part in np.array_split(np.arange(len(working)), 4):
        rss = [b for n in part for name, b in working[n].items() if name.startswith("actor")]
        quarters.append(gb(rss))
    driver = [b for s in samples for name, b in s.processes.items() if name.startswith("driver")]
    return {
        "asking_process_gb": round(asking_kib / 2**20, 3),
        "ray_data_driver_gb": gb(driver),
        "largest_actor_gb_by_quarter": quarters,
        "largest_gpu_gb": gb(used for s in samples for used in s.gpus),
        "gpus_at_work": max((sum(b > AT_WORK_BYTES for b in s.gpus) for s in samples), default=0),
    }


def write_inputs(folder: Path, users: int, shard: int, distinct: int, width: int) -> dict[str, str]:
    """Write shards, the first `distinct` of them whole; return which input each is a link to.

    Where there are links, no shard names its users.
    """
    count = -(-users // shard)
    n_files = min(distinct, count)
    scale.SHARD = shard
    scale.write_prompts(folder, min(users, n_files * shard), width, named=n_files == count)
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    sources = {name: name for name in names}
    rest = users - min(users, n_files * shard)
    for number in range(rest // shard):
        name = f"prompts-{n_files + number:05}.safetensors"
        sources[name] = names[number % n_files]
        os.link(folder / sources[name], folder / name)
    return sources


def rows_of(
    folder: Path,
    args: MappingSettings,
    users: int,
    actors: list[int],
    sources: dict[str, str],
    small: bool,
) -> Iterator[Any]:
    """Map a folder with the plain stream and with each number of actors; yield the figures."""
    inputs = {"whole_shards": len(set(sources.values())), "links": len(sources)}
    inputs["links"] -= inputs["whole_shards"]
    inputs["name_users"] = not inputs["links"]
    base = folder.parent / "whole"
    base.mkdir()
    for name in set(sources.values()):
        os.link(folder / name, base / name)
    # With many users the plain stream only maps the whole shards, for the comparison.
    load, start = os.getloadavg()[0], time.perf_counter()
    result, cost = measured(plain, base, base / "plain", args)
    total = time.perf_counter() - start
    expected = {name: fingerprint(base / "plain" / name) for name in set(sources.values())}
    if small and not inputs["links"]:
        yield {
            **{"where": "plain", "users": users, "seconds": round(result["seconds"], 2)},
            **{"total_seconds": round(total, 2), "load_before": round(load, 1)},
            "users_per_s": round(users / result["seconds"], 1),
            "memory": {"asking_process_gb": round(cost["peak_kib"] / 2**20, 3)},
        }
    shutil.rmtree(base)
    with simulated_nodes(max(actors), args.device) as address:
        for count in actors if small else [max(actors)]:
            target, load = folder / f"cluster-{count}", os.getloadavg()[0]
            start = time.perf_counter()
            with watched() as samples:
                result, cost = measured(
                    on_cluster, address, folder, target, args, count, sources, expected
                )
            total = time.perf_counter() - start
            # After the time limit, an actor may still write.
            shutil.rmtree(target, ignore_errors=result["stopped"])
            yield {
                **{"where": "cluster", "actors": count, "users": users, "inputs": inputs},
                **{"verified_users": result["users"], "stopped": result["stopped"]},
                **{"seconds": round(result["seconds"], 2), "total_seconds": round(total, 2)},
                "users_per_s": round(result["users"] / result["seconds"], 1),
                "memory": memory_of(samples, cost["peak_kib"]),
                "load_before": round(load, 1),
            }


def main() -> None:
    """Measure every number of users and actors, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--shape", type=int, nargs=2, default=[2048, 3072])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--shard", type=int, default=5_000, help="users in a shard")
    parser.add_argument("--distinct", type=int, default=100, help="shards that are no links")
    parser.add_argument("--compared", type=int, default=500_000, help="users for every comparison")
    parser.add_argument("--minutes", type=float, default=60, help="the most a mapping may take")
    parser.add_argument("--folder", type=Path, help="where the files go (default: temporary)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Any] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        adapter = Path(name) / "adapter"
        make_adapter(adapter, *args.shape, args.hidden)
        how = MappingSettings(adapter, args.device, args.dtype, args.minutes)
        user_bytes = args.shape[1] * np.dtype(args.dtype).itemsize
        limits = {
            "adapter": measured(adapter_limit, how, args.shape[0])[0],
            "disk": disk_limit(Path(name), user_bytes),
        }
        header = {
            **{"device": args.device, "cores": machine()["cores"], "hidden": args.hidden},
            **{"d_in": args.shape[0], "d_out": args.shape[1], "dtype": args.dtype},
            **{"shard_users": args.shard, "limits": limits},
            "inputs": "whole shards and hard links to them (see each row), which name no users; read "
            "from the page cache",
            "outputs": "compared with the plain stream's by SHA-256 and rows, then removed",
        }
        for users in args.users:
            folder = Path(name) / "prompts"
            sources = write_inputs(folder, users, args.shard, args.distinct, args.shape[0])
            small = users <= args.compared
            for row in rows_of(folder, how, users, args.actors, sources, small):
                rows.append(row)
                print(json.dumps(row), flush=True)
                write_results(args.out, provenance("ray", "safetensors") | header | {"rows": rows})
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
