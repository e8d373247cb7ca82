"""Which cluster the dashboard shows, and looking at it from a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from puma_engine.errors import PumaError
from puma_engine.jobs import places, processes
from puma_engine.jobs.cluster import RAY, connect
from puma_engine.jobs.cluster_nodes import ClusterState, named, note, read, write
from puma_engine.jobs.worker_loop import ON_CLUSTER, workers
from puma_engine.store import Workspace
from puma_engine.store.records import now

LOG = "cluster.log"


def look(ws: Workspace, state: ClusterState) -> ClusterState:
    """Start a process that looks at a cluster, and return its state until then. Raises StoreError."""
    asked = ClusterState(state.place, state.seen, state.nodes, state.problem, now())
    write(ws, asked)
    # Ray would take the page's process for its driver.
    command = processes.python("puma_engine.jobs.cluster_watch", str(ws.root), state.place)
    processes.start_detached(command, ws.root / "logs" / LOG)
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at a cluster; arguments: workspace and address."""
    root, place = arguments if arguments is not None else sys.argv[1:]
    ws = Workspace.open(root)
    try:
        connect(places.checked_place(place))
    except PumaError as error:
        write(ws, ClusterState(place, now(), problem=str(error)))
        return 1
    import ray

    note(ws, place, ray.nodes())
    return 0


def set_here(ws: Workspace) -> tuple[ClusterState, bool] | None:
    """Return the cluster that is set, and whether queued jobs run there; None without one.

    It is the one that PUMA_ON names, or a living worker was started with; else that of RAY_ADDRESS, which
    commands with --on ray use.
    """
    place = places.place_of(None)
    if place is not None:
        return named(ws, place), True
    kept = read(ws)
    served = [device for worker in workers(ws) for device in worker["devices"]]
    if kept is not None and any(device.startswith(ON_CLUSTER) for device in served):
        return kept, True
    return (named(ws, RAY), False) if os.environ.get("RAY_ADDRESS") else None
