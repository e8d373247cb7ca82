"""Comparisons: which evaluations can be compared, finished comparisons, and their verdicts."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Job, Run, StoreError
from puma_engine.defaults import MARGIN
from puma_engine.evaluation import summaries
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.formatting import method_names
from puma_engine.evaluation.metrics import PRIMARY_METRIC, RANKING_METRIC, Interval, metrics_of
from puma_engine.evaluation.shares_kept import ASPECTS, REFERENCES, aspect_label
from puma_engine.evaluation.verdict import MAX_MARGIN, Verdict
from puma_engine.pipeline.comparing import (
    comparison_scores,
    comparison_shares,
    find_comparison,
)
from puma_engine.pipeline.method_survey import evaluated_methods, gain_between
from puma_engine.pipeline.stage import slug
from puma_engine.pipeline.verdicts import judge_comparison, with_arithmetic, with_backbones
from puma_engine.store import Workspace

__all__ = [
    "ASPECTS",
    "MARGIN",
    "MAX_MARGIN",
    "PRIMARY_METRIC",
    "RANKING_METRIC",
    "REFERENCES",
    "Verdict",
    "aspect_label",
    "metrics_of",
    "summaries",
]


@dataclass(frozen=True)
class DataSplit:
    """A data set run and one of its splits: evaluations on the same rows can be compared."""

    dataset: str
    split: str
    name: str
    task: str

    @property
    def id(self) -> str:
        """A short text for an address."""
        return f"{self.dataset}-{self.split}"


def splits() -> list[DataSplit]:
    """Return every data set and split with an evaluation, the last evaluated first."""
    names = {run.id: run.name for run in engine.runs("dataset")}
    evaluated = {}
    for run in engine.runs("evaluation"):
        key = (run.inputs.get("dataset", ""), str(run.summary.get("split")))
        if key[0] in names and key not in evaluated:
            evaluated[key] = DataSplit(
                *key, f"{names[key[0]]}, {key[1]} split", run.summary["task"]
            )
    return list(evaluated.values())


def own_first(runs: list[Run]) -> list[Run]:
    """Return comparisons with this workspace's own before published ones; pages open with the first."""
    return sorted(runs, key=lambda run: run.published is not None)


def judged_migration() -> str | None:
    """Return the migration that the first verdict on the page Summary is about; None without one."""
    for run in own_first(engine.runs("comparison"))[:1]:
        try:
            method = verdict(engine.root(), run.id).method
            table, _ = tables(engine.root(), run.id)
        except engine.PumaError:  # the pages of the comparison say what is wrong with it
            return None
        return next((row.run for row in table.itertuples() if row.method == method), None)
    return None


def split_of(run: Run) -> DataSplit | None:
    """Return the data split of a comparison; None if it is gone."""
    reference = engine.run(run.inputs["reference"]) if "reference" in run.inputs else None
    key = (reference.inputs.get("dataset") if reference else None, str(run.summary.get("split")))
    return next((split for split in splits() if (split.dataset, split.split) == key), None)


def methods(split: DataSplit) -> pd.DataFrame:
    """Return every method evaluated on a data split; see puma_engine.pipeline.method_survey."""
    row = engine.workspace().query(
        "SELECT count(*) AS n, max(finished) AS last, sum(length(name)) AS names FROM runs"
    )[0]
    # The stamp changes when a run is finished, renamed or deleted.
    stamp = f"{row['n']} {row['last']} {row['names']}"
    return _methods(engine.root(), stamp, split.dataset, split.split)


# Streamlit hashes no argument whose name begins with an underscore, so the stamp has none.
@st.cache_data(max_entries=20, show_spinner=False)
def _methods(root: str, stamp: str, dataset: str, split: str) -> pd.DataFrame:
    table = evaluated_methods(Workspace.open(root), dataset, split)
    return table.assign(label=table["label"].map(method_names(table["label"])))


def members(run: Run) -> list[str]:
    """Return the evaluation ids of a comparison."""
    return [run_id for role, run_id in run.inputs.items() if role.startswith("evaluation_")]


def is_baseline(run: Run) -> bool:
    """Say whether an evaluation is of a method without a language model."""
    return run.config.get("method") in BASELINES


def lacks_baselines(evaluated: pd.DataFrame) -> bool:
    """Say whether some method without a language model is missing from evaluated methods."""
    return int((evaluated["kind"] == "baseline").sum()) < len(BASELINES)


def newer_evaluations(comparison: Run, evaluations: list[Run]) -> list[Run]:
    """Return evaluations on a comparison's data and split that are newer than the comparison."""
    used = set(comparison.inputs.values())
    first = next((run for run in evaluations if run.id in used), None)
    if first is None:
        return []
    data_and_split = (first.inputs.get("dataset"), first.config.get("split"))
    return [
        run
        for run in evaluations
        if run.id not in used
        and run.created > comparison.created
        and (run.inputs.get("dataset"), run.config.get("split")) == data_and_split
    ]


def find(evaluations: list[str], reference: str) -> Run | None:
    """Return the comparison of these evaluations with this reference, in any status."""
    if len(set(evaluations)) < 2:
        return None
    return find_comparison(engine.workspace(), evaluations, reference=reference)


def request(split: DataSplit, evaluations: list[str], reference: str) -> Job:
    """Queue a comparison, baselines included. Raises StoreError if an evaluation is gone."""
    allowed = set(methods(split)["evaluation"])
    if not evaluations or not set(evaluations) <= allowed or reference not in evaluations:
        raise StoreError(
            "Some of the chosen methods are no longer in the workspace; reload the page."
        )
    args = _arguments(evaluations, reference)
    name = slug("compare", split.name.split(",")[0], split.split, f"{len(evaluations)}-methods")
    pinned = engine.run(reference).name
    return engine.queue("compare", args | {"name": name}, f"Compare with {pinned}"[:150])


def pending(evaluations: list[str], reference: str) -> Job | None:
    """Return the latest job queued for this comparison, in any status."""
    arguments = _arguments(evaluations, reference)
    jobs = (job for job in engine.jobs(limit=100) if job.command == "compare")
    return next((job for job in jobs if arguments.items() <= job.args.items()), None)


def _arguments(evaluations: list[str], reference: str) -> dict[str, Any]:
    return {"evaluations": sorted(evaluations), "reference": reference, "baselines": True}


@st.cache_data(max_entries=50, show_spinner=False)
def tables(root: str, run_id: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the methods of a comparison (with backbones and arithmetic) and their scores.

    Here and in `shares` and `verdict`, methods have their names in plain words.
    """
    ws = Workspace.open(root)
    methods = with_arithmetic(ws, with_backbones(ws, ws.get_table(run_id, "methods")))
    return _named(ws, run_id, methods), _named(ws, run_id, comparison_scores(ws, run_id))


def names(ws: Workspace, run_id: str) -> dict[str, str]:
    """Return the names in plain words of a comparison's methods, by their stored labels."""
    return method_names(ws.get_table(run_id, "methods")["method"])


def _named(ws: Workspace, run_id: str, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(method=table["method"].map(names(ws, run_id)))


@st.cache_data(max_entries=50, show_spinner=False)
def shares(root: str, run_id: str) -> pd.DataFrame:
    """Return what the methods of a comparison keep of full retraining's gain; may be empty."""
    ws = Workspace.open(root)
    return _named(ws, run_id, comparison_shares(ws, run_id))


@st.cache_data(max_entries=50, show_spinner=False)
def verdict(root: str, run_id: str, margin: float = MARGIN) -> Verdict:
    """Return the verdict of a comparison. Raises PumaError if its tables are gone or outdated."""
    try:
        ws = Workspace.open(root)
        result = judge_comparison(ws, run_id, margin=margin)
        known = names(ws, run_id)
        method, reference = (
            None if label is None else known[label] for label in (result.method, result.reference)
        )
        return replace(result, method=method, reference=reference)
    except (KeyError, IndexError) as error:
        raise StoreError(
            "The comparison's tables are not those of this version; make it again."
        ) from error


@st.cache_data(max_entries=500, show_spinner=False)
def gain(root: str, reference: str, other: str, metric: str) -> Interval | None:
    """Return the gain of one evaluation over another, with its interval over users."""
    return gain_between(Workspace.open(root), reference, other, metric)
