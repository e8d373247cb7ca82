"""Metrics over all users from parts of a table of users, which is never in memory as a whole.

A metric over rows is a ratio of two sums over users, and so is a mean over users. Intervals have a
closed form: the variance of a ratio by linearisation (Cochran, Sampling Techniques, 1977), with
users as sampling units. The bootstrap of `metrics` would need all users at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from puma_engine.evaluation.metrics import METRICS, Interval, metrics_of

# Metrics over rows; the others are means over users.
OVER_ROWS = ("rmse", "mae", "accuracy", "log_loss")
# The normal distribution's quantile of a 95 % interval.
QUANTILE = 1.959964


def user_sums(task: str, frame: pd.DataFrame) -> dict[str, list[float]]:
    """Return the sums of some users for each metric; the sums of all parts are added up.

    frame: as `metrics.per_user` returns it. For each metric that follows from users' values: the
    sums of a, b, a^2, ab and b^2 over the users, where the metric is the ratio of the sums of a and
    b, and the number of users with a value.
    """
    sums = {}
    for name in metrics_of(task):
        column = METRICS[name].user_column
        if column is None:
            continue
        values = frame[column].to_numpy(np.float64)
        defined = np.isfinite(values)
        b = (
            frame["n"].to_numpy(np.float64)[defined]
            if name in OVER_ROWS
            else np.ones(defined.sum())
        )
        a = (values[defined] ** 2 if name == "rmse" else values[defined]) * b
        sums[name] = [*map(float, (a.sum(), b.sum(), a @ a, a @ b, b @ b, len(a)))]
    return sums


def intervals(sums: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Return each metric over all users with its 95 % interval, from the added `user_sums`."""
    by_metric = {}
    for name, (a, b, aa, ab, bb, users) in sums.items():
        ratio = a / b if b else np.nan
        spread = max(0.0, aa - 2 * ratio * ab + ratio**2 * bb) if b else np.nan
        error = np.sqrt(spread * users / max(users - 1, 1)) / b if b else np.nan
        bounds = np.array([ratio, ratio - QUANTILE * error, ratio + QUANTILE * error])
        value, low, high = np.sqrt(bounds.clip(0)) if name == "rmse" else bounds
        by_metric[name] = Interval(float(value), float(low), float(high), int(users))
    return by_metric
