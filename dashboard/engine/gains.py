"""Who gains and who loses in a comparison, boiled down on the server to what a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Run
from puma_engine.errors import PumaError
from puma_engine.metrics import Interval
from puma_engine.pipeline.comparing import comparison_users
from puma_engine.pipeline.judging import effects_between
from puma_engine.store import Workspace
from puma_engine.user_effects import (
    SURE,
    UserEffects,
    by_group,
    difference_bins,
    quantile_groups,
    with_values,
)

__all__ = ["SURE"]
MOST_POINTS = 20_000
MOST_LISTED = 200
BINS = 60


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
    effects = _effects(root, pair)
    if effects is None:
        return None
    users = with_values(effects.frame, ratings=pair.ratings)
    points = users.sample(min(MOST_POINTS, len(users)), random_state=0)
    return Gains(
        len(users),
        float((users["gap"] < 0).mean()),
        float((users["gap"] > 0).mean()),
        len(effects.worse()),
        effects.repeated,
        points,
        users.head(MOST_LISTED),
        difference_bins(users["gap"].to_numpy(), BINS),
    )


@st.cache_data(max_entries=60, show_spinner=False)
def groups(root: str, pair: Pair, by: str) -> pd.DataFrame:
    """Return the difference in each group of users.

    by: variance or train_rows, in fifths, or the id of a selection run, by its clusters.
    """
    users = comparison_users(Workspace.open(root), pair.run).set_index("user_id")
    if by in ("variance", "train_rows"):
        labels = quantile_groups(users[by])
    else:
        chosen = engine.table(root, by, "selection").set_index("user_id")["cluster"]
        labels = chosen.map(lambda one: f"Cluster {one + 1:02}")
    own = pd.DataFrame(
        {
            "user_id": users.index,
            "n": users["n"].to_numpy(),
            "reference": users[f"loss_{pair.reference}"].to_numpy(),
            "loss": users[f"loss_{pair.evaluation}"].to_numpy(),
        }
    )
    table = by_group(own, labels, root=pair.ratings).rename(columns={"group": "label"})
    return table.astype({"label": str})


def everybody(root: str, pair: Pair) -> pd.DataFrame:
    """Return every user with both values and the probability to regress."""
    effects = _effects(root, pair)
    if effects is None:
        raise PumaError("The predictions behind this comparison are gone; evaluate them again.")
    return with_values(effects.frame, ratings=pair.ratings)


def _effects(root: str, pair: Pair) -> UserEffects | None:
    try:
        users = comparison_users(Workspace.open(root), pair.run)
    except PumaError:
        return None
    return effects_between(users, pair.evaluation, pair.reference)


def clusterings(migration: str | None) -> list[Run]:
    """Selections that put users into clusters, those that the migration used first."""
    found = [run for run in engine.runs("selection") if "cluster_sizes" in _report(run)]
    used = set()
    if migration is not None:
        used = {run.id for run in engine.workspace().lineage(migration)}
    return sorted(found, key=lambda run: run.id not in used)


def _report(run: Run) -> dict[str, Any]:
    return run.summary.get("report") or {}
