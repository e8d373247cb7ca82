"""The effect of a migration on single users, reduced on the server to what a page shows."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import PumaError, Run
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

__all__ = ["LISTED_USERS", "SURE", "UserImpact", "with_values"]


@dataclass(frozen=True)
class EvaluationPair:
    """An evaluation of a comparison (a run id) and the reference evaluation it is compared with."""

    run: str
    evaluation: str
    reference: str
    ratings: bool


@st.cache_resource(max_entries=4, show_spinner=False)
def impact(root: str, pair: EvaluationPair) -> UserImpact | None:
    """Return the impact on all users; None if their predictions are gone."""
    ws = Workspace.open(root)
    return user_impact_between(ws, ws.run(pair.run), pair.evaluation)


@st.cache_data(max_entries=60, show_spinner=False)
def groups(root: str, pair: EvaluationPair, by: str) -> pd.DataFrame:
    """Return the difference in each group of users; raises PumaError if predictions are gone.

    by: variance or train_rows for their fifths, or the id of a selection run for its clusters.
    """
    if by in GROUPED_BY:
        measured = impact(root, pair)
        if measured is None:
            raise PumaError("The predictions behind this comparison are gone; evaluate them again.")
        table = measured.groups[by]
    else:
        cluster = Workspace.open(root).get_table(by, "selection").set_index("user_id")["cluster"]
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
