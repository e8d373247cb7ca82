"""Projections as runs: where users lie among each other before and after a migration.

A projection run keeps the table "map" with one row a user: user_id, cluster, variance (of
the train outcomes), source_x, source_y, migrated_x, migrated_y; and the tensor "space", the
principal components [users, k] of the source prompts, keyed by user id. Where there are more
users than are drawn, the table "places" has the same columns for every user, by user id: those
who are not drawn are put onto the maps by `puma_engine.maps.projection.OutOfSampleProjector`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puma_engine.errors import ConfigError
from puma_engine.maps import projection
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stage import (
    PROMPT_KINDS,
    Clock,
    Reference,
    StageResult,
    find,
    run_stage,
    slug,
)
from puma_engine.pipeline.stage_progress import (
    CancelCheck,
    ProgressCallback,
    announce,
    check_cancel,
)
from puma_engine.pipeline.stored_prompts import load_prompts
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.table import PromptTable

MAP, SPACE, PLACES = "map", "space", "places"
MOST_USERS = 50_000
BLOCK = 20_000


def project(
    ws: Workspace,
    source: Reference,
    migrated: Reference,
    *,
    method: str = "umap",
    most: int = MOST_USERS,
    clusters: int = 15,
    neighbours: int = 15,
    seed: int = 0,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Draw two prompt tables of the same users as two aligned maps, with clusters and trust.

    The users are those whom both tables and the source's data set hold; above `most` of them
    a seeded sample is drawn. method: umap, or pca (the first two components, at once).
    """
    first, second = (find(ws, one, *PROMPT_KINDS) for one in (source, migrated))
    projection.check(method, clusters, neighbours)
    if most < projection.MIN_USERS:
        raise ConfigError(f"A map draws {projection.MIN_USERS} users or more, not {most}.")
    config = {"method": method, "most": most, "clusters": clusters, "neighbours": neighbours}

    def compute(run_id: str, _folder: Path, clock: Clock) -> StageResult:
        def say(text: str) -> None:
            check_cancel(should_cancel, text)
            announce(progress, text)

        everybody = _read(ws, first, second)
        clock.restart()
        shape: dict[str, Any] = {"method": method, "clusters": clusters, "neighbours": neighbours}
        return _draw(ws, run_id, everybody, most, shape | {"seed": seed}, say)

    return run_stage(
        ws,
        "projection",
        name=name or slug("map", method, second.name),
        config=config,
        inputs={"source": first.id, "migrated": second.id},
        seed=seed,
        compute=compute,
    )


@dataclass(frozen=True)
class _Everybody:
    """The users of both tables, and the row of each in either one."""

    users: np.ndarray
    tables: tuple[PromptTable, PromptTable]
    rows: tuple[np.ndarray, np.ndarray]
    variance: np.ndarray

    def vectors(self, some: np.ndarray | slice) -> list[np.ndarray]:
        """The flat prompts of some users in both tables."""
        pairs = zip(self.tables, self.rows, strict=True)
        return [table.vectors[rows[some]].reshape(len(rows[some]), -1) for table, rows in pairs]


def _read(ws: Workspace, first: Run, second: Run) -> _Everybody:
    from puma_engine.evaluation.prediction import user_variances

    dataset = load_dataset(ws, first.inputs["dataset"])
    tables = (load_prompts(ws, first), load_prompts(ws, second))
    users = np.intersect1d(dataset.users, tables[0].user_ids)
    users = np.intersect1d(users, tables[1].user_ids)
    rows = (tables[0].rows_of(users), tables[1].rows_of(users))
    return _Everybody(users, tables, rows, user_variances(tables[0], dataset)[rows[0]])


def _draw(
    ws: Workspace,
    run_id: str,
    everybody: _Everybody,
    most: int,
    shape: dict[str, Any],
    say: ProgressCallback,
) -> StageResult:
    """Draw at most so many users, put the others onto the maps, and keep both."""
    count = len(everybody.users)
    rows = np.arange(count)
    if count > most:
        rows = np.sort(np.random.default_rng(shape["seed"]).choice(count, most, replace=False))
    users, vectors = everybody.users[rows], everybody.vectors(rows)
    drawn = projection.project(users, *vectors, **shape, announce=say)
    maps = {"source": drawn.source, "migrated": drawn.migrated}
    ws.put_table(run_id, MAP, _frame(users, drawn.cluster, everybody.variance[rows], maps))
    if count > len(users):
        ws.put_table(run_id, PLACES, _places(everybody, rows, drawn, vectors, say))
    ws.put_tensors(run_id, SPACE, {SPACE: drawn.space}, ids=users.tolist())
    facts: dict[str, Any] = {"users": count, "drawn": len(users), "placed": count - len(users)}
    facts["cluster_sizes"] = np.bincount(drawn.cluster).tolist()
    return StageResult("cpu", {}, facts | drawn.facts)


def _places(
    everybody: _Everybody,
    drawn_rows: np.ndarray,
    drawn: projection.Projection,
    vectors: list[np.ndarray],
    say: ProgressCallback,
) -> pd.DataFrame:
    """Every user on both maps; those who are drawn stay where they are."""
    method, count = drawn.facts["method"], len(everybody.users)
    flats, spaces = (drawn.source, drawn.migrated), (drawn.space, drawn.migrated_space)
    parts = zip(vectors, spaces, flats, strict=True)
    placing = [projection.OutOfSampleProjector(*part, method) for part in parts]
    group = projection.NearestCluster(vectors[0], drawn.cluster)
    places, cluster = np.empty((2, count, 2), np.float32), np.empty(count, np.int16)
    for start in range(0, count, BLOCK):
        say(f"placing users {start:,} of {count:,}")
        some = slice(start, start + BLOCK)
        both = everybody.vectors(some)
        cluster[some] = group(both[0])
        for side, prompts in enumerate(both):
            places[side, some] = placing[side](prompts)
    places[:, drawn_rows], cluster[drawn_rows] = flats, drawn.cluster
    maps = dict(zip(("source", "migrated"), places, strict=True))
    return _frame(everybody.users, cluster, everybody.variance, maps)


def _frame(
    users: np.ndarray, cluster: np.ndarray, variance: np.ndarray, maps: dict[str, np.ndarray]
) -> pd.DataFrame:
    columns = {"user_id": users, "cluster": cluster.astype(np.int16), "variance": variance}
    for name, flat in maps.items():
        columns[f"{name}_x"], columns[f"{name}_y"] = flat[:, 0], flat[:, 1]
    return pd.DataFrame(columns)
