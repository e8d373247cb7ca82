"""The effect of a migration on single users, reduced on the server to what a page shows."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import PumaError, Run
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
class EvaluationPair:
    """An evaluation of a comparison (a run id) and the reference evaluation it is compared with."""

    run: str
    evaluation: str
    reference: str
    ratings: bool


@dataclass(frozen=True)
class ImpactSummary:
    """What a page shows of all users.

    better, worse: shares of users with a lower and a higher loss. regressing: number of users who
    regress with high probability. points: a seeded sample of users; listed: the users most likely
    to regress (both with user_id, n, first, second, gap and probability). bars: a histogram of
    the differences.
    """

    users: int
    better: float
    worse: float
    regressing: int
    repeated: Interval | None
    points: pd.DataFrame
    listed: pd.DataFrame
    bars: pd.DataFrame


@st.cache_data(max_entries=30, show_spinner=False)
def impact(root: str, pair: EvaluationPair) -> ImpactSummary | None:
    """Return the impact on all users; None if their predictions are gone."""
    impact = _impact(root, pair)
    if impact is None:
        return None
    effects = impact.effects
    return ImpactSummary(
        effects.users,
        impact.better,
        impact.worse,
        len(effects.worse()),
        effects.repeated,
        with_values(impact.sample, ratings=pair.ratings),
        with_values(effects.frame.head(LISTED_USERS), ratings=pair.ratings),
        impact.bars,
    )


@st.cache_data(max_entries=60, show_spinner=False)
def groups(root: str, pair: EvaluationPair, by: str) -> pd.DataFrame:
    """Return the difference in each group of users; raises PumaError if predictions are gone.

    by: variance or train_rows for their fifths, or the id of a selection run for its clusters.
    """
    if by in GROUPED_BY:
        impact = _impact(root, pair)
        if impact is None:
            raise PumaError("The predictions behind this comparison are gone; evaluate them again.")
        table = impact.groups[by]
    else:
        cluster = engine.table(root, by, "selection").set_index("user_id")["cluster"]
        labels = cluster.map(lambda number: f"Cluster {number + 1:02}")
        names = {f"loss_{pair.reference}": "reference", f"loss_{pair.evaluation}": "loss"}
        users = comparison_users(Workspace.open(root), pair.run)
        losses = users[["user_id", "n", *names]].rename(columns=names)
        table = by_group(losses, labels, root=pair.ratings)
    return table.rename(columns={"group": "label"}).astype({"label": str})


def all_users(root: str, pair: EvaluationPair) -> pd.DataFrame:
    """Return every user with both values and the probability to regress."""
    users = comparison_users(Workspace.open(root), pair.run)
    effects = effects_between(users, pair.evaluation, pair.reference)
    return with_values(effects.frame, ratings=pair.ratings)


@st.cache_resource(max_entries=4, show_spinner=False)
def _impact(root: str, pair: EvaluationPair) -> UserImpact | None:
    ws = Workspace.open(root)
    return user_impact_between(ws, ws.run(pair.run), pair.evaluation)


def clusterings(migration: str | None) -> list[Run]:
    """Return selections that clustered users, those that a migration used first."""
    clustered = [
        run
        for run in engine.runs("selection")
        if "cluster_sizes" in (run.summary.get("report") or {})
    ]
    used = set()
    if migration is not None:
        used = {run.id for run in engine.workspace().lineage(migration)}
    return sorted(clustered, key=lambda run: run.id not in used)
