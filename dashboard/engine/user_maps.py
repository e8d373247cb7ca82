"""Maps of users before and after a migration, and which users a strategy would select."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from dashboard import engine
from dashboard.engine import Job, Run, Workspace
from puma_engine.backbone.templates import template_label
from puma_engine.defaults import CLUSTERS, STRATA
from puma_engine.pipeline.evaluating import ids_of, is_of_prompts_alone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.planning import replaces
from puma_engine.pipeline.projecting import MAP, PLACES, SPACE
from puma_engine.pipeline.selecting import asks_model, train_rows
from puma_engine.pipeline.stored_prompts import ARTIFACT
from puma_engine.prompts.table import PromptTable
from puma_engine.requests import SelectionRequest
from puma_engine.selection.clustering import quantile_strata
from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import Groups, coverage, draw_users, group_users

__all__ = ["coverage", "ids_of"]

SELECTION_SEED = 0
# Larger prompt tables are not loaded to preview a strategy that clusters prompts.
MAX_PREVIEW_BYTES = 64 << 20


@dataclass(frozen=True)
class UserMap:
    """A map of a source and a migrated prompt table, with the users who are drawn on it."""

    source: Run
    migration: Run
    projection: Run
    frame: pd.DataFrame

    @property
    def key(self) -> tuple[str, str]:
        """The workspace and the projection id, the first arguments of cached reads."""
        return engine.root(), self.projection.id


def latest_job(command: str, **args: Any) -> Job | None:
    """Return the latest job of a command with these arguments among its own."""
    jobs = (job for job in engine.jobs(None) if job.command == command)
    return next((job for job in jobs if args.items() <= job.args.items()), None)


def project(source: Run, migrated: Run, method: str = "umap") -> Job:
    """Queue the job that makes a map."""
    args = {"source": source.id, "migrated": migrated.id}
    if method != "umap":
        args["method"] = method
    return engine.queue("project", args, f"Make the map of {migrated.name}")


def newer_migration(migration: Run) -> Run | None:
    """Return a newer migration of the same prompts to the same model by the same users, if any."""

    def key(run: Run) -> list[str | None]:
        roles = ("backbone", "dataset", "source_0", "selection")
        return [run.config["role"], *map(run.inputs.get, roles)]

    alternatives = (run for run in engine.runs("migration") if key(run) == key(migration))
    return next((run for run in alternatives if run.created > migration.created), None)


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


def evaluation_of(prompts: str) -> Run | None:
    """Return the newest finished evaluation of a prompt table on test rows, in its own template."""
    runs = (run for run in engine.runs("evaluation") if run.inputs.get("prompts") == prompts)
    of_prompts = (run for run in runs if is_of_prompts_alone(run))
    tested = (run for run in of_prompts if run.config.get("split") == "test")
    template = template_label(engine.run(prompts).config)
    return next((run for run in tested if template_label(run.config) == template), None)


def retraining_of(migration: Run) -> Run | None:
    """Return the newest evaluated full retraining that a migration replaces."""
    runs = engine.runs("prompts")
    return next((run for run in runs if replaces(migration, run) and evaluation_of(run.id)), None)


def can_preview(strategy: str, source: Run, users: int) -> bool:
    """Say whether a strategy can select users of a map without a job."""
    if asks_model(strategy):
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
        tensors, known, meta = ws.get_tensors(run.inputs["source"], ARTIFACT)
        table = PromptTable(np.array(known or [], str), tensors["vectors"], meta=meta or {})
        embedding = table.embedding[table.rows_of(ids or [])].astype("float32", copy=False)
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
    default_settings = run.config["clusters"] == CLUSTERS and run.seed == SELECTION_SEED
    clusters = (
        frame["cluster"].reindex(ids).to_numpy()
        if default_settings and plan.space == "pca"
        else None
    )
    return group_users(
        strategy, signals, seed=SELECTION_SEED, clusters=CLUSTERS, cluster_labels=clusters
    )


@st.cache_data(max_entries=100, show_spinner=False)
def preview(root: str, projection_id: str, strategy: str, budget: int) -> np.ndarray:
    """Say for each user of a map whether a strategy would select it, [n] bool."""
    by_group = groups(root, projection_id, strategy)
    selected = draw_users(by_group, budget, seed=SELECTION_SEED).user_ids
    return np.isin(users(root, projection_id)["user_id"].to_numpy(dtype=str), selected)


@st.cache_resource(max_entries=6, show_spinner=False)
def selected_ids(root: str, selection_id: str) -> pa.Array:
    """Return the ids of the users whom a selection run selected."""
    table = Workspace.open(root).get_table(
        selection_id, "selection", where={"selected": [True]}, columns=["user_id"]
    )
    return ids_of(table)


def is_among(frame: pd.DataFrame, users: pa.Array) -> np.ndarray:
    """Say for each user of a frame whether it is among some ids, [n] bool."""
    # For a hundred thousand ids, pandas takes a second and pyarrow milliseconds.
    return pc.is_in(ids_of(frame), users).to_numpy(zero_copy_only=False)


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
