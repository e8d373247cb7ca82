"""Work on shards that waits while a test holds it, and three commands that do such work.

waiting_shards.py <folder> <address>: does all three at the same time on a cluster.

Each command has a folder, `in` has its shards, `out` gets what it makes; one actor takes shard after shard.
Work on a shard says in a file `began-SHARD` on which node it is, and waits while there is a file `held-SHARD`.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ray

from puma_engine.exchange.adapter_folders import read_adapter
from puma_engine.jobs.cluster import Cluster
from puma_engine.pipeline import Execution
from puma_engine.selection import clustering
from puma_engine.serving import bulk_evaluation, cluster_bulk
from puma_engine.serving.bulk import migrate_stream, select_stream
from puma_engine.serving.cluster_bulk import (
    PromptsOnCluster,
    ShardMapping,
    ShardReading,
    ShardsOnCluster,
    ShardsScoredOnCluster,
)
from puma_engine.store import Workspace

SELECTING = {"budget": 30, "strategy": "kmeans-pca", "clusters": 3, "min_cluster": 1}
# Thresholds of a large table: components of a sample, and k-means with mini-batches.
LARGE = {"MAX_IN_MEMORY": 100, "SAMPLE": 64}


def wait_while_held(location, name):
    """Record on which node work on a shard begins, and wait while the shard is held."""
    folder = Path(location.removeprefix("shared://")).parent
    began = folder / f".{name}"
    began.write_text(ray.get_runtime_context().get_node_id())
    began.rename(folder / f"began-{name}")
    while (folder / f"held-{name}").exists():
        time.sleep(0.02)


class WaitingMapping(ShardMapping):
    def do(self, piece):
        wait_while_held(piece["source"], piece["name"])
        return super().do(piece)


class WaitingReading(ShardReading):
    def do(self, piece):
        wait_while_held(self.location, piece["name"])
        return super().do(piece)


class WaitingEvaluation(bulk_evaluation.ShardEvaluation):
    def do(self, piece):
        wait_while_held(self.source.location, piece["name"])
        return super().do(piece)


def use_waiting_work(replace=setattr):
    """Make the commands of this process wait so. replace: sets an attribute, as `setattr`."""
    replace(cluster_bulk, "ShardMapping", WaitingMapping)
    replace(cluster_bulk, "ShardReading", WaitingReading)
    replace(bulk_evaluation, "ShardEvaluation", WaitingEvaluation)
    for name, value in LARGE.items():
        replace(clustering, name, value)


def migrate(folder, cluster, execution, **options):
    # A late import: it loads torch, which nodes that only read shards do not need.
    from puma_engine.serving.mapper import Mapper

    mapper = Mapper(read_adapter(folder / "adapter"), "cpu")
    mapping = ShardsOnCluster(cluster, mapper, execution, actors=1)
    # Nodes access these folders as storage.
    urls = [f"shared://{folder / name}" for name in ("in", "out")]
    return migrate_stream(mapper, *urls, chunk_rows=16, map_shards=mapping, **options)


def select(folder, cluster, execution, **_options):
    opened = partial(PromptsOnCluster, cluster=cluster, execution=execution, actors=1)
    return select_stream(folder / "in", folder / "out", **SELECTING, open_prompts=opened)


def evaluate(folder, cluster, execution, **options):
    ws = Workspace.open(folder / "workspace")
    scored = ShardsScoredOnCluster(cluster, execution, actors=1)
    folders = [folder / name for name in ("in", "out")]
    return bulk_evaluation.evaluate_stream(ws, *folders, "moved", do_pieces=scored, **options)


COMMANDS = {"migrate": migrate, "select": select, "evaluate": evaluate}


def main(folder, address):
    use_waiting_work()
    with Cluster(address) as cluster, ThreadPoolExecutor(len(COMMANDS)) as pool:
        do = lambda name: COMMANDS[name](Path(folder) / name, cluster, Execution())
        list(pool.map(do, COMMANDS))


if __name__ == "__main__":
    # Nodes know the classes by the name of this module.
    import waiting_shards

    waiting_shards.main(*sys.argv[1:])
