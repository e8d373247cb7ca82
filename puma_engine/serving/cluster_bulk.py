"""Mapping of shards on a cluster: actors that hold the adapter, each with one shard at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from puma_engine.errors import MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile
from puma_engine.exchange.storage import DiskFolder, folder_of
from puma_engine.jobs.cluster import Cluster
from puma_engine.jobs.cluster_stream import stream
from puma_engine.pipeline.stage import Execution
from puma_engine.serving.bulk import ShardTask, map_shard
from puma_engine.serving.mapper import Mapper


class ShardMapping:
    """An adapter on a node, which maps shards; see `cluster_stream.Work`."""

    def __init__(self, adapter: AdapterFile, device: str | None) -> None:
        self.mapper = Mapper(adapter, device)

    def do(self, piece: Mapping[str, Any]) -> bytes:
        """Map a shard that this node can read, and return its number of prompts. Raises MigrationError."""
        task = ShardTask(**piece)
        refuse_unseen(task.source, task.name)
        refuse_unseen(task.target)
        return json.dumps(map_shard(self.mapper, task)).encode()


class ShardsOnCluster:
    """Maps shards with several actors of a cluster; see `bulk.MapShards`.

    actors: how many (default: as many as have room). execution: who hears of the wait for nodes, and may
    cancel it.
    """

    def __init__(
        self, cluster: Cluster, mapper: Mapper, execution: Execution, *, actors: int | None = None
    ) -> None:
        self.cluster, self.mapper, self.execution = cluster, mapper, execution
        self.actors = actors

    def __call__(self, tasks: Sequence[ShardTask]) -> Iterator[tuple[str, int]]:
        """Map shards, and yield the name of each and its number of prompts when it is finished."""
        arguments = (self.mapper.adapter, None if self.cluster.gpus else "cpu")
        pieces = [asdict(task) for task in tasks]
        for number, rows in stream(
            self.cluster, ShardMapping, arguments, pieces, self.execution, actors=self.actors
        ):
            yield tasks[number].name, int(rows)


def refuse_unseen(location: str, name: str = "") -> None:
    """Raise MigrationError for a folder of a disk, or a file of it, that this node does not see."""
    folder = folder_of(location)
    if isinstance(folder, DiskFolder) and not (folder.path / name).exists():
        raise MigrationError(
            f"The node {socket.gethostname()} does not see {folder.path / name}; give folders on storage that "
            "all nodes of the cluster share, under the same path, or URLs such as s3://."
        )
