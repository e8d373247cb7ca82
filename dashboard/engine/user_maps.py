"""Maps of users before and after a migration, and which users a strategy would select."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import streamlit as st

from dashboard import engine
from dashboard.engine import Job, Run, Workspace
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC, RANKING_METRIC
from puma_engine.pipeline.evaluating import ids_of, read_user_metric
from puma_engine.pipeline.importing_data import load_dataset, task_of
from puma_engine.pipeline.planning import replaces
from puma_engine.pipeline.projecting import MAP, PLACES, SPACE
from puma_engine.pipeline.selecting import SOURCE_SIGNALS, train_rows
from puma_engine.pipeline.stored_prompts import ARTIFACT
from puma_engine.requests import SelectionRequest
from puma_engine.selection.clustering import quantile_strata
from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import Groups, coverage, draw_users, group_users

__all__ = ["coverage"]

STRATA = 5
CLUSTERS = 15
SELECTION_SEED = 0
# Larger prompt tables are not loaded to preview a strategy that clusters prompts.
MAX_PREVIEW_BYTES = 64 << 20
# For so few users, scores are looked up one by one instead of read for all users.
FEW_USERS = 1000


@dataclass
class UserMap:
    """A map of a source and a migrated prompt table, with its users and their coordinates.

    points: coordinates by map, [n, 2] int16, see map_selection.to_grid. all_users: frame and
    points hold all users instead of the sample that is drawn.
    """

    source: Run
    migration: Run
    projection: Run
    frame: pd.DataFrame
    points: dict[str, np.ndarray]
    all_users: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """The workspace and the projection id, the first arguments of cached reads."""
        return engine.root(), self.projection.id

    @property
    def metric(self) -> str:
        """The column of each user's primary metric for the task of the prompts."""
        task = task_of(engine.workspace(), self.source)
        return str(METRICS[PRIMARY_METRIC[task]].user_column)

    @property
    def ranking(self) -> str:
        """The column of how well the items of each user are ordered."""
        task = task_of(engine.workspace(), self.source)
        return str(METRICS[RANKING_METRIC[task]].user_column)

    def scores(
        self, prompts: Run, rows: np.ndarray | None = None, metric: str | None = None
    ) -> np.ndarray:
        """Return a metric of all users, or of those in some rows; NaN where it is not measured.

        It is from the newest evaluation of a prompt table on test rows. metric: a column (default:
        the primary one).
        """
        metric = metric or self.metric
        evaluation = evaluation_of(prompts.id)
        if evaluation is None:
            return np.full(len(self.frame if rows is None else rows), np.nan)
        if self.all_users and rows is not None and len(rows) <= FEW_USERS:
            users = self.frame["user_id"].iloc[rows].tolist()
            table = engine.workspace().user_metrics(evaluation.id, users)
            if metric in table:
                scores = table.set_index("user_id")[metric]
                return scores.reindex(users).to_numpy(dtype=float)
        scores = _scores(*self.key, evaluation.id, metric, self.all_users)
        return scores if rows is None else scores[rows]

    def gain(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return how much better users are served by the migration than by full retraining.

        As `scores`; positive is better whatever the direction of the metric.
        """
        retrained = retraining_of(self.migration)
        if retrained is None:
            return np.full(len(self.frame if rows is None else rows), np.nan)
        gain = self.scores(retrained, rows) - self.scores(self.migration, rows)
        return -gain if METRICS[self.metric].higher_is_better else gain


def migrations() -> list[Run]:
    """Return finished migrations, real ones before controls, the newest first."""
    return sorted(engine.runs("migration"), key=lambda run: run.config.get("role") != "migrated")


def sources_of(migration: Run) -> list[Run]:
    """Return the source prompts of a migration, in its order."""
    return [engine.run(run_id) for role, run_id in migration.inputs.items() if "source_" in role]


def projection(source: str, migrated: str) -> Run | None:
    """Return the newest finished map of two prompt tables."""
    wanted = {"source": source, "migrated": migrated}
    return next((run for run in engine.runs("projection") if run.inputs == wanted), None)


def first_with_map(migrations: list[Run]) -> str | None:
    """Return the id of the first migration that has a map, if any."""
    mapped = {run.inputs["migrated"] for run in engine.runs("projection")}
    return next((run.id for run in migrations if run.id in mapped), None)


def latest_job(command: str, **args: Any) -> Job | None:
    """Return the latest job of a command with these arguments among its own."""
    jobs = (job for job in engine.jobs(None) if job.command == command)
    return next((job for job in jobs if args.items() <= job.args.items()), None)


def project(source: Run, migrated: Run) -> Job:
    """Queue the job that makes a map."""
    args = {"source": source.id, "migrated": migrated.id}
    return engine.queue("project", args, f"Make the map of {migrated.name}")


def newer_migration(migration: Run) -> Run | None:
    """Return a newer migration of the same prompts to the same model, if there is one."""

    def key(run: Run) -> list[str | None]:
        return [run.config["role"], *map(run.inputs.get, ("backbone", "dataset", "source_0"))]

    same = (run for run in engine.runs("migration") if key(run) == key(migration))
    return next((run for run in same if run.created > migration.created), None)


@st.cache_data(max_entries=20, show_spinner=False)
def users(root: str, projection_id: str) -> pd.DataFrame:
    """Return the drawn users of a map: the run's table, and the variance stratum of each."""
    frame = Workspace.open(root).get_table(projection_id, MAP)
    return frame.assign(stratum=quantile_strata(frame["variance"].to_numpy(), STRATA))


@st.cache_resource(max_entries=2, show_spinner=False)
def all_users(root: str, projection_id: str) -> pd.DataFrame:
    """Return all users of a large map, with the columns of the map's table. Do not change it."""
    return Workspace.open(root).get_table(projection_id, PLACES)


@st.cache_data(max_entries=20, show_spinner=False)
def extent(root: str, projection_id: str) -> pd.DataFrame:
    """Return the smallest and the largest coordinates of all users of a large map, one row each."""
    columns = ["source_x", "source_y", "migrated_x", "migrated_y"]
    table = Workspace.open(root).get_table(projection_id, PLACES, columns=columns)
    return table.agg(["min", "max"])


@st.cache_resource(max_entries=12, show_spinner=False)
def _scores(root: str, projection_id: str, evaluation: str, metric: str, every: bool) -> np.ndarray:
    """Return one metric of the users of a map, [n] float32; NaN where it is not measured."""
    frame = (all_users if every else users)(root, projection_id)
    return read_user_metric(Workspace.open(root), evaluation, metric, ids_of(frame))


def evaluation_of(prompts: str) -> Run | None:
    """Return the newest finished evaluation of a prompt table on test rows."""
    runs = (run for run in engine.runs("evaluation") if run.inputs.get("prompts") == prompts)
    return next((run for run in runs if run.config.get("split") == "test"), None)


def retraining_of(migration: Run) -> Run | None:
    """Return the newest evaluated full retraining that a migration replaces."""
    runs = engine.runs("prompts")
    return next((run for run in runs if replaces(migration, run) and evaluation_of(run.id)), None)


def can_preview(strategy: str, source: Run, users: int) -> bool:
    """Say whether a strategy can select users of a map without a job."""
    if engine.STRATEGIES[strategy].needs & SOURCE_SIGNALS:
        return False
    shape = source.summary
    size = 4 * shape.get("users", users) * shape.get("tokens", 1) * shape.get("width", 0)
    return engine.STRATEGIES[strategy].space != "embedding" or size <= MAX_PREVIEW_BYTES


@st.cache_resource(max_entries=12, show_spinner=False)
def groups(root: str, projection_id: str, strategy: str) -> Groups:
    """Group the users of a map as a strategy does, which is the slow part of a selection."""
    ws = Workspace.open(root)
    run = ws.run(projection_id)
    arrays, ids, _ = ws.get_tensors(projection_id, SPACE)
    plan = engine.STRATEGIES[strategy]
    embedding = activity = None
    if plan.space == "embedding":
        vectors, known, _ = ws.get_tensors(run.inputs["source"], ARTIFACT)
        row_of = {user: row for row, user in enumerate(known or [])}
        rows = [row_of[user] for user in ids or []]
        embedding = vectors["vectors"][rows].reshape(len(rows), -1).astype("float32", copy=False)
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
    clusters = frame["cluster"].reindex(ids).to_numpy() if same and plan.space == "pca" else None
    return group_users(strategy, signals, seed=SELECTION_SEED, clusters=CLUSTERS, known=clusters)


@st.cache_data(max_entries=100, show_spinner=False)
def preview(root: str, projection_id: str, strategy: str, budget: int) -> np.ndarray:
    """Say for each user of a map whether a strategy would select it, [n] bool."""
    by_group = groups(root, projection_id, strategy)
    selected = draw_users(by_group, budget, seed=SELECTION_SEED).user_ids
    return np.isin(users(root, projection_id)["user_id"].to_numpy(dtype=str), selected)


@st.cache_data(max_entries=50, show_spinner=False)
def selected_by(root: str, selection_id: str, projection_id: str) -> np.ndarray:
    """Say for each user of a map whether a selection run selected it, [n] bool."""
    ids = Workspace.open(root).get_table(
        selection_id, "selection", where={"selected": [True]}, columns=["user_id"]
    )
    # For a hundred thousand ids, pandas takes a second and pyarrow milliseconds.
    return pc.is_in(ids_of(users(root, projection_id)), ids_of(ids)).to_numpy(zero_copy_only=False)


def selection_run(source: str, strategy: str, budget: int) -> Run | None:
    """Return the finished selection by a strategy and a budget, if there is one."""
    for run in engine.runs("selection"):
        settings = run.config["strategy"], run.summary["selected"], run.seed
        if settings == (strategy, budget, SELECTION_SEED) and run.inputs == {"prompts": source}:
            return run
    return None


def select(source: Run, strategy: str, budget: int) -> Job:
    """Queue a selection whose signals need the source model."""
    request = SelectionRequest(
        prompts=source.id, strategy=strategy, budget=budget, seed=SELECTION_SEED
    )
    return engine.queue("select", request.to_dict(), f"Select {budget} users by {strategy}")
