"""What is known of one user: records, predictions, scores, neighbours, and where a prompt is from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from puma_engine.evaluation import metrics
from puma_engine.pipeline import Prediction, PromptTableReader
from puma_engine.pipeline.evaluating import PREDICTIONS, method_kind, method_label
from puma_engine.pipeline.neighbours import Space, neighbours
from puma_engine.pipeline.predicting import LONGEST_TITLE
from puma_engine.serving import whatif
from puma_engine.store import Run

__all__ = ["LONGEST_TITLE", "Prediction", "Run"]

MOST_FOUND = 50
MOST_ASKED = 4  # as many runs as the what-if process keeps
# Metrics that are means over rows, so that resampling a user's rows gives an interval.
BY_ROW = ("rmse", "mae", "accuracy", "log_loss")
PROMPT_KINDS = ("prompts", "migration")


@dataclass(frozen=True)
class Method:
    """One way of predicting: its label and kind, its evaluation and its prompts, if it has them."""

    label: str
    kind: str
    evaluation: str | None
    prompts: str | None


@dataclass(frozen=True)
class Setting:
    """Where a user is looked at: a comparison, or a data set that has none yet."""

    id: str
    name: str
    dataset: str
    task: str
    split: str
    main_metric: str
    methods: tuple[Method, ...]

    def with_prompts(self) -> list[Method]:
        """The methods that have prompts, each table once."""
        return list({m.prompts: m for m in reversed(self.methods) if m.prompts}.values())[::-1]

    def evaluated(self) -> list[Method]:
        """The methods that were evaluated."""
        return [method for method in self.methods if method.evaluation]


def settings() -> list[Run]:
    """Comparisons, the newest first, then data sets with prompts that no comparison covers."""
    compared = engine.runs("comparison")
    covered = {dataset_of(run) for run in compared}
    fitted = {run.inputs["dataset"] for kind in PROMPT_KINDS for run in engine.runs(kind)}
    rest = [run for run in engine.runs("dataset") if run.id in fitted - covered]
    return [*compared, *rest]


def dataset_of(chosen: Run) -> str:
    """Return the data set of a comparison, or the data set itself."""
    if chosen.kind == "dataset":
        return chosen.id
    return engine.run(next(iter(chosen.inputs.values()))).inputs["dataset"]


def setting(chosen: Run) -> Setting:
    """Return the methods of a comparison, or those that a data set has so far."""
    if chosen.kind == "comparison":
        return _of_comparison(chosen)
    data = chosen
    evaluations = [
        run
        for run in engine.runs("evaluation")
        if run.inputs.get("dataset") == data.id and run.config["split"] == "test"
    ]
    ws = engine.workspace()
    found = [
        Method(method_label(ws, run), method_kind(run), run.id, run.inputs.get("prompts"))
        for run in reversed(evaluations)
    ]
    known = {method.prompts for method in found}
    bare = [
        Method(run.name, str(run.config["role"]), None, run.id)
        for kind in PROMPT_KINDS
        for run in reversed(engine.runs(kind))
        if run.inputs["dataset"] == data.id and run.id not in known
    ]
    task = str(data.summary["task"])
    return Setting(
        data.id, data.name, data.id, task, "test", metrics.PRIMARY_METRIC[task], (*found, *bare)
    )


def _of_comparison(run: Run) -> Setting:
    methods, _ = engine.comparison_tables(engine.root(), run.id)
    found = tuple(
        Method(row.method, row.kind, row.evaluation, row.run if isinstance(row.run, str) else None)
        for row in methods.itertuples()
    )
    facts = run.summary
    return Setting(
        run.id,
        run.name,
        dataset_of(run),
        facts["task"],
        facts["split"],
        metrics.PRIMARY_METRIC[facts["task"]],
        found,
    )


@st.cache_resource(max_entries=6, show_spinner=False)
def rows_of(root: str, prompts: str) -> PromptTableReader:
    """Return a run's prompts for reading in parts."""
    return PromptTableReader(engine.workspace(), prompts)


@st.cache_resource(max_entries=6, show_spinner=False)
def space(root: str, prompts: str) -> Space:
    """Return the cosines of a run's prompts."""
    return Space(rows_of(root, prompts))


def is_user(prompts: list[str], user: str) -> bool:
    """Say whether any of these runs has a prompt of the user, of those that can be read."""
    return any(rows.row_of(user) is not None for rows in _readable(prompts))


def find_users(prompts: list[str], text: str) -> list[str]:
    """Return the first users whose id begins with a text, of the first run that can be read."""
    return next(_readable(prompts)).starting_with(text.strip(), MOST_FOUND)


def _readable(prompts: list[str]) -> Iterator[PromptTableReader]:
    """Yield the prompts of runs; a damaged file is passed over unless all are."""
    damaged = []
    for run in prompts:
        try:
            rows = rows_of(engine.root(), run)
        except engine.PumaError as error:
            damaged.append(error)
        else:
            yield rows
    if len(damaged) == len(prompts):
        raise damaged[0]


@st.cache_data(max_entries=100, show_spinner=False)
def records(root: str, dataset: str, user: str) -> pd.DataFrame:
    """Return a user's rows with titles: item_id, title, outcome, split, and time if known."""
    ws = engine.workspace()
    rows = ws.get_table(dataset, "interactions", where={"user_id": [user]})
    items = ws.get_table(dataset, "items", where={"item_id": rows["item_id"].unique().tolist()})
    named = rows.merge(items.rename(columns={"text": "title"}), on="item_id", how="left")
    names = ["item_id", "title", "outcome", "split", *(["time"] if "time" in rows else [])]
    return named[names].sort_values(["time"] if "time" in rows else ["title"], kind="stable")


@st.cache_data(max_entries=100, show_spinner=False)
def predictions(root: str, evaluations: tuple[str, ...], user: str) -> pd.DataFrame:
    """Return the truth and each evaluation's prediction of a user's rows, joined by item id.

    Columns: item_id, outcome, and one named by each evaluation.
    """
    ws = engine.workspace()
    joined: pd.DataFrame | None = None
    for run in evaluations:
        rows = ws.get_table(run, PREDICTIONS, where={"user_id": [user]})
        own = rows.set_index("item_id")["prediction"].rename(run)
        if joined is None:
            joined = rows.set_index("item_id")[["outcome"]]
        joined = joined.join(own, how="outer")
    if joined is None:
        return pd.DataFrame({"item_id": [], "outcome": []})
    return joined.reset_index()


@st.cache_data(max_entries=100, show_spinner=False)
def user_scores(root: str, evaluations: tuple[str, ...], user: str) -> pd.DataFrame:
    """Return the metrics of a user in some evaluations: evaluation, n, and the metrics."""
    ws = engine.workspace()
    found = [
        ws.user_metrics(run, [user]).assign(evaluation=run).drop(columns="user_id")
        for run in evaluations
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame({"evaluation": []})


def interval(
    task: str, metric: str, truth: np.ndarray, predicted: np.ndarray
) -> tuple[float, float]:
    """Return the 95 % interval of a user's metric from resampling the user's rows; NaN if none."""
    if metric not in BY_ROW or len(truth) < 2:
        return float("nan"), float("nan")
    found = metrics.bootstrap_metric(task, metric, truth, predicted, np.arange(len(truth)))
    return found.low, found.high


@st.cache_data(max_entries=100, show_spinner=False)
def near(root: str, first: str, second: str, user: str, most: int = 10) -> pd.DataFrame:
    """Return the users nearest to one in two runs' spaces; see `neighbours`."""
    return neighbours(space(root, first), space(root, second), user, most)


def lineage(prompts: str) -> list[Run]:
    """Return a run and all it came from, the first step first."""
    return engine.workspace().lineage(prompts)[::-1]


@st.cache_data(max_entries=100, show_spinner=False)
def trained_on(root: str, selection: str, user: str) -> bool:
    """Say whether a user was among those chosen to train an adapter."""
    ws = engine.workspace()
    rows = ws.get_table(selection, "selection", where={"user_id": [user]})
    return bool(rows["selected"].any())


def warm(prompts: list[str]) -> None:
    """Let the what-if process load some runs while the question is being typed."""
    whatif.preload(engine.workspace(), prompts)


def ask(prompts: str, user: str, title: str) -> Prediction:
    """Ask what a user would think of a title; raises PumaError."""
    return whatif.predict(engine.workspace(), prompts, user, title)


def settings_rows(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as names with dots and texts; empty ones stay out."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += settings_rows(value, f"{prefix}{name}.")
        elif value is not None and not isinstance(value, list):
            found.append((f"{prefix}{name}", str(value)))
    return found
