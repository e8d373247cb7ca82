"""Mapping of shards on a cluster: actors that hold the adapter, each with one shard at a time."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from puma_engine.errors import MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile
from puma_engine.jobs.cluster import MAX_LOST, Cluster, Node, NodeLost, Starting
from puma_engine.jobs.node_worker import node_facts
from puma_engine.pipeline.stage import Execution
from puma_engine.serving.bulk import BeginShard, ShardTask, map_shard
from puma_engine.serving.mapper import Mapper


class NodeMapper:
    """An adapter on a node; an actor that `ShardsOnCluster` starts."""

    def __init__(self, adapter: AdapterFile, device: str | None) -> None:
        self.mapper = Mapper(adapter, device)

    def facts(self) -> dict[str, Any]:
        """Return what this node is; see `node_facts`."""
        return node_facts()

    def map(self, task: Mapping[str, Any]) -> int:
        """Map a shard of a folder that this node shares with the driver. Raises MigrationError."""
        shard, made = Path(task["shard"]), Path(task["made"])
        if not shard.is_file() or not made.parent.is_dir():
            raise MigrationError(
                f"The node {socket.gethostname()} does not see {shard} and {made.parent}; give folders on storage "
                "that all nodes of the cluster share, under the same path."
            )
        return map_shard(
            self.mapper, ShardTask(shard, made, str(task["origin"]), int(task["chunk_rows"]))
        )


class ShardsOnCluster:
    """Maps shards with several actors of a cluster.

    An actor gets its next shard when it has finished one, so that memory is bounded by the actors'
    chunks. A shard whose node is lost is mapped by another. actors: how many (default: as many as
    have room). execution: who hears of the wait for nodes, and may cancel it.
    """

    def __init__(
        self, cluster: Cluster, mapper: Mapper, execution: Execution, *, actors: int | None = None
    ) -> None:
        self.cluster, self.mapper, self.execution = cluster, mapper, execution
        self.actors = actors or cluster.capacity()

    def __call__(self, tasks: Sequence[ShardTask], begin: BeginShard) -> Iterator[int]:
        """Map shards; see `bulk.MapShards`."""
        tasks = [
            replace(task, shard=task.shard.resolve(), made=task.made.resolve()) for task in tasks
        ]
        waiting, lost, finished = deque(tasks), 0, 0
        starting: dict[Any, Starting] = {}
        idle: list[Node] = []
        at_work: dict[Any, tuple[Node, ShardTask]] = {}
        try:
            while waiting or at_work:
                wanted = min(self.actors, len(waiting) + len(at_work))
                for _ in range(wanted - len(at_work) - len(idle) - len(starting)):
                    asked = self._begin()
                    starting[asked.facts] = asked
                while waiting and idle:
                    begin(waiting[0].shard, finished)
                    node, task = idle.pop(), waiting.popleft()
                    at_work[node.actor.map.remote(_plain(task))] = node, task
                ref = self.cluster.first_of([*at_work, *starting])
                if ref is None:
                    if at_work:
                        self.execution.check_cancel("the rest of the shards")
                    else:
                        self.cluster.wait_for_room(self.execution)
                    continue
                try:
                    if ref in starting:
                        idle.append(self.cluster.ready(starting.pop(ref)))
                        continue
                    node, task = at_work.pop(ref)
                    try:
                        rows = self.cluster.get(ref)
                    except NodeLost:
                        self.cluster.end(node)
                        waiting.append(task)
                        raise
                except NodeLost:
                    lost += 1
                    if lost > MAX_LOST * self.actors:
                        raise
                    continue
                idle.append(node)
                finished += 1
                yield rows
        finally:
            left: list[Node | Starting] = [*starting.values(), *idle]
            for actor in left + [node for node, _ in at_work.values()]:
                self.cluster.end(actor)
            for folder in {task.made.parent for task in tasks}:
                for unfinished in folder.glob(".*.tmp"):
                    with contextlib.suppress(OSError):
                        unfinished.unlink()  # of an actor that was lost or ended

    def _begin(self) -> Starting:
        device = None if self.cluster.gpus else "cpu"
        return self.cluster.begin(NodeMapper, self.mapper.adapter, device)


def _plain(task: ShardTask) -> dict[str, Any]:
    return {
        "shard": str(task.shard),
        "made": str(task.made),
        "origin": task.origin,
        "chunk_rows": task.chunk_rows,
    }
