"""What the Summary shows of a comparison: its question, the plans, and the behaviour of users."""

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Run, comparisons
from dashboard.engine.comparisons import MARGIN
from dashboard.engine.user_impact import EvaluationPair, impact
from puma_engine.errors import DataError, StoreError
from puma_engine.evaluation.formatting import format_percent, round_up_percent
from puma_engine.evaluation.user_effects import LIKELY, UserEffects
from puma_engine.evaluation.verdict import MIGRATED, Breakpoint, breakpoints
from puma_engine.pipeline.evaluating import read_predictions
from puma_engine.pipeline.verdicts import comparison_data
from puma_engine.store import Workspace

__all__ = [
    "LIKELY",
    "MIGRATED",
    "Breakpoint",
    "format_percent",
    "round_up_percent",
]

# Behaviour is not drawn for comparisons of more rows, because it is computed on the page.
MAX_ROWS = 2_000_000
MAX_DRAWN = 2_000


@dataclass(frozen=True)
class Question:
    """What a comparison answers. source, target: names of models, "" where they are unknown."""

    users: int
    source: str
    target: str
    data: str
    device: str
    seeds: int


def question(run: Run, plans: pd.DataFrame, method: str | None) -> Question:
    """Return the question of a comparison. method: the judged migration."""
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    judged = plans[plans["method"] == method]
    retrained = plans[plans["is_baseline"].astype(bool)]
    trained = plans[plans["kind"].isin((*MIGRATED, "retrained"))]
    devices = dict.fromkeys(str(name) for name in trained["device"].dropna())
    return Question(
        int(run.summary["users"]),
        _first(judged["origin"]),
        _first(retrained["backbone"]) or _first(judged["backbone"]),
        split.name if split else f"{run.summary['split']} split",
        ", ".join(devices),
        int(trained["seed"].dropna().nunique()),
    )


def _first(names: pd.Series) -> str:
    return next((str(name) for name in names.dropna()), "")


def plans(run: Run) -> pd.DataFrame:
    """Return one row a method of a comparison: what it keeps of full retraining's gain, its cost.

    Columns of the table "methods", and: origin (the model its prompts came
    from), flops, reference (what gains are measured from), kept, kept_low, kept_high (of the level)
    and ranking, ranking_low, ranking_high, which are shares, NaN where they are not measured.
    """
    methods, _ = comparisons.tables(engine.root(), run.id)
    shares = comparisons.shares(engine.root(), run.id)
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    frame = methods
    if split is not None:
        known = comparisons.methods(split)[["evaluation", "origin", "flops"]]
        frame = frame.merge(known, on="evaluation", how="left")
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, "origin", "flops"])))
    reference = next(
        (
            name
            for name in comparisons.REFERENCES
            if shares.loc[shares["reference"] == name, "share"].notna().any()
        ),
        "",
    )
    frame["reference"] = reference
    for aspect, prefix in (("level", "kept"), ("ranking", "ranking")):
        chosen = shares[(shares["reference"] == reference) & (shares["aspect"] == aspect)]
        by_method = chosen.set_index("method")
        for column, end in (("share", ""), ("share_low", "_low"), ("share_high", "_high")):
            frame[f"{prefix}{end}"] = frame["method"].map(by_method[column]).astype(float)
    return frame


@st.cache_data(max_entries=50, show_spinner=False)
def switch_points(root: str, run_id: str) -> tuple[Breakpoint, ...]:
    """Return from which margin on each migration is recommended. Raises PumaError."""
    try:
        ws = Workspace.open(root)
        points = breakpoints(comparison_data(ws, run_id, margin=MARGIN))
        known = comparisons.names(ws, run_id)
        return tuple(replace(point, method=known[point.method]) for point in points)
    except (KeyError, IndexError) as error:
        raise StoreError("The comparison's tables are not those of this version.") from error


def effects(run: Run, evaluation: str) -> UserEffects | None:
    """Return the effects of an evaluation on users; None if predictions are gone."""
    reference = run.inputs.get("reference")
    if reference is None:
        return None
    ratings = run.summary["task"] == "rating"
    measured = impact(engine.root(), EvaluationPair(run.id, evaluation, reference, ratings))
    return None if measured is None else measured.effects


@st.cache_data(max_entries=20, show_spinner=False)
def behaviour(root: str, evaluations: tuple[str, ...]) -> pd.DataFrame | None:
    """Return the mean and the standard deviation of each user's predictions, by evaluation.

    They are over the held-out rows that all evaluations predicted, of users with two or more; of
    at most MAX_DRAWN users, drawn with a fixed seed before their rows are read. Columns: evaluation,
    user_id, mean, spread, outcome (the mean true outcome). None if predictions are gone or there are
    too many rows.
    """
    ws = Workspace.open(root)
    keys = ["user_id", "item_id"]
    try:
        if any(ws.run(name).summary.get("rows", 0) > MAX_ROWS for name in evaluations):
            return None
        users = _drawn_users(ws, evaluations)
        tables = [read_predictions(ws, name, users=users).set_index(keys) for name in evaluations]
    except (StoreError, DataError):
        return None
    common = reduce(pd.Index.intersection, (table.index for table in tables))
    rows = []
    for name, table in zip(evaluations, tables, strict=True):
        by_user = table.loc[common].groupby(level="user_id")
        measured = by_user["prediction"].agg(mean="mean", spread="std").dropna()
        measured["outcome"] = by_user["outcome"].mean()
        rows.append(measured.reset_index().assign(evaluation=name))
    return pd.concat(rows, ignore_index=True)


def _drawn_users(ws: Workspace, evaluations: tuple[str, ...]) -> list[str]:
    """Draw at most MAX_DRAWN of the users with two rows or more in each evaluation."""
    several = []
    for name in evaluations:
        rows = read_predictions(ws, name, columns=["user_id"])["user_id"].value_counts()
        several.append(rows.index[rows > 1])
    users = reduce(pd.Index.intersection, several).sort_values()
    count = min(MAX_DRAWN, len(users))
    draws = np.random.default_rng(0).choice(len(users), count, replace=False)
    return [str(user) for user in users[np.sort(draws)]]
