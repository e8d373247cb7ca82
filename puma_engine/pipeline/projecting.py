"""Projections as runs: maps of users before and after a migration.

A projection run stores the table "map" with one row for each user: user_id, cluster, variance (of the
train outcomes), source_x, source_y, migrated_x, migrated_y; and the tensor "space", the principal
components [users, k] of the source prompts, keyed by user id. If there are more users than the
sample, the table "places" has the same columns for every user; those outside the sample are placed
by `puma_engine.maps.projection.OutOfSampleProjector`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puma_engine.errors import ConfigError
from puma_engine.maps import projection
from puma_engine.pipeline import stage
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import load_prompts
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.table import PromptTable

MAP, SPACE, PLACES = "map", "space", "places"
MAX_USERS = 50_000
BLOCK = 20_000


def project(
    ws: Workspace,
    source: stage.Reference,
    migrated: stage.Reference,
    *,
    method: str = "umap",
    most: int = MAX_USERS,
    clusters: int = 15,
    neighbours: int = 15,
    seed: int = 0,
    name: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Project two prompt tables of the same users to two aligned maps, with clusters and quality.

    The users are those whom both tables and the source's data set have. most: with more users, a
    seeded sample is projected, and the others are placed near their neighbours. method: umap, or
    pca (the first two components, computed in seconds). neighbours: of UMAP. Raises ConfigError,
    NotFoundError, DataError.
    """
    first, second = (
        stage.find(ws, reference, *stage.PROMPT_KINDS) for reference in (source, migrated)
    )
    projection.check(method, clusters, neighbours)
    if most < projection.MIN_USERS:
        raise ConfigError(f"A map draws {projection.MIN_USERS} users or more, not {most}.")
    config = {"method": method, "most": most, "clusters": clusters, "neighbours": neighbours}

    def compute(run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        shared = _SharedUsers.of(ws, first, second)
        clock.restart()
        announce = stage.Execution(None, progress, should_cancel).announce
        count = len(shared.users)
        rows = np.arange(count)
        if count > most:
            rows = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
        users, vectors = shared.users[rows], shared.vectors(rows)
        sample = projection.project(
            users,
            *vectors,
            method=method,
            clusters=clusters,
            neighbours=neighbours,
            seed=seed,
            announce=announce,
        )
        maps = {"source": sample.source, "migrated": sample.migrated}
        ws.put_table(run_id, MAP, _frame(users, sample.cluster, shared.variance[rows], maps))
        if count > len(users):
            ws.put_table(run_id, PLACES, _place_all(shared, rows, sample, vectors, announce))
        ws.put_tensors(run_id, SPACE, {SPACE: sample.space}, ids=users.tolist())
        summary: dict[str, Any] = {
            "users": count,
            "drawn": len(users),
            "placed": count - len(users),
            "cluster_sizes": np.bincount(sample.cluster).tolist(),
        }
        return stage.StageResult("cpu", {}, summary | sample.measures)

    return stage.run_stage(
        ws,
        "projection",
        name=name or stage.slug("map", method, second.name),
        config=config,
        inputs={"source": first.id, "migrated": second.id},
        seed=seed,
        compute=compute,
    )


@dataclass(frozen=True)
class _SharedUsers:
    """The users whom both tables and the data set have, and the row of each in both tables."""

    users: np.ndarray
    tables: tuple[PromptTable, PromptTable]
    rows: tuple[np.ndarray, np.ndarray]
    variance: np.ndarray

    @classmethod
    def of(cls, ws: Workspace, first: Run, second: Run) -> _SharedUsers:
        from puma_engine.evaluation.prediction import user_variances

        dataset = load_dataset(ws, first.inputs["dataset"])
        tables = (load_prompts(ws, first), load_prompts(ws, second))
        users = np.intersect1d(dataset.users, tables[0].user_ids)
        users = np.intersect1d(users, tables[1].user_ids)
        rows = (tables[0].rows_of(users), tables[1].rows_of(users))
        return cls(users, tables, rows, user_variances(tables[0], dataset)[rows[0]])

    def vectors(self, index: np.ndarray | slice) -> list[np.ndarray]:
        """Return the flat prompts of the indexed users in both tables, [n, tokens * width] each."""
        pairs = zip(self.tables, self.rows, strict=True)
        return [table.embedding[rows[index]] for table, rows in pairs]


def _place_all(
    shared: _SharedUsers,
    sampled: np.ndarray,
    sample: projection.Projection,
    vectors: list[np.ndarray],
    announce: Callable[[str], None],
) -> pd.DataFrame:
    """Return all users on both maps; users of the sample (row numbers) keep their coordinates."""
    method, count = sample.measures["method"], len(shared.users)
    maps, spaces = (sample.source, sample.migrated), (sample.space, sample.migrated_space)
    parts = zip(vectors, spaces, maps, strict=True)
    projectors = [projection.OutOfSampleProjector(*part, method) for part in parts]
    nearest_cluster = projection.NearestCluster(vectors[0], sample.cluster)
    places, cluster = np.empty((2, count, 2), np.float32), np.empty(count, np.int16)
    for start in range(0, count, BLOCK):
        announce(f"placing users {start:,} of {count:,}")
        block = slice(start, start + BLOCK)
        both = shared.vectors(block)
        cluster[block] = nearest_cluster(both[0])
        for side, prompts in enumerate(both):
            places[side, block] = projectors[side](prompts)
    places[:, sampled], cluster[sampled] = maps, sample.cluster
    placed = dict(zip(("source", "migrated"), places, strict=True))
    return _frame(shared.users, cluster, shared.variance, placed)


def _frame(
    users: np.ndarray, cluster: np.ndarray, variance: np.ndarray, maps: dict[str, np.ndarray]
) -> pd.DataFrame:
    columns = {"user_id": users, "cluster": cluster.astype(np.int16), "variance": variance}
    for name, points in maps.items():
        columns[f"{name}_x"], columns[f"{name}_y"] = points.T
    return pd.DataFrame(columns)
