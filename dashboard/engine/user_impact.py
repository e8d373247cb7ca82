"""Who gains and who loses in a comparison, boiled down on the server to what a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Run
from puma_engine.errors import PumaError
from puma_engine.evaluation.metrics import Interval
from puma_engine.evaluation.user_effects import (
    GROUPED_BY,
    LISTED_USERS,
    SURE,
    UserImpact,
    by_group,
    effects_between,
    with_values,
)
from puma_engine.pipeline.comparing import comparison_users
from puma_engine.pipeline.verdicts import user_impact_between
from puma_engine.store import Workspace

__all__ = ["SURE"]


@dataclass(frozen=True)
class Pair:
    """One evaluation of a comparison set against another one."""

    run: str
    evaluation: str
    reference: str
    ratings: bool


@dataclass(frozen=True)
class Gains:
    """What a page shows of all users.

    better, worse: shares of users with a lower and a higher loss. sure: how many surely
    regress. points: a seeded sample of users; listed: those most likely to regress (both
    with user_id, n, first, second, gap and probability); bars: how many differ by how much.
    """

    users: int
    better: float
    worse: float
    sure: int
    repeated: Interval | None
    points: pd.DataFrame
    listed: pd.DataFrame
    bars: pd.DataFrame


@st.cache_data(max_entries=30, show_spinner=False)
def gains(root: str, pair: Pair) -> Gains | None:
    """Return what is to be seen of all users; None if their predictions are gone."""
    found = _fared(root, pair)
    if found is None:
        return None
    effects = found.effects
    return Gains(
        effects.users,
        found.better,
        found.worse,
        len(effects.worse()),
        effects.repeated,
        with_values(found.sample, ratings=pair.ratings),
        with_values(effects.frame.head(LISTED_USERS), ratings=pair.ratings),
        found.bars,
    )


@st.cache_data(max_entries=60, show_spinner=False)
def groups(root: str, pair: Pair, by: str) -> pd.DataFrame:
    """Return the difference in each group of users.

    by: variance or train_rows, in fifths, or the id of a selection run, by its clusters.
    """
    if by in GROUPED_BY:
        found = _fared(root, pair)
        if found is None:
            raise PumaError("The predictions behind this comparison are gone; evaluate them again.")
        table = found.groups[by]
    else:
        chosen = engine.table(root, by, "selection").set_index("user_id")["cluster"]
        labels = chosen.map(lambda one: f"Cluster {one + 1:02}")
        names = {f"loss_{pair.reference}": "reference", f"loss_{pair.evaluation}": "loss"}
        users = comparison_users(Workspace.open(root), pair.run)
        own = users[["user_id", "n", *names]].rename(columns=names)
        table = by_group(own, labels, root=pair.ratings)
    return table.rename(columns={"group": "label"}).astype({"label": str})


def everybody(root: str, pair: Pair) -> pd.DataFrame:
    """Return every user with both values and the probability to regress."""
    users = comparison_users(Workspace.open(root), pair.run)
    effects = effects_between(users, pair.evaluation, pair.reference)
    return with_values(effects.frame, ratings=pair.ratings)


@st.cache_resource(max_entries=4, show_spinner=False)
def _fared(root: str, pair: Pair) -> UserImpact | None:
    ws = Workspace.open(root)
    return user_impact_between(ws, ws.run(pair.run), pair.evaluation)


def clusterings(migration: str | None) -> list[Run]:
    """Selections that put users into clusters, those that the migration used first."""
    found = [run for run in engine.runs("selection") if "cluster_sizes" in _report(run)]
    used = set()
    if migration is not None:
        used = {run.id for run in engine.workspace().lineage(migration)}
    return sorted(found, key=lambda run: run.id not in used)


def _report(run: Run) -> dict[str, Any]:
    return run.summary.get("report") or {}
