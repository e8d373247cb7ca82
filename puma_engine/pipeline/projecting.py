"""Projections as runs: where users lie among each other before and after a migration.

A projection run keeps the table "map" with one row a user: user_id, cluster, variance (of
the train outcomes), source_x, source_y, migrated_x, migrated_y; and the tensor "space", the
principal components [users, k] of the source prompts, keyed by user id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine import projection
from puma_engine.errors import ConfigError
from puma_engine.pipeline.data import load_dataset
from puma_engine.pipeline.progress import CancelCheck, ProgressCallback, announce, check_cancel
from puma_engine.pipeline.stage import (
    PROMPT_KINDS,
    Clock,
    Outcome,
    Reference,
    find,
    run_stage,
    slug,
)
from puma_engine.pipeline.tables import load_prompts
from puma_engine.store import Run, Workspace

MAP, SPACE = "map", "space"
MOST_USERS = 50_000


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
    if most < projection.FEWEST_USERS:
        raise ConfigError(f"A map draws {projection.FEWEST_USERS} users or more, not {most}.")
    config = {"method": method, "most": most, "clusters": clusters, "neighbours": neighbours}

    def work(run_id: str, _folder: Path, clock: Clock) -> Outcome:
        def say(text: str) -> None:
            check_cancel(should_cancel, text)
            announce(progress, text)

        users, count, vectors, variance = _read(ws, first, second, most, seed)
        clock.restart()
        shape: dict[str, Any] = {"method": method, "clusters": clusters, "neighbours": neighbours}
        drawn = projection.project(users, *vectors, **shape, seed=seed, announce=say)
        ws.put_table(run_id, MAP, _frame(drawn, variance))
        ws.put_tensors(run_id, SPACE, {SPACE: drawn.space}, ids=users.tolist())
        sizes = np.bincount(drawn.cluster).tolist()
        facts = {"users": count, "drawn": len(users), "cluster_sizes": sizes}
        return Outcome("cpu", {}, facts | drawn.facts)

    return run_stage(
        ws,
        "projection",
        name=name or slug("map", method, second.name),
        config=config,
        inputs={"source": first.id, "migrated": second.id},
        seed=seed,
        work=work,
    )


def _read(
    ws: Workspace, first: Run, second: Run, most: int, seed: int
) -> tuple[np.ndarray, int, list[np.ndarray], np.ndarray]:
    """Users to draw, how many there are, their vectors in both tables, their variances."""
    from puma_engine.evaluation import user_variances

    dataset = load_dataset(ws, first.inputs["dataset"])
    tables = [load_prompts(ws, run) for run in (first, second)]
    users = np.intersect1d(dataset.users, tables[0].user_ids)
    users = np.intersect1d(users, tables[1].user_ids)
    count = len(users)
    if count > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    rows = [table.rows_of(users) for table in tables]
    vectors = [
        table.vectors[row].reshape(len(row), -1) for table, row in zip(tables, rows, strict=True)
    ]
    return users, count, vectors, user_variances(tables[0], dataset)[rows[0]]


def _frame(drawn: projection.Projection, variance: np.ndarray) -> pd.DataFrame:
    columns = {"user_id": drawn.user_ids, "cluster": drawn.cluster.astype(np.int16)}
    columns["variance"] = variance
    for name, flat in (("source", drawn.source), ("migrated", drawn.migrated)):
        columns[f"{name}_x"], columns[f"{name}_y"] = flat[:, 0], flat[:, 1]
    return pd.DataFrame(columns)
