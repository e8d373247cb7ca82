"""Paired differences between the methods of a report: over users, trainings and budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC, RANKING_METRIC

# The spread of two trainings is too uncertain.
MIN_TRAININGS = 3
# Labels that distinguish the rows of a report, besides the seed.
LABELS = ("dataset", "method", "strategy", "share", "origin", "target", "hops", "sources")
WITHIN = ("share", "target")

Report = dict[str, Any]
Row = dict[str, Any]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class PairedTTest:
    """Mean of paired differences, its 95 % interval by Student's t, and the two-sided p."""

    pairs: int
    value: float
    low: float
    high: float
    p: float


def paired_t_test(differences: Sequence[float]) -> PairedTTest | None:
    """Return the paired t-test of differences between trainings; None for fewer than three.

    scipy.special is used, since importing scipy.stats takes a second.
    """
    count = len(differences)
    if count < MIN_TRAININGS:
        return None
    from scipy.special import stdtr, stdtrit

    mean = sum(differences) / count
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    error = math.sqrt(variance) / math.sqrt(count)
    half = float(stdtrit(count - 1, 0.975)) * error
    p = 0.0 if mean else 1.0
    if error:
        p = float(2 * stdtr(count - 1, -abs(mean) / error))
    return PairedTTest(count, mean, mean - half, mean + half, p)


@dataclass(frozen=True)
class PairedDifference:
    """Scores of a first method minus those of a second, in the units of the metric.

    first, second: scores of both methods by seed. low, high: ends of the 95 % interval. users:
    number of evaluated users. over_users: whether the interval comes from resampling users for this
    difference. If not, it is over trainings, or a bound from the intervals of two other
    differences.
    """

    metric: str
    first: dict[int, float]
    second: dict[int, float]
    low: float
    high: float
    users: int
    over_users: bool = True

    @property
    def seeds(self) -> list[int]:
        """Seeds that both methods have."""
        return sorted(set(self.first) & set(self.second))

    @property
    def scores(self) -> tuple[float, float]:
        """Mean scores of both methods over their common seeds."""
        first, second = (
            [scores[seed] for seed in self.seeds] for scores in (self.first, self.second)
        )
        return _mean(first), _mean(second)

    @property
    def value(self) -> float:
        """Mean difference over the seeds."""
        return self.scores[0] - self.scores[1]

    @property
    def loss_sign(self) -> int:
        """1 if a higher score is worse, -1 if it is better."""
        return -1 if METRICS[self.metric].higher_is_better else 1

    @property
    def loss(self) -> float:
        """Mean difference over the seeds, positive if the first method is worse."""
        return self.loss_sign * self.value

    @property
    def training_interval(self) -> Bounds | None:
        """The 95 % interval over trainings by Student's t; None for fewer than three."""
        test = paired_t_test([self.first[seed] - self.second[seed] for seed in self.seeds])
        return None if test is None else (test.low, test.high)

    @property
    def loss_intervals(self) -> list[Bounds]:
        """The intervals that must agree, over users and over trainings; positive is worse.

        Without an interval over users for this difference, only the one over trainings is returned.
        """
        intervals = [(self.low, self.high)]
        trainings = self.training_interval
        if trainings is not None:
            intervals = [*intervals, trainings] if self.over_users else [trainings]
        return [(low, high) if self.loss_sign > 0 else (-high, -low) for low, high in intervals]


def paired_difference(report: Report, line: Row) -> PairedDifference | None:
    """Return a line of a report's differences with its scores; None if its rows are missing."""
    reference = {name: line.get(name) for name in ("dataset", *WITHIN)} | line["against"]
    first = scores_by_seed(report, {name: line.get(name) for name in LABELS}, line["metric"])
    second = scores_by_seed(report, reference, line["metric"])
    if not set(first) & set(second):
        return None
    over_users = line.get("over", "users") == "users"
    bounds = float(line["low"]), float(line["high"])
    return PairedDifference(line["metric"], first, second, *bounds, int(line["users"]), over_users)


def scores_by_seed(report: Report, labels: Row, name: str) -> dict[int, float]:
    """Return one value of the rows with these labels, by seed."""
    return {
        row["seed"]: float(row[name])
        for row in rows_with(report, labels)
        if row.get("seed") is not None and row.get(name) is not None
    }


def rows_with(report: Report, labels: Row) -> list[Row]:
    """Return the rows of a report with these labels."""
    return [
        row
        for row in report["rows"]
        if all(row.get(name) == value for name, value in labels.items())
    ]


def find_differences(
    report: Report, dataset: str, predicate: Callable[[Row], bool]
) -> list[tuple[Row, PairedDifference]]:
    """Return the lines of a data set's differences for which predicate is true, each with its paired difference."""
    lines = [
        line for line in report["differences"] if line["dataset"] == dataset and predicate(line)
    ]
    pairs = [(line, paired_difference(report, line)) for line in lines]
    return [(line, difference) for line, difference in pairs if difference is not None]


def mean_difference(differences: Sequence[PairedDifference]) -> PairedDifference | None:
    """Return the mean of differences over the seeds that all have; None if they share none.

    The ends of its interval are the means of their ends, as for fully correlated differences, which
    gives the widest interval.
    """
    seeds = set.intersection(*(set(part.seeds) for part in differences)) if differences else set()
    if not seeds:
        return None
    return PairedDifference(
        differences[0].metric,
        {seed: _mean([part.first[seed] for part in differences]) for seed in seeds},
        {seed: _mean([part.second[seed] for part in differences]) for seed in seeds},
        _mean([part.low for part in differences]),
        _mean([part.high for part in differences]),
        min(part.users for part in differences),
        all(part.over_users for part in differences),
    )


def indirect_difference(a: PairedDifference, b: PairedDifference) -> PairedDifference | None:
    """Return the difference between the first methods of a and b, which have the same second method.

    None if they have no seed in common. The interval is the widest that those of a and b allow.
    """
    if not set(a.first) & set(b.first):
        return None
    bounds = a.low - b.high, a.high - b.low
    return PairedDifference(a.metric, a.first, b.first, *bounds, min(a.users, b.users), False)


def differences_over_budgets(
    report: Report, dataset: str, metric: str | None = None
) -> dict[str, PairedTTest]:
    """Return the t-test of each selection strategy against users drawn at random.

    metric: one that all rows have (default: the primary one). Each budget and seed that both have is
    one pair. Strategies with fewer than three pairs are left out.
    """
    rows = [row for row in report["rows"] if row["dataset"] == dataset and "strategy" in row]
    if not rows:
        return {}
    metric = metric or primary_metric(rows[0])
    scores: dict[str, dict[tuple[float, int], float]] = {}
    for row in rows:
        key = float(row["share"]), int(row["seed"])
        scores.setdefault(row["strategy"], {})[key] = float(row[metric])
    base = scores.pop("random", {})
    tests = {
        strategy: paired_t_test([values[key] - base[key] for key in sorted(values.keys() & base)])
        for strategy, values in scores.items()
    }
    return {strategy: test for strategy, test in tests.items() if test is not None}


def primary_metric(row: Row) -> str:
    """Return the primary metric of a row's task."""
    return next(name for name in PRIMARY_METRIC.values() if name in row)


def ranking_metric(rows: Sequence[Row]) -> str | None:
    """Return the ranking metric if it is not the primary one and all rows have it; else None."""
    metric = RANKING_METRIC[METRICS[primary_metric(rows[0])].task]
    if metric == primary_metric(rows[0]) or any(row.get(metric) is None for row in rows):
        return None
    return metric


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
