"""Details of one user: records, predictions, scores, neighbours, lineage and what-if questions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import comparisons
from puma_engine.evaluation import metrics
from puma_engine.evaluation.formatting import method_names
from puma_engine.pipeline import Prediction, PromptTableReader
from puma_engine.pipeline.evaluating import PREDICTIONS, method_kind, method_label
from puma_engine.pipeline.neighbours import Space, neighbours
from puma_engine.pipeline.predicting import MAX_TITLE_LENGTH
from puma_engine.pipeline.stored_prompts import has_model
from puma_engine.serving import whatif
from puma_engine.store import Run

__all__ = ["MAX_TITLE_LENGTH", "Prediction", "Run"]

MAX_WHAT_IF_RUNS = 4  # as many runs as the what-if process holds
# Metrics that are means over rows, so that resampling a user's rows gives an interval.
ROW_METRICS = ("rmse", "mae", "accuracy", "log_loss")
PROMPT_KINDS = ("prompts", "migration")


# Between a method's name and what tells it apart from others of the same name.
APART = " · "


def brief(label: str) -> str:
    """Return the name of a method without what tells it apart from others of the same name."""
    return label.partition(APART)[0]


@dataclass(frozen=True)
class Method:
    """A method with its label and kind, and the ids of its evaluation and prompts, if any."""

    label: str
    kind: str
    evaluation: str | None
    prompts: str | None


@dataclass(frozen=True)
class UserContext:
    """The methods that a user is shown with: those of a comparison, or of a data set without one.

    id: of the comparison or data set.
    """

    id: str
    task: str
    split: str
    methods: tuple[Method, ...]

    def with_prompts(self) -> list[Method]:
        """Return the methods that have prompts, one per prompt table."""
        return list({m.prompts: m for m in reversed(self.methods) if m.prompts}.values())[::-1]

    def evaluated(self) -> list[Method]:
        """Return the methods that were evaluated."""
        return [method for method in self.methods if method.evaluation]


def context_of(run: Run, known: Mapping[str, str]) -> UserContext:
    """Return the methods of a comparison, or all methods of a data set run.

    known: names of prompt tables by id, which methods with prompts are called by; what tells them apart
    from tables of the same name is left out where one method has it.
    """
    methods: list[Method] = []
    if run.kind == "comparison":
        table, _ = comparisons.tables(engine.root(), run.id)
        for row in table.itertuples():
            prompts = row.run if isinstance(row.run, str) and has_prompts(row.run) else None
            methods.append(Method(row.method, row.kind, row.evaluation, prompts))
    else:
        ws = engine.workspace()
        methods = [
            Method(method_label(ws, item), method_kind(item), item.id, item.inputs.get("prompts"))
            for item in reversed(engine.runs("evaluation"))
            if item.inputs.get("dataset") == run.id and item.config["split"] == "test"
        ]
        names = method_names(method.label for method in methods)
        methods = [replace(method, label=names[method.label]) for method in methods]
        evaluated = {method.prompts for method in methods}
        methods += [
            Method(item.name, str(item.config["role"]), None, item.id)
            for kind in PROMPT_KINDS
            for item in reversed(engine.runs(kind))
            if item.inputs["dataset"] == run.id and item.id not in evaluated and has_model(item)
        ]
    methods = [replace(m, label=known.get(m.prompts or "", m.label)) for m in methods]
    count = Counter(brief(method.label) for method in methods)
    # What tells a method apart from those of other data or models says nothing here.
    methods = [
        replace(m, label=brief(m.label)) if count[brief(m.label)] == 1 else m for m in methods
    ]
    split = run.summary["split"] if run.kind == "comparison" else "test"
    return UserContext(run.id, run.summary["task"], split, tuple(methods))


def has_prompts(run: str) -> bool:
    """Say whether the prompts of a run are here; archives of published runs may leave them out."""
    return "prompts" not in (engine.run(run).published or {}).get("left_out", ())


@st.cache_resource(max_entries=6, show_spinner=False)
def rows_of(root: str, prompts: str) -> PromptTableReader:
    """Return a reader of a run's prompts."""
    return PromptTableReader(engine.workspace(), prompts)


@st.cache_resource(max_entries=6, show_spinner=False)
def space(root: str, prompts: str) -> Space:
    """Return the cosines of a run's prompts."""
    return Space(rows_of(root, prompts))


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
    ws, where = engine.workspace(), {"user_id": [user]}
    tables = [
        ws.get_table(run, PREDICTIONS, where=where).set_index("item_id") for run in evaluations
    ]
    joined = tables[0][["outcome"]]
    for run, table in zip(evaluations, tables, strict=True):
        joined = joined.join(table["prediction"].rename(run), how="outer")
    return joined.reset_index()


@st.cache_data(max_entries=100, show_spinner=False)
def user_scores(root: str, evaluations: tuple[str, ...], user: str) -> pd.DataFrame:
    """Return the metrics of a user in some evaluations: evaluation, n, and the metrics."""
    ws = engine.workspace()
    scores = []
    for run in evaluations:
        stored, task = ws.user_metrics(run, [user]), str(engine.run(run).summary["task"])
        if len(stored) and task == "rating" and "pair_accuracy" not in stored:
            # Evaluations of earlier versions do not store it.
            rows = ws.get_table(run, PREDICTIONS, where={"user_id": [user]})
            y, p = (rows[name].to_numpy(np.float64) for name in ("outcome", "prediction"))
            computed = metrics.per_user(task, y, p, rows["user_id"].to_numpy())
            stored = stored.assign(pair_accuracy=computed["pair_accuracy"].to_numpy())
        scores.append(stored.assign(evaluation=run).drop(columns="user_id"))
    return pd.concat(scores, ignore_index=True).dropna(axis="columns", how="all")


def interval(
    task: str, metric: str, truth: np.ndarray, predicted: np.ndarray
) -> tuple[float, float]:
    """Return the 95 % interval of a user's metric from resampling the user's rows; NaN if none."""
    if metric not in ROW_METRICS or len(truth) < 2:
        return float("nan"), float("nan")
    score = metrics.bootstrap_metric(task, metric, truth, predicted, np.arange(len(truth)))
    return score.low, score.high


@st.cache_data(max_entries=100, show_spinner=False)
def nearest_users(root: str, first: str, second: str, user: str, limit: int = 10) -> pd.DataFrame:
    """Return the users nearest to a user in two runs' prompts; see puma_engine's `neighbours`."""
    return neighbours(space(root, first), space(root, second), user, limit)


def lineage(prompts: str) -> list[Run]:
    """Return a run and the runs it came from, the first step first."""
    return engine.workspace().lineage(prompts)[::-1]


@st.cache_data(max_entries=100, show_spinner=False)
def trained_on(root: str, selection: str, user: str) -> bool:
    """Say whether an adapter was trained on a user."""
    ws = engine.workspace()
    rows = ws.get_table(selection, "selection", where={"user_id": [user]})
    return bool(rows["selected"].any())


def warm(prompts: list[str]) -> None:
    """Load prompts of runs in the what-if process before a title is sent."""
    whatif.preload(engine.workspace(), prompts)


def ask(prompts: str, user: str, title: str) -> Prediction:
    """Return the prediction of a user's outcome for a title. Raises PumaError."""
    return whatif.predict(engine.workspace(), prompts, user, title)


def settings_rows(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names with texts, without empty ones and lists."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += settings_rows(value, f"{prefix}{name}.")
        elif value is not None and not isinstance(value, list):
            rows.append((f"{prefix}{name}", str(value)))
    return rows
