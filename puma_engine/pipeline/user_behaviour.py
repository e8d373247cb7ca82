"""The behaviour of users under several methods: over anchor items, or over held-out records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from puma_engine.backbone.templates import template_label
from puma_engine.errors import DataError, StoreError
from puma_engine.maps.behaviour import anchor_behaviour, behaviour
from puma_engine.pipeline.anchors import common_anchors, read_anchors
from puma_engine.pipeline.evaluating import is_of_prompts_alone, read_predictions
from puma_engine.store import Run, Workspace

# Largest numbers of rows, and of predictions of anchor items, that are read.
MAX_ROWS = 2_000_000
MAX_ANCHOR_PREDICTIONS = 10_000_000


@dataclass(frozen=True)
class Behaviour:
    """Behaviour of several methods: each user's mean and spread of predictions.

    frame: a row for each user with user_id, outcome (mean actual outcome of held-out records), and
    mean_0, spread_0, mean_1 and so on, in the order of the methods. anchors: number of anchor
    items; 0 if means and spreads are over the held-out records that all methods predicted.
    """

    frame: pd.DataFrame
    anchors: int


def behaviour_of_evaluations(
    ws: Workspace, evaluations: Sequence[str], max_users: int
) -> Behaviour | None:
    """Return the behaviour of at most `max_users` users, over anchor items if all methods have them.

    None if predictions are missing or too many.
    """
    held_out = read_behaviour(ws, evaluations, max_users)
    anchors = _anchors_of(ws, evaluations)
    if held_out is None or not anchors:
        return None if held_out is None else Behaviour(held_out, 0)
    frame = read_anchor_behaviour(ws, [run.id for run in anchors])
    if frame is None:
        return Behaviour(held_out, 0)
    joined = held_out[["user_id", "outcome"]].merge(frame, on="user_id")
    return Behaviour(joined, int(anchors[0].summary["anchors"]))


def _anchors_of(ws: Workspace, evaluations: Sequence[str]) -> list[Run] | None:
    """Return the anchor predictions of evaluated prompts, in their own template; None if one has none."""
    prompts = []
    for name in evaluations:
        evaluation = ws.run(name)
        if not is_of_prompts_alone(evaluation):
            return None
        fitted = ws.run(evaluation.inputs["prompts"])
        if template_label(evaluation.config) != template_label(fitted.config):
            return None
        prompts.append(fitted.id)
    return common_anchors(ws, prompts)


def read_anchor_behaviour(ws: Workspace, anchors: Sequence[str]) -> pd.DataFrame | None:
    """Return the behaviour of users over the items of some runs of kind anchors.

    See `puma_engine.maps.behaviour.anchor_behaviour`. None if there are more predictions than
    MAX_ANCHOR_PREDICTIONS. Raises NotFoundError, StoreError.
    """
    runs = [ws.run(name) for name in anchors]
    if any(run.summary["users"] * run.summary["anchors"] > MAX_ANCHOR_PREDICTIONS for run in runs):
        return None
    tables = [read_anchors(ws, run) for run in runs]
    return anchor_behaviour([(table.users, table.predictions) for table in tables])


def read_behaviour(
    ws: Workspace, evaluations: Sequence[str], max_users: int | None = None
) -> pd.DataFrame | None:
    """Return the behaviour of users under evaluations, see `puma_engine.maps.behaviour`.

    max_users: the largest number of users, drawn with a fixed seed before their rows are read. None
    if predictions are missing or there are more than MAX_ROWS rows.
    """
    try:
        if any(ws.run(name).summary.get("rows", 0) > MAX_ROWS for name in evaluations):
            return None
        users = None if max_users is None else _drawn_users(ws, evaluations, max_users)
        return behaviour([read_predictions(ws, name, users=users) for name in evaluations])
    except (StoreError, DataError):
        return None


def _drawn_users(ws: Workspace, evaluations: Sequence[str], max_users: int) -> list[str]:
    """Draw at most `max_users` of the users with two rows or more in each evaluation."""
    several = []
    for name in evaluations:
        rows = read_predictions(ws, name, columns=["user_id"])["user_id"].value_counts()
        several.append(rows.index[rows > 1])
    users = reduce(pd.Index.intersection, several).sort_values()
    draws = np.random.default_rng(0).choice(len(users), min(max_users, len(users)), replace=False)
    return [str(user) for user in users[np.sort(draws)]]
