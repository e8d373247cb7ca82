"""The nodes of a Ray cluster, stored in a file of the workspace for the dashboard, which does not load Ray.

Processes that are connected to the cluster write the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from puma_engine.errors import StoreError
from puma_engine.files import parse_json, write_json
from puma_engine.jobs import processes
from puma_engine.store import Workspace
from puma_engine.store.records import now

FILE = "cluster.json"
# A page that shows an older state has it refreshed.
OLD_SECONDS = 300.0
# A refresh that takes longer has failed.
LOOK_SECONDS = 60.0
_KIND = "accelerator_type:"


@dataclass(frozen=True)
class ClusterNode:
    """A living node: its host name and Ray's id, its CPUs and GPUs, and the kind of those if Ray knows it."""

    name: str
    id: str
    cpus: int
    gpus: int
    gpu: str | None = None


@dataclass(frozen=True)
class ClusterState:
    """A cluster as it was last seen. place: its address, as --on takes it; seen: when, None for never.

    asked: when a look was last started. problem: why it could not be seen.
    """

    place: str
    seen: str | None = None
    nodes: tuple[ClusterNode, ...] = ()
    problem: str | None = None
    asked: str | None = None

    @property
    def cpus(self) -> int:
        """All CPUs."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return sum(node.gpus for node in self.nodes)

    @property
    def is_old(self) -> bool:
        """Whether the state is older than OLD_SECONDS."""
        return processes.age(self.seen) > OLD_SECONDS

    @property
    def is_refreshing(self) -> bool:
        """Whether a process is refreshing the state."""
        unseen = self.asked is not None and (self.seen is None or self.seen < self.asked)
        return unseen and processes.age(self.asked) < LOOK_SECONDS


def read_state(ws: Workspace) -> ClusterState | None:
    """Return the cluster that was last seen or named; None without one."""
    try:
        facts = parse_json((ws.root / FILE).read_text(encoding="utf-8"))
        nodes = tuple(ClusterNode(**node) for node in facts.pop("nodes"))
        return ClusterState(nodes=nodes, **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(ws: Workspace, state: ClusterState) -> None:
    """Keep the state of a cluster. Raises StoreError."""
    write_json(ws.root / FILE, asdict(state))


def state_of(ws: Workspace, address: str) -> ClusterState:
    """Return the state of a cluster by its address; one that nobody has seen if it is not stored."""
    stored = read_state(ws)
    return stored if stored is not None and stored.place == address else ClusterState(address)


def record_nodes(ws: Workspace, address: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Keep the nodes of a cluster, as `ray.nodes` gives them; nothing happens where that fails."""
    nodes = []
    for record in records:
        have = record["Resources"] if record["Alive"] else {}
        if cpus := int(have.get("CPU", 0)):
            kind = next((name.removeprefix(_KIND) for name in have if name.startswith(_KIND)), None)
            gpus = int(have.get("GPU", 0))
            node = ClusterNode(record["NodeManagerHostname"], record["NodeID"], cpus, gpus, kind)
            nodes.append(node)
    nodes.sort(key=lambda node: (node.name, node.id))
    with contextlib.suppress(StoreError):
        write_state(ws, ClusterState(address, now(), tuple(nodes)))
