"""Maps of users, and which of them a strategy would choose: reads of the workspace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import streamlit as st

from dashboard import engine
from dashboard.engine import Job, Run, Workspace
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC
from puma_engine.pipeline.evaluating import ids_of, read_user_metric
from puma_engine.pipeline.importing_data import load_dataset, task_of
from puma_engine.pipeline.planning import replaces
from puma_engine.pipeline.projecting import MAP, SPACE
from puma_engine.pipeline.selecting import costly_signals, train_rows
from puma_engine.pipeline.stored_prompts import ARTIFACT
from puma_engine.requests import SelectionRequest
from puma_engine.selection import Groups, Signals, coverage, draw_users, group_users
from puma_engine.selection.clustering import quantile_strata

STRATA = 5
CLUSTERS = 15
SELECTION_SEED = 0
# A strategy that clusters the prompts themselves is tried at once only if they fit in memory.
MOST_BYTES = 64 << 20


def migrations() -> list[Run]:
    """Finished migrations, real ones before controls, the newest first."""
    found = engine.runs("migration")
    return sorted(found, key=lambda run: run.config.get("role") != "migrated")


def sources_of(migration: Run) -> list[Run]:
    """The prompt tables that a migration started from, in its order."""
    return [engine.run(run_id) for role, run_id in migration.inputs.items() if "source_" in role]


def projection(source: str, migrated: str) -> Run | None:
    """The newest finished map of these two prompt tables."""
    wanted = {"source": source, "migrated": migrated}
    found = (run for run in engine.runs("projection") if run.inputs == wanted)
    return next(found, None)


def drawn_last(migrations: list[Run]) -> str | None:
    """The first of these migrations that has a map, if any."""
    mapped = {run.inputs["migrated"] for run in engine.runs("projection")}
    return next((run.id for run in migrations if run.id in mapped), None)


def drawing_job(source: str, migrated: str) -> Job | None:
    """The latest job that draws the map of these two tables."""
    return _latest("project", {"source": source, "migrated": migrated})


def selecting_job(source: str, strategy: str, budget: int) -> Job | None:
    """The latest job that selects users so."""
    return _latest("select", {"prompts": source, "strategy": strategy, "budget": budget})


def _latest(command: str, wanted: dict[str, Any]) -> Job | None:
    found = (job for job in engine.jobs(None) if job.command == command)
    return next((job for job in found if wanted.items() <= job.args.items()), None)


def draw(source: Run, migrated: Run) -> Job:
    """Queue the drawing of a map."""
    args = {"source": source.id, "migrated": migrated.id}
    return engine.queue("project", args, f"Draw the map of {migrated.name}")


def draw_again(drawn: Run, source: Run, migrated: Run) -> Job:
    """Delete a map whose files are damaged, and queue its drawing. Raises StoreError."""
    engine.workspace().delete(drawn.id)
    return draw(source, migrated)


def newer(migration: Run) -> Run | None:
    """A newer migration of the same prompts to the same model, if there is one."""
    same = ("backbone", "dataset", "source_0")
    for run in engine.runs("migration"):
        alike = all(run.inputs.get(role) == migration.inputs.get(role) for role in same)
        alike = alike and run.config["role"] == migration.config["role"]
        if alike and run.created > migration.created:
            return run
    return None


@st.cache_data(max_entries=20, show_spinner=False)
def users(root: str, projection_id: str) -> pd.DataFrame:
    """Return the users of a map, numbered from 0: the run's table, and each variance group."""
    frame = Workspace.open(root).get_table(projection_id, MAP)
    return frame.assign(stratum=quantile_strata(frame["variance"].to_numpy(), STRATA))


def covered(frame: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    """Count users and chosen users in each cluster and variance group of a map."""
    return coverage(frame["cluster"].to_numpy(), frame["stratum"].to_numpy(), chosen)


@st.cache_data(max_entries=50, show_spinner=False)
def scores(root: str, evaluation: str, metric: str, projection_id: str) -> np.ndarray:
    """Return one metric of each user of a map, [n] float32; NaN where it is not measured."""
    drawn = ids_of(users(root, projection_id))
    return read_user_metric(Workspace.open(root), evaluation, metric, drawn)


def evaluation_of(prompts: str) -> Run | None:
    """The newest finished evaluation of a prompt table on its test rows."""
    found = (
        run
        for run in engine.runs("evaluation")
        if run.inputs.get("prompts") == prompts and run.config.get("split") == "test"
    )
    return next(found, None)


def retraining_of(migration: Run) -> Run | None:
    """The newest full retraining that a migration replaces and that was evaluated."""
    runs = engine.runs("prompts")
    return next((run for run in runs if replaces(migration, run) and evaluation_of(run.id)), None)


def metric_of(source: Run) -> str:
    """Return the column of each user's primary metric for the task of a prompt table."""
    metric = METRICS[PRIMARY_METRIC[task_of(engine.workspace(), source)]]
    return str(metric.user_column)


def can_preview(strategy: str, source: Run, drawn: int) -> bool:
    """Say whether a strategy can be tried at once, from what the workspace keeps."""
    if costly_signals(strategy):
        return False
    shape = source.summary
    size = 4 * shape.get("users", drawn) * shape.get("tokens", 1) * shape.get("width", 0)
    return engine.STRATEGIES[strategy].space != "embedding" or size <= MOST_BYTES


@st.cache_resource(max_entries=12, show_spinner=False)
def groups(root: str, projection_id: str, strategy: str) -> Groups:
    """Divide the users of a map as a strategy does; the slow half of trying it."""
    ws = Workspace.open(root)
    run = ws.run(projection_id)
    arrays, ids, _ = ws.get_tensors(projection_id, SPACE)
    plan = engine.STRATEGIES[strategy]
    embedding = activity = None
    if plan.space == "embedding":
        embedding = _vectors(ws, run.inputs["source"], ids or [])
    if "activity" in plan.needs:
        dataset = load_dataset(ws, ws.run(run.inputs["source"]).inputs["dataset"])
        activity = train_rows(dataset, np.array(ids, dtype=str))
    frame = users(root, projection_id).set_index("user_id")
    signals = Signals(
        np.array(ids, dtype=str),
        embedding,
        variance=frame["variance"].reindex(ids).to_numpy(),
        space=arrays[SPACE],
        activity=activity,
    )
    same = run.config["clusters"] == CLUSTERS and run.seed == SELECTION_SEED
    known = frame["cluster"].reindex(ids).to_numpy() if same else None
    if plan.space != "pca":
        known = None
    return group_users(strategy, signals, seed=SELECTION_SEED, clusters=CLUSTERS, known=known)


def _vectors(ws: Workspace, prompts: str, ids: list[str]) -> np.ndarray:
    arrays, known, _ = ws.get_tensors(prompts, ARTIFACT)
    row_of = {user: row for row, user in enumerate(known or [])}
    rows = [row_of[user] for user in ids]
    return arrays["vectors"][rows].reshape(len(rows), -1)


@st.cache_data(max_entries=100, show_spinner=False)
def chosen(root: str, projection_id: str, strategy: str, budget: int) -> np.ndarray:
    """Say for each user of a map whether a strategy would choose it, [n] bool."""
    found = groups(root, projection_id, strategy)
    selected = draw_users(found, budget, seed=SELECTION_SEED).user_ids
    return np.isin(users(root, projection_id)["user_id"].to_numpy(dtype=str), selected)


@st.cache_data(max_entries=50, show_spinner=False)
def selected_by(root: str, selection_id: str, projection_id: str) -> np.ndarray:
    """Say for each user of a map whether a selection run chose it, [n] bool."""
    ids = Workspace.open(root).get_table(
        selection_id, "selection", where={"selected": [True]}, columns=["user_id"]
    )
    drawn = ids_of(users(root, projection_id))
    # pandas takes a second for what pyarrow does at once with a hundred thousand ids.
    return pc.is_in(drawn, ids_of(ids)).to_numpy(zero_copy_only=False)


def selection_run(source: str, strategy: str, budget: int) -> Run | None:
    """The finished selection that answers this question, if it was asked before."""
    for run in engine.runs("selection"):
        asked = run.config["strategy"], run.summary["selected"], run.seed
        if asked == (strategy, budget, SELECTION_SEED) and run.inputs == {"prompts": source}:
            return run
    return None


def select(source: Run, strategy: str, budget: int) -> Job:
    """Queue a selection whose signals need the source model."""
    request = SelectionRequest(
        prompts=source.id, strategy=strategy, budget=budget, seed=SELECTION_SEED
    )
    return engine.queue("select", request.to_dict(), f"Select {budget} users by {strategy}")
