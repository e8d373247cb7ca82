"""Behaviour of users: the mean and the spread of the predictions of their prompts.

Both are in units of the outcome, so maps of different models are comparable without alignment.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

AGREEMENT_USERS = 2_000
KEYS = ["user_id", "item_id"]


def anchor_behaviour(tables: Sequence[tuple[Sequence[str], np.ndarray]]) -> pd.DataFrame:
    """Return the mean and standard deviation of each user's predictions for common items.

    tables: for each method, users and their predictions [users, items] of the same items. Returns
    user_id, mean_0, spread_0, mean_1 and so on, for the users that all tables have, sorted by id.
    """
    first, *others = (pd.Index(ids, dtype="str") for ids, _ in tables)
    same_items = all(first.equals(other) for other in others)
    users = (first if same_items else reduce(pd.Index.intersection, others, first)).sort_values()
    result: dict[str, Any] = {"user_id": pd.array(users, dtype="str")}
    rows = first.get_indexer(users)
    for number, (ids, predictions) in enumerate(tables):
        if number and not same_items:
            rows = pd.Index(ids, dtype="str").get_indexer(users)
        values = predictions[rows].astype(np.float64)
        result[f"mean_{number}"] = values.mean(axis=1)
        result[f"spread_{number}"] = values.std(axis=1, ddof=1)
    return pd.DataFrame(result)


def order_agreement(predictions: np.ndarray) -> float:
    """Return how similar the orders of items are by different users' predictions.

    predictions: [users, items]. The result is the mean of Spearman's rank correlation over pairs of
    users, of at most AGREEMENT_USERS drawn with a fixed seed: 1 if all users have the same order,
    about 0 if orders are independent. Users whose predictions are all equal have no order and do
    not count. NaN with fewer than two users.
    """
    if len(predictions) > AGREEMENT_USERS:
        sampled = np.random.default_rng(0).choice(len(predictions), AGREEMENT_USERS, replace=False)
        predictions = predictions[sampled]
    ranks = pd.DataFrame(predictions).rank(axis=1).to_numpy(np.float64)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    ranks = ranks[norms > 0] / norms[norms > 0, None]
    count = len(ranks)
    if count < 2:
        return float("nan")
    # The sum of correlations over all pairs is the square of the summed vectors minus the sum of squares.
    return float((np.square(ranks.sum(axis=0)).sum() - count) / (count * (count - 1)))


def behaviour(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean and standard deviation of each user's predictions under several methods.

    tables: user_id, item_id, outcome and prediction of each method. Only records that all tables
    have are counted, and only users with two such records or more, so that all methods are
    compared on the same titles of the same users. Returns user_id, rows, outcome (mean actual
    outcome), and mean_0, spread_0, mean_1 and so on, in the order of the tables.
    """
    first, *others = (table.reset_index(drop=True) for table in tables)
    if all(first[KEYS].equals(other[KEYS]) for other in others):
        joined = first.assign(
            **{f"prediction_{number}": table["prediction"] for number, table in enumerate(tables)}
        )
    else:
        joined = first.drop_duplicates(KEYS)
        joined["prediction_0"] = joined["prediction"]
        for number, table in enumerate(others, start=1):
            column = table.drop_duplicates(KEYS)[[*KEYS, "prediction"]]
            column = column.rename(columns={"prediction": f"prediction_{number}"})
            joined = joined.merge(column, on=KEYS)
    codes, users = pd.factorize(joined["user_id"], sort=True)
    rows = np.bincount(codes, minlength=len(users))
    several = rows > 1

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(codes, weights=values, minlength=len(users)) / np.maximum(rows, 1)

    result = {
        "user_id": pd.array(users, dtype="str")[several],
        "rows": rows[several],
        "outcome": mean(joined["outcome"].to_numpy(np.float64))[several],
    }
    for number in range(len(tables)):
        values = joined[f"prediction_{number}"].to_numpy(np.float64)
        centre = mean(values)
        squares = mean((values - centre[codes]) ** 2)
        spread = np.sqrt(squares[several] * rows[several] / (rows[several] - 1))
        result[f"mean_{number}"], result[f"spread_{number}"] = centre[several], spread
    return pd.DataFrame(result)
