"""The behaviour of users under several evaluations, from their stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pandas as pd

from puma_engine.errors import DataError, StoreError
from puma_engine.maps.behaviour import behaviour
from puma_engine.pipeline.evaluating import read_predictions
from puma_engine.store import Workspace

# More rows are not read.
MAX_ROWS = 2_000_000


def read_behaviour(
    ws: Workspace, evaluations: Sequence[str], most: int | None = None
) -> pd.DataFrame | None:
    """Return the behaviour of users under evaluations, see `puma_engine.maps.behaviour`.

    most: of at most so many users, drawn with a fixed seed before their rows are read. None if
    predictions are gone or there are more than MAX_ROWS rows.
    """
    try:
        if any(ws.run(name).summary.get("rows", 0) > MAX_ROWS for name in evaluations):
            return None
        users = None if most is None else _drawn_users(ws, evaluations, most)
        return behaviour([read_predictions(ws, name, users=users) for name in evaluations])
    except (StoreError, DataError):
        return None


def _drawn_users(ws: Workspace, evaluations: Sequence[str], most: int) -> list[str]:
    """Draw at most so many of the users with two rows or more in each evaluation."""
    several = []
    for name in evaluations:
        rows = read_predictions(ws, name, columns=["user_id"])["user_id"].value_counts()
        several.append(rows.index[rows > 1])
    users = reduce(pd.Index.intersection, several).sort_values()
    draws = np.random.default_rng(0).choice(len(users), min(most, len(users)), replace=False)
    return [str(user) for user in users[np.sort(draws)]]
