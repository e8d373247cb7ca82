"""Metrics over the whole set and for each user, with intervals from resampling users.

Truth y and predictions p are [n]; user [n] names the user of each row. Ratings: RMSE, MAE,
accuracy (share of predictions that round to the truth) and NDCG (mean over users of the
ranking of all their rows). Clicks: AUC, uAUC (mean over users with both outcomes), log loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from puma_engine.errors import DataError

RATING_METRICS = ("rmse", "mae", "accuracy", "ndcg")
CLICK_METRICS = ("auc", "uauc", "log_loss")
# What a comparison, its verdict, its report and the studies judge by.
PRIMARY_METRIC = {"rating": "rmse", "click": "uauc"}
HIGHER_IS_BETTER = {
    "rmse": False,
    "mae": False,
    "accuracy": True,
    "ndcg": True,
    "auc": True,
    "uauc": True,
    "log_loss": False,
}
NAMES = {
    "rmse": "RMSE",
    "mae": "MAE",
    "accuracy": "accuracy",
    "ndcg": "NDCG",
    "auc": "AUC",
    "uauc": "uAUC",
    "log_loss": "log loss",
}
AUC_DRAWS = 200
# So many weights of draws are held at once.
BLOCK = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval over n_users resampled users."""

    value: float
    low: float
    high: float
    n_users: int


@dataclass(frozen=True)
class Estimate:
    """A metric of one method, and how far it is from the reference's (None for that itself)."""

    own: Interval
    difference: Interval | None = None


@dataclass(frozen=True)
class _Rows:
    """Rows sorted by user, with each user's number and count of rows."""

    names: np.ndarray
    code: np.ndarray
    order: np.ndarray
    y: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, user: np.ndarray) -> _Rows:
        y = np.asarray(y, np.float64)
        if not len(y) or len(y) != len(user):
            raise DataError(
                f"Metrics need rows of one length above 0; got {len(y)} outcomes and "
                f"{len(user)} users."
            )
        code, names = pd.factorize(np.asarray(user), sort=True)
        order = np.argsort(code, kind="stable")
        return cls(np.asarray(names), code[order], order, y[order], np.bincount(code))

    def predictions(self, p: np.ndarray) -> np.ndarray:
        """Predictions in the order of the rows here."""
        p = np.asarray(p, np.float64)
        if len(p) != len(self.y):
            raise DataError(f"{len(p)} predictions came for {len(self.y)} outcomes.")
        if not np.isfinite(p).all():
            raise DataError("Some predictions are NaN or infinite; they cannot be scored.")
        return p[self.order]

    def total(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.code, weights=values, minlength=len(self.names))

    def place(self) -> np.ndarray:
        """The place of each row among the rows of its user, from 0."""
        return np.arange(len(self.code)) - np.repeat(np.cumsum(self.count) - self.count, self.count)


@dataclass(frozen=True)
class _Ratio:
    """A metric as a sum over users [users] by another one, which the draws weigh; root: its square."""

    top: np.ndarray
    bottom: np.ndarray
    root: bool = False


@dataclass(frozen=True)
class _Pairs:
    """AUC over all rows: predictions by rank, equal ones sharing theirs."""

    rank: np.ndarray
    positive: np.ndarray

    def value(self, weight: np.ndarray) -> float:
        """The AUC when each row counts weight [n] times; NaN with one outcome only."""
        positive = np.bincount(self.rank, weights=weight * self.positive)
        negative = np.bincount(self.rank, weights=weight * ~self.positive)
        below = np.cumsum(negative) - negative
        pairs = positive.sum() * negative.sum()
        return float(positive @ (below + negative / 2) / pairs) if pairs else float("nan")


def metrics_of(task: str) -> tuple[str, ...]:
    """Return the names of a task's metrics, the main one first."""
    return RATING_METRICS if task == "rating" else CLICK_METRICS


def _losses(task: str, y: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """Row values whose mean is the metric (its square for RMSE)."""
    if task == "rating":
        error = p - y
        hit = np.floor(p + 0.5) == np.floor(y + 0.5)
        return {"rmse": error**2, "mae": np.abs(error), "accuracy": hit.astype(np.float64)}
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    return {"log_loss": -(y * np.log(clipped) + (1 - y) * np.log(1 - clipped))}


def _ties(code: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Number the runs of equal predictions of one user, in sorted rows."""
    new = np.ones(len(code), dtype=bool)
    new[1:] = (code[1:] != code[:-1]) | (p[1:] != p[:-1])
    return np.cumsum(new) - 1


def _user_ndcg(rows: _Rows, p: np.ndarray) -> np.ndarray:
    """NDCG of each user with gain y [users]; tied predictions share their mean gain."""
    discount = 1 / np.log2(rows.place() + 2.0)
    order = np.lexsort((-p, rows.code))
    tie = _ties(rows.code, p[order])
    mean = np.bincount(tie, weights=rows.y[order]) / np.bincount(tie)
    best = rows.y[np.lexsort((-rows.y, rows.code))]
    with np.errstate(divide="ignore", invalid="ignore"):
        return rows.total(mean[tie] * discount) / rows.total(best * discount)


def _user_auc(rows: _Rows, p: np.ndarray) -> np.ndarray:
    """AUC of each user [users], ties counted half; NaN with one outcome only."""
    order = np.lexsort((p, rows.code))
    tie = _ties(rows.code, p[order])
    size = np.bincount(tie)
    first = rows.place()[np.cumsum(size) - size]
    rank = (first + (size + 1) / 2)[tie]
    positive = rows.y[order] > 0.5
    wins, losses = rows.total(positive), rows.total(~positive)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (rows.total(rank * positive) - wins * (wins + 1) / 2) / (wins * losses)


def _parts(task: str, rows: _Rows, p: np.ndarray, names: Sequence[str]) -> list[_Ratio | _Pairs]:
    """What each metric of some predictions is made of."""
    found: list[_Ratio | _Pairs] = []
    losses = _losses(task, rows.y, p)
    for name in names:
        if name == "auc":
            found.append(_Pairs(np.unique(p, return_inverse=True)[1], rows.y > 0.5))
        elif name in losses:
            found.append(_Ratio(rows.total(losses[name]), rows.count, name == "rmse"))
        else:
            values = _user_ndcg(rows, p) if name == "ndcg" else _user_auc(rows, p)
            known = np.isfinite(values)
            found.append(_Ratio(np.where(known, values, 0.0), known))
    return found


class _Weighed:
    """Metrics as functions of how often each user counts."""

    def __init__(self, rows: _Rows, parts: Sequence[_Ratio | _Pairs]) -> None:
        self.code, self.count = rows.code, len(parts)
        self.pairs = {n: part for n, part in enumerate(parts) if isinstance(part, _Pairs)}
        self.ratios = {n: part for n, part in enumerate(parts) if isinstance(part, _Ratio)}
        # Methods share the counts of rows, which are summed once.
        sides = {id(a): a for part in self.ratios.values() for a in (part.top, part.bottom)}
        self.column = {one: place for place, one in enumerate(sides)}
        self.sides = np.empty((len(rows.names), len(sides)))
        for place, side in enumerate(sides.values()):
            self.sides[:, place] = side

    def values(self, weights: np.ndarray, pairs: int | None = None) -> np.ndarray:
        """Each metric under weights [draws, users], [metrics, draws]; AUC of the first `pairs`."""
        found = np.full((self.count, len(weights)), np.nan)
        sums = weights @ self.sides
        for place, part in self.ratios.items():
            top, bottom = (sums[:, self.column[id(a)]] for a in (part.top, part.bottom))
            mean = top / np.maximum(bottom, 1e-12)
            found[place] = np.sqrt(mean) if part.root else mean
        for place, pair in self.pairs.items():
            for number, weight in enumerate(weights[:pairs]):
                found[place, number] = pair.value(weight[self.code])
        return found


def pooled(task: str, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> dict[str, float]:
    """Every metric of a task over all rows."""
    rows, names = _Rows.of(y, user), metrics_of(task)
    weighed = _Weighed(rows, _parts(task, rows, rows.predictions(p), names))
    values = weighed.values(np.ones((1, len(rows.names))))[:, 0]
    return dict(zip(names, values.tolist(), strict=True))


def per_user(task: str, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> pd.DataFrame:
    """One row a user: user_id, n, and the metrics of the own rows (NaN where undefined)."""
    rows = _Rows.of(y, user)
    p = rows.predictions(p)
    frame = pd.DataFrame({"user_id": rows.names.astype(str), "n": rows.count})
    for name, values in _losses(task, rows.y, p).items():
        mean = rows.total(values) / rows.count
        frame[name] = np.sqrt(mean) if name == "rmse" else mean
    if task == "rating":
        return frame.assign(ndcg=_user_ndcg(rows, p))
    return frame.assign(auc=_user_auc(rows, p))


def bootstrap(
    task: str,
    y: np.ndarray,
    predictions: Sequence[np.ndarray],
    user: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    reference: int | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> list[dict[str, Estimate]]:
    """Every metric of several methods with its 95 % interval from resampling users.

    predictions: one array [n] a method. names: the metrics (all of the task's by default).
    reference: the method that differences are taken from, the same users drawn for both.
    Draws come in blocks, so memory does not grow with their number.
    """
    names = metrics_of(task) if names is None else names
    value, drawn, users = _sampled(task, y, predictions, user, names, seed, draws)

    def estimate(place: int, number: int) -> Estimate:
        own = _interval(value[place, number], drawn[place, number], users)
        if reference is None or reference == place:
            return Estimate(own)
        gap = value[place, number] - value[reference, number]
        gaps = drawn[place, number] - drawn[reference, number]
        return Estimate(own, _interval(gap, gaps, users))

    return [
        {name: estimate(place, number) for number, name in enumerate(names)}
        for place in range(len(predictions))
    ]


def _sampled(
    task: str,
    y: np.ndarray,
    predictions: Sequence[np.ndarray],
    user: np.ndarray,
    names: Sequence[str],
    seed: int,
    draws: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Metrics of methods [methods, names], the same of each draw [methods, names, draws], users."""
    rows = _Rows.of(y, user)
    parts = [part for p in predictions for part in _parts(task, rows, rows.predictions(p), names)]
    users, shape = len(rows.names), (len(predictions), len(names), -1)
    weighed = _Weighed(rows, parts)
    value = weighed.values(np.ones((1, users))).reshape(shape)[:, :, 0]
    sampled = np.empty((len(parts), draws))
    for start, weights in _draws(users, seed, draws):
        pairs = max(0, AUC_DRAWS - start)
        sampled[:, start : start + len(weights)] = weighed.values(weights, pairs)
    return value, sampled.reshape(shape), users


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
    found = bootstrap(task, y, [p], user, names=[metric], seed=seed, draws=draws)
    return found[0][metric].own


def bootstrap_difference(
    task: str,
    metric: str,
    y: np.ndarray,
    firsts: Sequence[np.ndarray],
    seconds: Sequence[np.ndarray],
    user: np.ndarray,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """Mean of metric(first) - metric(second) over trainings, the same users drawn for all.

    firsts, seconds: predictions [n] of one or several trainings of the two methods, in pairs.
    """
    every = [*firsts, *seconds]
    value, drawn, users = _sampled(task, y, every, user, [metric], seed, draws)
    sign = np.repeat([1 / len(firsts), -1 / len(seconds)], [len(firsts), len(seconds)])
    return _interval(float(sign @ value[:, 0]), sign @ drawn[:, 0], users)


def _draws(users: int, seed: int, draws: int) -> Iterator[tuple[int, np.ndarray]]:
    """Draws of users with replacement as weights [some draws, users], and the first's number."""
    generator = np.random.default_rng(seed)
    share = np.full(users, 1 / users)
    step = max(1, BLOCK // users)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        yield start, generator.multinomial(users, share, size=size).astype(np.float64)


def _interval(value: float, sampled: np.ndarray, users: int) -> Interval:
    low, high = np.nanpercentile(sampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), users)
