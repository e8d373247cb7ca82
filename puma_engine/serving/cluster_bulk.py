"""Mapping and reading of shards on a cluster: actors, each with one shard at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save

from puma_engine.exchange.adapter_folders import AdapterFile
from puma_engine.exchange.packed import PromptShards, projected_shard, taken_from_shard
from puma_engine.exchange.shards import open_shard
from puma_engine.exchange.storage import DiskFolder, Folder, folder_of, refuse_unseen
from puma_engine.jobs.cluster import Cluster
from puma_engine.jobs.cluster_stream import stream
from puma_engine.pipeline.stage import Execution
from puma_engine.selection.clustering import Projection
from puma_engine.serving.bulk import ShardTask, map_shard

if TYPE_CHECKING:
    from puma_engine.serving.mapper import Mapper


class ShardMapping:
    """An adapter on a node, which maps shards; see `cluster_stream.Work`."""

    def __init__(self, adapter: AdapterFile, device: str | None) -> None:
        # Loaded late, since it loads torch, which reading and scoring of shards do without or later.
        from puma_engine.serving.mapper import Mapper

        self.mapper = Mapper(adapter, device)

    def do(self, piece: Mapping[str, Any]) -> bytes:
        """Map a shard that this node can read, and return its number of prompts. Raises MigrationError."""
        task = ShardTask(**piece)
        refuse_unseen(folder_of(task.source), task.name)
        refuse_unseen(folder_of(task.target), "")
        return json.dumps(map_shard(self.mapper, task)).encode()


class ShardsOnCluster:
    """Maps shards with several actors of a cluster; see `bulk.MapShards`.

    actors: how many (default: as many as have room). execution: who hears of the wait for nodes,
    and may cancel it.
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


class ShardReading:
    """Reads parts of shards on a node; see `cluster_stream.Work`. project: None to read rows as they are."""

    def __init__(self, location: str, project: Projection | None) -> None:
        self.location, self.project = location, project

    def do(self, piece: Mapping[str, Any]) -> bytes:
        """Return components of all prompts of a shard, or some prompts. Raises DataError."""
        folder = folder_of(self.location)
        refuse_unseen(folder, piece["name"])
        shard = open_shard(folder, piece["name"])
        if self.project is None:
            values = taken_from_shard(shard, np.array(piece["rows"]))
        else:
            values = projected_shard(shard, self.project, piece["rows"])
        return save({"values": values})


class PromptsOnCluster(PromptShards):
    """Prompts of a folder of shards that nodes read, each a shard at a time; user ids are read here.

    Prompts of single users are read here from a disk, and by nodes from other storage.
    """

    def __init__(
        self, folder: Folder, cluster: Cluster, execution: Execution, actors: int | None = None
    ) -> None:
        super().__init__(folder)
        self.cluster, self.execution, self.actors = cluster, execution, actors

    def projected_shards(
        self, project: Projection, rows: int, numbers: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number and the components of some shards, as they are finished."""
        for place, part in self._read(project, [(number, rows) for number in numbers]):
            yield numbers[place], part

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the prompts of some users; see `PromptShards.take`."""
        if isinstance(self.folder, DiskFolder):
            return super().take(rows)
        prompts = np.empty((len(rows), int(np.prod(self.shape))), np.float32)
        groups = list(self.by_shard(rows))
        pieces = [(number, numbers.tolist()) for number, _, numbers in groups]
        for place, values in self._read(None, pieces):
            prompts[groups[place][1]] = values
        return prompts

    def _read(
        self, project: Projection | None, requested: Sequence[tuple[int, Any]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        arguments = (self.folder.location, project)
        pieces = [{"name": self.shards[number].name, "rows": rows} for number, rows in requested]
        for place, content in stream(
            self.cluster, ShardReading, arguments, pieces, self.execution, actors=self.actors
        ):
            yield place, load(content)["values"]


class ShardsScoredOnCluster:
    """Scores shards with several actors of a cluster; see `bulk_evaluation.DoPieces`."""

    def __init__(
        self, cluster: Cluster, execution: Execution, *, actors: int | None = None
    ) -> None:
        self.cluster, self.execution, self.actors = cluster, execution, actors

    def __call__(
        self, work: type, arguments: Sequence[Any], pieces: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, bytes]]:
        """Score shards, and yield the number and the sums of each when it is finished."""
        device = None if self.cluster.gpus else "cpu"
        return stream(
            self.cluster, work, (*arguments, device), pieces, self.execution, actors=self.actors
        )
