"""The table of metrics; computing them over all rows and per user, with bootstrap intervals.

Outcomes y and predictions p are [n]; user [n] names the user of each row. Intervals are 95 %
percentile intervals of a cluster bootstrap: users are resampled with all their rows (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993; Field and Welsh, "Bootstrapping clustered
data", JRSS B 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from puma_engine.datasets.losses import row_losses
from puma_engine.errors import DataError


@dataclass(frozen=True)
class Metric:
    """One metric.

    name: its key in stored tables. label: its name within a sentence. definition: for readers
    without knowledge of statistics. reference: citation. max_draws: upper limit of bootstrap draws,
    if a draw is expensive. user_column: its column in the table of users; None if it does not
    follow from the users' values.
    """

    name: str
    task: str
    label: str
    unit: str
    higher_is_better: bool
    formula: str
    definition: str
    reference: str
    user_column: str | None
    max_draws: int | None = None

    @property
    def heading(self) -> str:
        """The label with a capital letter, for table headings."""
        return self.label.capitalize() if self.label.islower() else self.label

    @property
    def axis(self) -> str:
        """Heading, unit and better direction: the title of an axis."""
        side = "higher is better" if self.higher_is_better else "lower is better"
        return f"{self.heading} ({self.unit}, {side})"


# fmt: off
METRICS = {metric.name: metric for metric in (
    Metric(
        "rmse", "rating", "RMSE", "stars", False, "sqrt(mean((p - y)^2))",
        "Root mean squared error: how far predicted ratings are from the true ones, in stars; large "
        "misses weigh more. Lower is better.",
        "Gunawardana and Shani, Evaluating Recommender Systems, 2015", user_column="rmse",
    ),
    Metric(
        "mae", "rating", "MAE", "stars", False, "mean(|p - y|)",
        "Mean absolute error: how far predicted ratings are from the true ones on average, in stars. "
        "Lower is better.",
        "Gunawardana and Shani, Evaluating Recommender Systems, 2015", user_column="mae",
    ),
    Metric(
        "accuracy", "rating", "accuracy", "share of rows", True,
        "mean(round(p) = round(y)), halves rounded up",
        "Share of held-out records whose rating is predicted exactly, after rounding.",
        "Zhao et al., Don't Start Over, AAAI 2026", user_column="accuracy",
    ),
    Metric(
        "ndcg", "rating", "NDCG", "mean over users", True,
        "mean over users of DCG / ideal DCG, with DCG = sum_i y_i / log2(1 + rank_i); tied "
        "predictions share their mean gain",
        "How well each user's held-out items are put in order, best first; 1 is perfect. Mean over "
        "users.",
        "Järvelin and Kekäläinen, TOIS 2002; ties: McSherry and Najork, ECIR 2008",
        user_column="ndcg",
    ),
    Metric(
        "pair_accuracy", "rating", "pair accuracy", "mean over users", True,
        "mean over users of the share of pairs of their rows with different y that p puts in the "
        "same order, tied p counted half; users without such a pair are left out",
        "Of two held-out items that a user rated differently, how often the better one gets the "
        "higher prediction, averaged over users. It counts only the order within each user, not how "
        "generous a user is. 0.5 is guessing.",
        "fraction of concordant pairs: Koren and Sill, OrdRec, RecSys 2011 (there pooled over users)",
        user_column="pair_accuracy",
    ),
    Metric(
        "auc", "click", "AUC", "probability", True,
        "P(p of a click > p of a non-click) over all rows, ties counted half",
        "Probability that a clicked item gets a higher score than one that was not; 0.5 is guessing.",
        "Hanley and McNeil, Radiology 1982", user_column=None, max_draws=200,
    ),
    Metric(
        "uauc", "click", "uAUC", "mean over users", True,
        "mean over users with both outcomes of the AUC among their own rows: the pair accuracy of "
        "clicks",
        "The AUC within each user, averaged over users: it counts only whether a user's own items "
        "are put in the right order. 0.5 is guessing.",
        "Zhou et al., Deep Interest Network, KDD 2018 (there weighted by rows)", user_column="auc",
    ),
    Metric(
        "log_loss", "click", "log loss", "nats", False,
        "-mean(y log p + (1 - y) log(1 - p)), p clipped to [1e-7, 1 - 1e-7]",
        "How surprised the prediction is by what happened; confident mistakes cost most. Lower is "
        "better.",
        "Good, Rational Decisions, JRSS B 1952", user_column="log_loss",
    ),
)}
# fmt: on
# The primary metric of each task, by which comparisons, verdicts, reports, pages and studies decide.
PRIMARY_METRIC = {"rating": "rmse", "click": "uauc"}
# Metrics of the level, how far predictions are from outcomes, and of the ranking of each user's items.
LEVEL_METRIC = {"rating": "rmse", "click": "log_loss"}
RANKING_METRIC = {"rating": "pair_accuracy", "click": "uauc"}
# Bound of draws times users in a block of the bootstrap, which limits its memory.
BLOCK = 1 << 22
# From this number of users on, resampled users are drawn one by one, which takes a quarter of the time of
# multinomial counts. Intervals of fewer users stay those of earlier versions.
MANY_USERS = 100_000


def metrics_of(task: str) -> tuple[str, ...]:
    """Return the names of a task's metrics, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if metric.task == task)


def draws_used(metric: str, draws: int) -> int:
    """Return how many of the requested bootstrap draws are used for a metric's interval."""
    return min(draws, METRICS[metric].max_draws or draws)


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval over the n_users users for whom the metric is defined.

    draws: number of bootstrap draws; 0 for an interval in closed form.
    """

    value: float
    low: float
    high: float
    n_users: int
    draws: int = 0


@dataclass(frozen=True)
class Estimate:
    """A metric of one method, and its difference from the reference (None for the reference)."""

    interval: Interval
    difference: Interval | None = None


@dataclass(frozen=True)
class ShareKept:
    """The share of full retraining's gain over a reference that a method keeps, in one metric.

    gain: how much better full retraining is than the reference, in the metric's units; positive is
    better. share: (reference - method) / (reference - retraining), 1 for full retraining and 0 for
    the reference; NaN unless the whole interval of the gain is positive.
    """

    share: Interval
    gain: Interval


@dataclass(frozen=True)
class SampledMetrics:
    """Metrics of several methods or trainings over all rows and for each draw of users.

    names: [metrics]. value: over all rows, [methods, metrics]. replicates: [methods, metrics,
    draws], the same draws for all methods; NaN where undefined or not computed. users: number of
    users for whom each is defined, [methods, metrics].
    """

    names: tuple[str, ...]
    value: np.ndarray
    replicates: np.ndarray
    users: np.ndarray

    def select(self, methods: Sequence[int]) -> SampledMetrics:
        """Return the metrics of some methods, in the given order."""
        chosen = list(methods)
        return SampledMetrics(
            self.names, self.value[chosen], self.replicates[chosen], self.users[chosen]
        )


@dataclass(frozen=True)
class _UserRows:
    """Rows sorted by user: user_ids [users], and the rows of each user (count [users]).

    code [n]: index into user_ids of each sorted row; order [n]: the original row numbers.
    """

    user_ids: np.ndarray
    code: np.ndarray
    order: np.ndarray
    y: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, user: np.ndarray) -> _UserRows:
        y = np.asarray(y, np.float64)
        if not len(y) or len(y) != len(user):
            raise DataError(
                f"Metrics need rows of one length above 0; got {len(y)} outcomes and "
                f"{len(user)} users."
            )
        code, user_ids = pd.factorize(np.asarray(user), sort=True)
        order = np.argsort(code, kind="stable")
        return cls(np.asarray(user_ids), code[order], order, y[order], np.bincount(code))

    def sort(self, p: np.ndarray) -> np.ndarray:
        """Check predictions, and return them in the order of the sorted rows."""
        p = np.asarray(p, np.float64)
        if len(p) != len(self.y):
            raise DataError(f"There are {len(p)} predictions for {len(self.y)} outcomes.")
        if not np.isfinite(p).all():
            raise DataError("Some predictions are NaN or infinite; they cannot be scored.")
        return p[self.order]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of each user's rows, [users]."""
        return np.bincount(self.code, weights=values, minlength=len(self.user_ids))

    def position(self) -> np.ndarray:
        """Position of each row among the rows of its user, from 0."""
        return np.arange(len(self.code)) - np.repeat(np.cumsum(self.count) - self.count, self.count)

    def tie_groups(self, sorted_p: np.ndarray) -> np.ndarray:
        """Number the groups of equal predictions of one user, [n]; sorted_p: sorted within users."""
        new = np.ones(len(self.code), dtype=bool)
        new[1:] = (self.code[1:] != self.code[:-1]) | (sorted_p[1:] != sorted_p[:-1])
        return np.cumsum(new) - 1


@dataclass(frozen=True)
class _Ratio:
    """A metric that is a ratio of two sums over users [users]; root: the ratio's square root."""

    numerator: np.ndarray
    denominator: np.ndarray
    root: bool = False


@dataclass(frozen=True)
class _PooledAUC:
    """AUC over all rows: predictions by rank [n], equal predictions with equal ranks."""

    rank: np.ndarray
    positive: np.ndarray

    def value(self, weight: np.ndarray) -> float:
        """Return the AUC when each row counts weight [n] times; NaN if all outcomes are equal."""
        positive = np.bincount(self.rank, weights=weight * self.positive)
        negative = np.bincount(self.rank, weights=weight * ~self.positive)
        below = np.cumsum(negative) - negative
        pairs = positive.sum() * negative.sum()
        return float(positive @ (below + negative / 2) / pairs) if pairs else float("nan")


def _row_means(task: str, y: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """Return row values whose mean is the metric (or its square, for RMSE)."""
    loss = row_losses(task, y, p)
    if task == "click":
        return {"log_loss": loss}
    hit = np.floor(p + 0.5) == np.floor(y + 0.5)
    return {"rmse": loss, "mae": np.abs(p - y), "accuracy": hit.astype(np.float64)}


def _user_ndcg(rows: _UserRows, p: np.ndarray) -> np.ndarray:
    """Return the NDCG of each user with gain y, [users]; tied predictions share their mean gain."""
    discount = 1 / np.log2(rows.position() + 2.0)
    order = np.lexsort((-p, rows.code))
    tie = rows.tie_groups(p[order])
    mean = np.bincount(tie, weights=rows.y[order]) / np.bincount(tie)
    ideal = rows.y[np.lexsort((-rows.y, rows.code))]
    with np.errstate(divide="ignore", invalid="ignore"):
        return rows.sum(mean[tie] * discount) / rows.sum(ideal * discount)


def _user_pair_accuracy(rows: _UserRows, p: np.ndarray) -> np.ndarray:
    """Return the share of each user's pairs of different outcomes that p orders correctly; NaN without a pair.

    Equal predictions count half, so with two different outcomes it is the AUC of each user.
    Outcomes are numbered by size; two different numbers differ in one highest bit. For each bit,
    the rows of a user that agree in all higher bits form a group, whose pairs are counted as in the
    Mann-Whitney test (Annals of Mathematical Statistics 1947). This takes a sort for each bit and
    no loop over users.
    """
    number = np.unique(rows.y, return_inverse=True)[1]
    by_prediction = np.lexsort((p, rows.code))
    right, pairs = np.zeros((2, len(rows.user_ids)))
    for bit in range(int(number.max()).bit_length()):
        higher = number >> (bit + 1)
        group = (rows.code * (higher.max() + 1) + higher)[by_prediction]
        order = np.argsort(group, kind="stable")
        group, rows_of = group[order], by_prediction[order]
        sorted_p = p[rows_of]
        upper = (number[rows_of] >> bit & 1).astype(np.float64)
        lower = 1 - upper
        new_group = np.append(True, group[1:] != group[:-1])
        new_tie = new_group | np.append(True, sorted_p[1:] != sorted_p[:-1])
        groups, ties = np.flatnonzero(new_group), np.flatnonzero(new_tie)
        before = np.cumsum(lower) - lower
        before -= np.repeat(before[groups], np.diff(np.append(groups, len(group))))
        ordered = before[ties] + np.add.reduceat(lower, ties) / 2
        ordered *= np.add.reduceat(upper, ties)
        for total, starts, counts in (
            (right, ties, ordered),
            (pairs, groups, np.add.reduceat(upper, groups) * np.add.reduceat(lower, groups)),
        ):
            total += np.bincount(rows.code[rows_of[starts]], weights=counts, minlength=len(total))
    return np.divide(right, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def _statistics(
    task: str, rows: _UserRows, p: np.ndarray, names: Sequence[str]
) -> list[_Ratio | _PooledAUC]:
    """Return the sufficient statistics of each metric, from which it is computed for any weights of users."""
    statistics: list[_Ratio | _PooledAUC] = []
    means = _row_means(task, rows.y, p)
    for name in names:
        if name == "auc":
            statistics.append(_PooledAUC(np.unique(p, return_inverse=True)[1], rows.y > 0.5))
        elif name in means:
            statistics.append(_Ratio(rows.sum(means[name]), rows.count, name == "rmse"))
        else:
            values = _user_ndcg(rows, p) if name == "ndcg" else _user_pair_accuracy(rows, p)
            defined = np.isfinite(values)
            statistics.append(_Ratio(np.where(defined, values, 0.0), defined))
    return statistics


class _WeightedMetrics:
    """Computes metrics for given weights of users, which are counts of a bootstrap draw."""

    def __init__(self, rows: _UserRows, statistics: Sequence[_Ratio | _PooledAUC]) -> None:
        self.code, self.statistics = rows.code, statistics
        # Methods share the counts of rows: each distinct array of users is summed only once.
        arrays = {
            id(array): array
            for ratio in statistics
            if isinstance(ratio, _Ratio)
            for array in (ratio.numerator, ratio.denominator)
        }
        self.column = {key: number for number, key in enumerate(arrays)}
        self.arrays = np.empty((len(rows.user_ids), len(arrays)))
        for number, array in enumerate(arrays.values()):
            self.arrays[:, number] = array

    def values(self, weights: np.ndarray, auc_draws: int | None = None) -> np.ndarray:
        """Return each metric for weights [draws, users], as [metrics, draws].

        auc_draws: number of first draws for which the pooled AUC is computed; NaN for the rest.
        """
        values = np.full((len(self.statistics), len(weights)), np.nan)
        sums = weights @ self.arrays
        for number, statistic in enumerate(self.statistics):
            if isinstance(statistic, _PooledAUC):
                for draw, weight in enumerate(weights[:auc_draws]):
                    values[number, draw] = statistic.value(weight[self.code])
                continue
            numerator = sums[:, self.column[id(statistic.numerator)]]
            denominator = sums[:, self.column[id(statistic.denominator)]]
            undefined = np.full_like(numerator, np.nan)
            ratio = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
            values[number] = np.sqrt(ratio) if statistic.root else ratio
        return values


def pooled(task: str, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> dict[str, float]:
    """Return every metric of a task over all rows; NaN where it is undefined.

    AUC needs clicks and non-clicks, uAUC a user with both, pair accuracy a user with different
    outcomes. Raises DataError for arrays of different lengths, for no rows, and for predictions
    that are not finite.
    """
    rows, names = _UserRows.of(y, user), metrics_of(task)
    weighted = _WeightedMetrics(rows, _statistics(task, rows, rows.sort(p), names))
    values = weighted.values(np.ones((1, len(rows.user_ids))))[:, 0]
    return dict(zip(names, values.tolist(), strict=True))


def per_user(task: str, y: np.ndarray, p: np.ndarray, user: np.ndarray) -> pd.DataFrame:
    """Return one row for each user: user_id, n (rows), and the metrics of the user's rows.

    AUC and pair accuracy are NaN for a user whose outcomes are equal, NDCG for one whose outcomes
    are all 0. Raises DataError as `pooled` does.
    """
    rows = _UserRows.of(y, user)
    p = rows.sort(p)
    frame = pd.DataFrame({"user_id": rows.user_ids.astype(str), "n": rows.count})
    for name, values in _row_means(task, rows.y, p).items():
        mean = rows.sum(values) / rows.count
        frame[name] = np.sqrt(mean) if name == "rmse" else mean
    if task == "rating":
        return frame.assign(ndcg=_user_ndcg(rows, p), pair_accuracy=_user_pair_accuracy(rows, p))
    return frame.assign(auc=_user_pair_accuracy(rows, p))


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
    """Return every metric of several methods with its 95 % interval from resampling users.

    predictions: one array [n] per method. names: the metrics (default: all of the task; uauc and
    pair_accuracy are the same for clicks). reference: index of the method that differences are
    taken from; both methods of a difference see the same draws. Raises DataError as `pooled` does.
    """
    names = metrics_of(task) if names is None else names
    sampled = sample_metrics(task, y, predictions, user, names, seed=seed, draws=draws)
    return estimates(sampled, reference)


def estimates(sampled: SampledMetrics, reference: int | None) -> list[dict[str, Estimate]]:
    """Return metrics with intervals, and differences from a method, as `bootstrap` does."""
    value, replicates = sampled.value, sampled.replicates

    def estimate(method: int, metric: int) -> Estimate:
        users = sampled.users[method, metric]
        interval = _interval(value[method, metric], replicates[method, metric], users)
        if reference is None or reference == method:
            return Estimate(interval)
        difference = value[method, metric] - value[reference, metric]
        differences = replicates[method, metric] - replicates[reference, metric]
        return Estimate(interval, _interval(difference, differences, users))

    return [
        {name: estimate(method, number) for number, name in enumerate(sampled.names)}
        for method in range(len(value))
    ]


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
    """Return a metric over all rows with its 95 % interval from resampling users."""
    estimates = bootstrap(task, y, [p], user, names=[metric], seed=seed, draws=draws)
    return estimates[0][metric].interval


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
    """Return the mean of metric(first) - metric(second) over trainings, the same draws for all.

    firsts, seconds: predictions [n] of one or several trainings of the two methods, in pairs.
    Raises DataError as `pooled` does.
    """
    predictions = [*firsts, *seconds]
    sampled = sample_metrics(task, y, predictions, user, [metric], seed=seed, draws=draws)
    sign = np.repeat([1 / len(firsts), -1 / len(seconds)], [len(firsts), len(seconds)])
    difference, differences = sign @ sampled.value[:, 0], sign @ sampled.replicates[:, 0]
    return _interval(float(difference), differences, sampled.users[0, 0])


def shares_kept(
    sampled: SampledMetrics,
    trainings: Sequence[int],
    *,
    retrained: int,
    references: Sequence[int],
    names: Sequence[str],
) -> list[list[dict[str, ShareKept]]]:
    """Return the shares of full retraining's gain that methods keep: by reference, method and metric.

    trainings: number of consecutive trainings in the sample of each method; metrics are means over
    them. retrained, references: indices of full retraining and of the references. Draws without a
    gain, at most 2.5 % of them, are left out of the intervals of shares.
    """
    splits = np.cumsum(trainings)[:-1]
    values = [part.mean(0) for part in np.split(sampled.value, splits)]
    replicates = [part.mean(0) for part in np.split(sampled.replicates, splits)]

    def kept(reference: int, method: int, name: str) -> ShareKept:
        sign, number = (-1 if METRICS[name].higher_is_better else 1), sampled.names.index(name)
        users = sampled.users[0, number]
        gain, method_gain = (
            sign * (values[reference][number] - values[other][number])
            for other in (retrained, method)
        )
        gains, method_gains = (
            sign * (replicates[reference][number] - replicates[other][number])
            for other in (retrained, method)
        )
        of_gain = _interval(gain, gains, users)
        if not of_gain.low > 0:
            return ShareKept(Interval(np.nan, np.nan, np.nan, int(users)), of_gain)
        undefined = np.full_like(gains, np.nan)
        ratios = np.divide(method_gains, gains, out=undefined, where=gains > 0)
        return ShareKept(_interval(method_gain / gain, ratios, users), of_gain)

    return [
        [{name: kept(reference, method, name) for name in names} for method in range(len(values))]
        for reference in references
    ]


def sample_metrics(
    task: str,
    y: np.ndarray,
    predictions: Sequence[np.ndarray],
    user: np.ndarray,
    names: Sequence[str],
    *,
    seed: int = 0,
    draws: int = 1000,
) -> SampledMetrics:
    """Return metrics of several methods or trainings over all rows and for resampled users.

    Arguments are those of `bootstrap`. Raises DataError as `pooled` does.
    """
    rows = _UserRows.of(y, user)
    statistics = [s for p in predictions for s in _statistics(task, rows, rows.sort(p), names)]
    users, shape = len(rows.user_ids), (len(predictions), len(names), -1)
    weighted = _WeightedMetrics(rows, statistics)
    value = weighted.values(np.ones((1, users))).reshape(shape)[:, :, 0]
    replicates = np.empty((len(statistics), draws))
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // users)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        weights = _resampled(generator, users, size)
        auc_draws = max(0, draws_used("auc", draws) - start)
        replicates[:, start : start + len(weights)] = weighted.values(weights, auc_draws)
    counted = [
        int(np.count_nonzero(s.denominator)) if isinstance(s, _Ratio) else users for s in statistics
    ]
    return SampledMetrics(
        tuple(names), value, replicates.reshape(shape), np.reshape(counted, shape[:2])
    )


def _resampled(generator: np.random.Generator, users: int, draws: int) -> np.ndarray:
    """Draw as many users as there are, with replacement; return how often each was drawn, [draws, users]."""
    if users < MANY_USERS:
        return generator.multinomial(users, np.full(users, 1 / users), draws).astype(np.float64)
    weights = np.empty((draws, users))
    for row in weights:
        row[:] = np.bincount(generator.integers(0, users, users), minlength=users)
    return weights


def _interval(value: float, replicates: np.ndarray, users: int) -> Interval:
    replicates = replicates[np.isfinite(replicates)]
    low, high = np.percentile(replicates, [2.5, 97.5]) if len(replicates) else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high), int(users), len(replicates))
