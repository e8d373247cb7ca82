"""All users of a large map, of whom the page Users draws a sample or counts everybody."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.engine import Run, Workspace
from puma_engine.pipeline.evaluating import ids_of, read_user_metric
from puma_engine.pipeline.projecting import PLACES

# For so many users the scores are looked up one by one, not read for everybody.
FEW = 1000


def has_everybody(projection: Run) -> bool:
    """Say whether a map keeps the places of users who are not drawn."""
    return bool(projection.summary.get("placed"))


@st.cache_resource(max_entries=2, show_spinner=False)
def everybody(root: str, projection_id: str) -> pd.DataFrame:
    """Return every user of a map by row, with the columns of the map's table."""
    return Workspace.open(root).get_table(projection_id, PLACES)


@st.cache_data(max_entries=20, show_spinner=False)
def extent(root: str, projection_id: str) -> pd.DataFrame:
    """Return the least and the greatest coordinates of all users of a map, one row each."""
    columns = ["source_x", "source_y", "migrated_x", "migrated_y"]
    return (
        Workspace.open(root).get_table(projection_id, PLACES, columns=columns).agg(["min", "max"])
    )


@st.cache_resource(max_entries=6, show_spinner=False)
def scores(root: str, evaluation: str, metric: str, projection_id: str) -> np.ndarray:
    """Return one metric of every user of a map by row, float32; NaN where it is not measured."""
    users = ids_of(everybody(root, projection_id))
    return read_user_metric(Workspace.open(root), evaluation, metric, users)


def scores_of(root: str, evaluation: str, metric: str, users: list[str]) -> np.ndarray:
    """Return one metric of at most FEW users, in their order."""
    found = Workspace.open(root).user_metrics(evaluation, users)
    if metric not in found:
        return np.full(len(users), np.nan)
    return found.set_index("user_id")[metric].reindex(users).to_numpy(dtype=float)
