"""The Ray cluster that jobs run on, or could."""

import os
from dataclasses import dataclass

from dashboard import engine
from puma_engine.jobs import cluster_watch
from puma_engine.jobs.cluster_nodes import ClusterState


@dataclass(frozen=True)
class ClusterView:
    """A cluster for the pages. address: where it is; serves: whether queued jobs run there."""

    state: ClusterState
    address: str
    serves: bool


def current_cluster() -> ClusterView | None:
    """Return the cluster that is set, None without one; have it looked at if that was long ago."""
    ws = engine.workspace()
    configured = cluster_watch.configured_cluster(ws)
    if configured is None:
        return None
    state, serves = configured
    if state.is_old and not state.is_refreshing and not engine.read_only():
        state = cluster_watch.refresh(ws, state)
    named = state.place != cluster_watch.RAY
    address = state.place if named else os.environ.get("RAY_ADDRESS") or "this machine"
    return ClusterView(state, address, serves)


def jobs_by_node() -> dict[str, list[str]]:
    """Return the titles of the running jobs by the name of the node that computes for them."""
    titles: dict[str, list[str]] = {}
    for job in engine.jobs(200):
        if job.status == "running":
            # A training of several processes names all their nodes.
            for name in str(job.progress.get("node") or "").split(", "):
                titles.setdefault(name, []).append(job.title)
    return titles
