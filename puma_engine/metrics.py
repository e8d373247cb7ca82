"""Metrics over the whole set and for each user, with intervals from resampling users.

Truth y and predictions p are [n]; user [n] names the user of each row. Ratings: RMSE, MAE,
accuracy (share of predictions that round to the truth) and NDCG (mean over users of the
ranking of all their rows). Clicks: AUC, uAUC (mean over users with both outcomes), log loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from puma_engine.errors import DataError

RATING_METRICS = ("rmse", "mae", "accuracy", "ndcg")
CLICK_METRICS = ("auc", "uauc", "log_loss")
HIGHER_IS_BETTER = {
    "rmse": False,
    "mae": False,
    "accuracy": True,
    "ndcg": True,
    "auc": True,
    "uauc": True,
    "log_loss": False,
}
AUC_DRAWS = 200
CHUNK = 100


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval over n_users resampled users."""

    value: float
    low: float
    high: float
    n_users: int


@dataclass(frozen=True)
class _Rows:
    """Rows sorted by user, with each user's number and span."""

    names: np.ndarray
    code: np.ndarray
    y: np.ndarray
    p: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> _Rows:
        y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
        if not len(y) or len(y) != len(p) or len(y) != len(user):
            raise DataError(
                f"Metrics need rows of one length above 0; got {len(y)} outcomes, {len(p)} predictions "
                f"and {len(user)} users."
            )
        if not np.isfinite(p).all():
            raise DataError("Some predictions are NaN or infinite; they cannot be scored.")
        names, code = np.unique(np.asarray(user), return_inverse=True)
        order = np.argsort(code, kind="stable")
        return cls(names, code[order], y[order], p[order], np.bincount(code))

    def total(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.code, weights=values, minlength=len(self.names))

    def blocks(self) -> list[slice]:
        ends = np.cumsum(self.count)
        return [slice(end - n, end) for end, n in zip(ends, self.count, strict=True)]


def auc(y: np.ndarray, p: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN with one outcome only."""
    positive = y > 0.5
    n_positive = int(positive.sum())
    n_negative = len(y) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    from scipy.stats import rankdata

    ranks = rankdata(p)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def ndcg(y: np.ndarray, p: np.ndarray) -> float:
    """NDCG over all rows with gain y; tied predictions share their mean gain."""
    discount = 1 / np.log2(np.arange(2, len(y) + 2))
    _, group = np.unique(-p, return_inverse=True)
    mean = np.bincount(group, weights=y) / np.bincount(group)
    gained = float(mean[np.sort(group)] @ discount)
    return gained / float(np.sort(y)[::-1] @ discount)


def _losses(task: str, rows: _Rows) -> dict[str, np.ndarray]:
    """Row values whose mean is the metric (its square for RMSE)."""
    y, p = rows.y, rows.p
    if task == "rating":
        error = p - y
        hit = np.floor(p + 0.5) == np.floor(y + 0.5)
        return {"rmse": error**2, "mae": np.abs(error), "accuracy": hit.astype(np.float64)}
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    return {"log_loss": -(y * np.log(clipped) + (1 - y) * np.log(1 - clipped))}


def _by_user(rows: _Rows, metric: str) -> np.ndarray:
    score = ndcg if metric == "ndcg" else auc
    return np.array([score(rows.y[block], rows.p[block]) for block in rows.blocks()])


def pooled(task: str, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> dict[str, float]:
    """Every metric of a task over all rows."""
    rows = _Rows.of(y, p, user)
    ones = np.ones((1, len(rows.names)))
    names = RATING_METRICS if task == "rating" else CLICK_METRICS
    return {name: float(_weighted(task, name, rows, ones)[0]) for name in names}


def per_user(task: str, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> pd.DataFrame:
    """One row a user: user_id, n, and the metrics of the own rows (NaN where undefined)."""
    rows = _Rows.of(y, p, user)
    frame = pd.DataFrame({"user_id": rows.names.astype(str), "n": rows.count})
    for name, values in _losses(task, rows).items():
        mean = rows.total(values) / rows.count
        frame[name] = np.sqrt(mean) if name == "rmse" else mean
    ranked = "ndcg" if task == "rating" else "auc"
    frame[ranked] = _by_user(rows, ranked)
    return frame


def _weighted(task: str, metric: str, rows: _Rows, weights: np.ndarray) -> np.ndarray:
    """A metric when each user counts weights [draws, users] times, [draws]."""
    if metric == "auc":
        return np.array([_weighted_auc(rows, weight[rows.code]) for weight in weights])
    if metric in ("ndcg", "uauc"):
        values = _by_user(rows, metric)
        known = np.isfinite(values)
        return (weights[:, known] @ values[known]) / np.maximum(weights[:, known].sum(1), 1e-12)
    total = rows.total(_losses(task, rows)[metric])
    mean = (weights @ total) / np.maximum(weights @ rows.count.astype(np.float64), 1e-12)
    return np.sqrt(mean) if metric == "rmse" else mean


def _weighted_auc(rows: _Rows, weight: np.ndarray) -> float:
    _, group = np.unique(rows.p, return_inverse=True)
    positive = np.bincount(group, weights=weight * (rows.y > 0.5))
    negative = np.bincount(group, weights=weight * (rows.y <= 0.5))
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float(positive @ (below + negative / 2) / pairs) if pairs else float("nan")


def bootstrap_metric(
    task: str,
    metric: str,
    y: np.ndarray,
    p: np.ndarray,
    user: np.ndarray,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """A pooled metric with its 95 % percentile interval from resampling users."""
    rows = _Rows.of(y, p, user)
    return _interval(task, metric, [(rows, 1.0)], seed, draws)


def bootstrap_difference(
    task: str,
    metric: str,
    y: np.ndarray,
    p_a: np.ndarray,
    p_b: np.ndarray,
    user: np.ndarray,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """metric(a) - metric(b), the same users resampled for both."""
    first, second = _Rows.of(y, p_a, user), _Rows.of(y, p_b, user)
    return _interval(task, metric, [(first, 1.0), (second, -1.0)], seed, draws)


def _interval(
    task: str, metric: str, parts: list[tuple[_Rows, float]], seed: int, draws: int
) -> Interval:
    users = len(parts[0][0].names)
    draws = min(draws, AUC_DRAWS) if metric == "auc" else draws

    def value(weights: np.ndarray) -> np.ndarray:
        return np.sum(
            [sign * _weighted(task, metric, rows, weights) for rows, sign in parts], axis=0
        )

    generator = np.random.default_rng(seed)
    share = np.full(users, 1 / users)
    found = value(np.ones((1, users)))[0]
    weights = generator.multinomial(users, share, size=draws).astype(np.float32)
    sampled = value(weights)
    low, high = np.nanpercentile(sampled, [2.5, 97.5])
    return Interval(float(found), float(low), float(high), users)
