"""The cluster that the dashboard shows, refreshed by a separate process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from puma_engine.errors import PumaError
from puma_engine.jobs import dispatch, processes
from puma_engine.jobs.cluster import RAY, connect
from puma_engine.jobs.cluster_nodes import (
    ClusterState,
    read_state,
    record_nodes,
    state_of,
    write_state,
)
from puma_engine.jobs.worker_loop import ON_CLUSTER, workers
from puma_engine.store import Workspace
from puma_engine.store.records import now

LOG = "cluster.log"


def refresh(ws: Workspace, state: ClusterState) -> ClusterState:
    """Start a process that refreshes the state of a cluster, and return the state until then. Raises StoreError."""
    pending = ClusterState(state.place, state.seen, state.nodes, state.problem, now())
    write_state(ws, pending)
    # Ray would take the page's process for its driver.
    command = processes.python("puma_engine.jobs.cluster_watch", str(ws.root), state.place)
    processes.start_detached(command, ws.root / "logs" / LOG)
    return pending


def main(arguments: Sequence[str] | None = None) -> int:
    """Store the nodes of a cluster; arguments: workspace and address."""
    root, address = arguments if arguments is not None else sys.argv[1:]
    ws = Workspace.open(root)
    try:
        connect(dispatch.checked_address(address))
    except PumaError as error:
        write_state(ws, ClusterState(address, now(), problem=str(error)))
        return 1
    import ray

    record_nodes(ws, address, ray.nodes())
    return 0


def configured_cluster(ws: Workspace) -> tuple[ClusterState, bool] | None:
    """Return the configured cluster, and whether queued jobs run there; None without one.

    It is the one that PUMA_ON names, or a living worker was started with; else that of RAY_ADDRESS,
    which commands with --on ray use.
    """
    address = dispatch.cluster_address(None)
    if address is not None:
        return state_of(ws, address), True
    stored = read_state(ws)
    served = [device for worker in workers(ws) for device in worker["devices"]]
    if stored is not None and any(device.startswith(ON_CLUSTER) for device in served):
        return stored, True
    return (state_of(ws, RAY), False) if os.environ.get("RAY_ADDRESS") else None
