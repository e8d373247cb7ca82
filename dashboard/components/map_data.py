"""What the page Users knows of each user: places on the maps, and figures to colour and list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dashboard import engine
from dashboard.components.formatting import short
from dashboard.engine import METRICS, large_maps
from dashboard.engine import user_maps as read


@dataclass
class Shown:
    """What the page shows: the two tables, their map, and each user's figures.

    everybody: frame and points are of all users, not of those who are drawn.
    """

    source: engine.Run
    migration: engine.Run
    projection: engine.Run
    frame: pd.DataFrame
    points: dict[str, np.ndarray]
    everybody: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return engine.root(), self.projection.id


def values_of(shown: Shown, colour: str) -> tuple[np.ndarray, str, str]:
    """A number for each user to colour by, what it is, and what is missing for it (or nothing)."""
    metric = read.metric_of(shown.source)
    if colour == "variance":
        return shown.frame["variance"].to_numpy(), "variance of a user's train outcomes", ""
    if colour == "loss":
        values = scores_of(shown, shown.source, metric)
        label = f"source prompts on held-out rows: {METRICS[metric].axis}"
        return (
            values,
            label,
            ""
            if np.isfinite(values).any()
            else (
                "The loss is the source prompts' error on held-out rows; evaluate them to see it."
            ),
        )
    if colour == "gain":
        values = gain_of(shown)
        return (
            values,
            f"gain in {metric}: above 0 migrating is better",
            (
                ""
                if np.isfinite(values).any()
                else "The gain needs evaluations of this migration and of a full retraining on its model."
            ),
        )
    return np.empty(0), "", ""


def gain_of(shown: Shown, rows: np.ndarray | None = None) -> np.ndarray:
    """How much better users are served by the migration than by retraining; see scores_of."""
    retrained, metric = read.retraining_of(shown.migration), read.metric_of(shown.source)
    if retrained is None:
        return np.full(len(shown.frame if rows is None else rows), np.nan)
    gain = scores_of(shown, retrained, metric, rows) - scores_of(
        shown, shown.migration, metric, rows
    )
    return -gain if METRICS[metric].higher_is_better else gain


def scores_of(
    shown: Shown, prompts: engine.Run, metric: str, rows: np.ndarray | None = None
) -> np.ndarray:
    """A metric of each user, or of those of some rows, in the newest evaluation of a prompt table.

    NaN where it is not measured.
    """
    evaluation = read.evaluation_of(prompts.id)
    if evaluation is None:
        return np.full(len(shown.frame if rows is None else rows), np.nan)
    if shown.everybody and rows is not None and len(rows) <= large_maps.FEW:
        users = shown.frame["user_id"].iloc[rows].tolist()
        return large_maps.scores_of(engine.root(), evaluation.id, metric, users)
    scores = large_maps.scores if shown.everybody else read.scores
    found = scores(engine.root(), evaluation.id, metric, shown.projection.id)
    return found if rows is None else found[rows]


def table_of(shown: Shown, chosen: np.ndarray | None, rows: np.ndarray) -> pd.DataFrame:
    """The users of some rows with their figures, as people read them."""
    metric = read.metric_of(shown.source)
    frame = shown.frame.iloc[rows]
    columns = {
        "User": [short(user) for user in frame["user_id"]],
        "Cluster": frame["cluster"].to_numpy() + 1,
        "Variance": frame["variance"].to_numpy(),
        f"Source, {metric}": scores_of(shown, shown.source, metric, rows),
        f"Migrated, {metric}": scores_of(shown, shown.migration, metric, rows),
        "Gain over retraining": gain_of(shown, rows),
    }
    if chosen is not None:
        columns["Trains the adapter"] = chosen[rows]
    return pd.DataFrame(columns)
