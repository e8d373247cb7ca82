"""Two workspaces with the same data and models, one for a cluster, and the comparison of their runs."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from ray_clusters import ray_cluster
from small_runs import write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.jobs import cluster as clusters
from puma_engine.jobs.cluster import Cluster
from puma_engine.store import Workspace

# Costs that depend on how busy a machine is.
SECONDS = ("seconds", "training_seconds")


@contextmanager
def cluster_world(folder, nodes, cpus=1):
    """Yield a cluster, a connection to it, and the workspaces `here` and `there` (computed on nodes).

    The cluster is polled often.
    """
    table = write_ratings(folder / "ratings.csv")
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    here = Workspace.open(folder / "here", create=True)
    there = Workspace.open(folder / "there", create=True)
    for ws in (here, there):
        data = pipeline.import_dataset(ws, "table", path=table, task="rating")
    with (
        pytest.MonkeyPatch.context() as patch,
        ray_cluster(nodes, cpus) as ray,
        Cluster(ray.address) as cluster,
    ):
        patch.setattr(clusters, "POLL_SECONDS", 0.05)
        yield SimpleNamespace(**locals())


def execute(world, command, request, ws=None, **callbacks):
    """Execute a request on the cluster."""
    execution = pipeline.Execution(None, remote=world.cluster, **callbacks)
    return pipeline.EXECUTORS[command](ws or world.there, request, execution)


def execute_here(world, command, request):
    """Execute a request in this process."""
    return pipeline.EXECUTORS[command](world.here, request, pipeline.Execution())


def assert_same(world, run, other):
    """The run of the cluster has the id, files, numbers and metrics of the one that was computed here."""
    assert (run.id, run.status) == (other.id, "finished")
    for name in ("config", "inputs", "summary", "cost", "versions", "device", "name"):
        ours, theirs = getattr(run, name), getattr(other, name)
        if name == "cost":
            ours, theirs = (
                {key: value for key, value in cost.items() if key not in SECONDS}
                for cost in (ours, theirs)
            )
        assert ours == theirs, name
    files = [
        [(f["name"], f["sha256"]) for f in ws.artifacts(run.id)] for ws in (world.there, world.here)
    ]
    assert files[0] == files[1]
    for table in ("metrics", "user_metrics"):
        rows = [
            [
                {k: v for k, v in row.items() if k != "id"}
                for row in ws.query(f"SELECT * FROM {table} WHERE run_id = ?", [run.id])
            ]
            for ws in (world.there, world.here)
        ]
        assert rows[0] == rows[1], table
