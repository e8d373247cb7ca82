"""What the page Users knows of each user: places on the maps, and figures to colour and list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dashboard import engine
from dashboard.components.text import short
from dashboard.components.theme import LOWER_IS_BETTER
from dashboard.engine import METRICS
from dashboard.engine import maps as read


@dataclass
class Shown:
    """What the page shows: the two tables, their map, and each user's figures."""

    source: engine.Run
    migration: engine.Run
    projection: engine.Run
    frame: pd.DataFrame
    points: dict[str, np.ndarray]

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
        label = f"source prompts on held-out rows: {METRICS[metric]}"
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


def gain_of(shown: Shown) -> np.ndarray:
    """How much better each user is served by the migration than by retraining, [n]."""
    retrained = read.retraining_of(shown.migration)
    if retrained is None:
        return np.full(len(shown.frame), np.nan)
    metric = read.metric_of(shown.source)
    gain = scores_of(shown, retrained, metric) - scores_of(shown, shown.migration, metric)
    return gain if metric in LOWER_IS_BETTER else -gain


def scores_of(shown: Shown, prompts: engine.Run, metric: str) -> np.ndarray:
    """A metric of each user in the newest evaluation of a prompt table, [n]; NaN if not measured."""
    evaluation = read.evaluation_of(prompts.id)
    if evaluation is None:
        return np.full(len(shown.frame), np.nan)
    return read.scores(engine.root(), evaluation.id, metric, shown.projection.id)


def table_of(shown: Shown, chosen: np.ndarray | None, rows: np.ndarray) -> pd.DataFrame:
    """The users of some rows with their figures, as people read them."""
    metric = read.metric_of(shown.source)
    frame = shown.frame.iloc[rows]
    columns = {
        "User": [short(user) for user in frame["user_id"]],
        "Cluster": frame["cluster"].to_numpy() + 1,
        "Variance": frame["variance"].to_numpy(),
        f"Source, {metric}": scores_of(shown, shown.source, metric)[rows],
        f"Migrated, {metric}": scores_of(shown, shown.migration, metric)[rows],
        "Gain over retraining": gain_of(shown)[rows],
    }
    if chosen is not None:
        columns["Trains the adapter"] = chosen[rows]
    return pd.DataFrame(columns)
