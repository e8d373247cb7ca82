"""Differences between the methods of a report: over users, over trainings and over budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC

# Fewer trainings say nothing of how far trainings lie apart.
FEWEST = 3


def over_trainings(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean, by Student's t; None for fewer than three values."""
    if len(values) < FEWEST:
        return None
    from scipy.special import stdtrit

    middle, error = _mean_and_error(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * error
    return middle - half, middle + half


def p_over_trainings(values: Sequence[float]) -> float:
    """Return the two-sided p of a paired t-test that the mean of at least two values is zero."""
    from scipy.special import stdtr

    middle, error = _mean_and_error(values)
    if not error:
        return 0.0 if middle else 1.0
    return float(2 * stdtr(len(values) - 1, -abs(middle) / error))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    middle = sum(values) / count
    spread = math.sqrt(sum((one - middle) ** 2 for one in values) / (count - 1))
    return middle, spread / math.sqrt(count)


# What tells the rows of a report apart, besides the seed.
FACTS = ("dataset", "method", "strategy", "share", "origin", "target", "hops", "sources")
WITHIN = ("share", "target")

Row = dict[str, Any]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Gap:
    """First method minus second, in the units of the metric.

    first, second: scores by seed. low, high: the 95 % interval over resampled users. direct:
    the report holds the interval of this very difference; where not, it is over trainings, or
    the wider one between the opposite ends of two intervals.
    """

    metric: str
    first: dict[int, float]
    second: dict[int, float]
    low: float
    high: float
    users: int
    direct: bool = True

    @property
    def seeds(self) -> list[int]:
        """Seeds that both methods have."""
        return sorted(set(self.first) & set(self.second))

    @property
    def scores(self) -> tuple[float, float]:
        """Mean scores over the seeds of both."""
        one, other = ([part[seed] for seed in self.seeds] for part in (self.first, self.second))
        return _mean(one), _mean(other)

    @property
    def value(self) -> float:
        """Mean difference over the seeds."""
        return self.scores[0] - self.scores[1]

    @property
    def sign(self) -> int:
        """What a difference is multiplied with so that more is worse."""
        return -1 if METRICS[self.metric].higher_is_better else 1

    @property
    def over_seeds(self) -> Interval | None:
        """The 95 % interval over trainings, by Student's t; None for too few of them."""
        return over_trainings([self.first[seed] - self.second[seed] for seed in self.seeds])

    @property
    def intervals(self) -> list[Interval]:
        """The intervals that must agree: over users and, where there is one, over trainings.

        Trainings alone count where the interval over users is not that of the difference.
        """
        users, trainings = (self.low, self.high), self.over_seeds
        if trainings is None:
            return [users]
        return [users, trainings] if self.direct else [trainings]

    @property
    def worse(self) -> list[Interval]:
        """The same intervals, turned so that more is worse."""
        return [(low, high) if self.sign > 0 else (-high, -low) for low, high in self.intervals]


def gap(report: dict[str, Any], line: Row) -> Gap | None:
    """Return what a line of a report's differences says; None if its rows are not there.

    A line whose interval is `over` trainings has none over users.
    """
    other = {name: line.get(name) for name in ("dataset", *WITHIN)} | line["against"]
    first = scores(report, {name: line.get(name) for name in FACTS}, line["metric"])
    second = scores(report, other, line["metric"])
    if not set(first) & set(second):
        return None
    ends = float(line["low"]), float(line["high"])
    direct = line.get("over", "users") == "users"
    return Gap(line["metric"], first, second, *ends, int(line["users"]), direct)


def scores(report: dict[str, Any], facts: Row, name: str) -> dict[int, float]:
    """Return one value of the rows with these facts, by seed."""
    return {
        row["seed"]: float(row[name])
        for row in rows_with(report, facts)
        if row.get("seed") is not None and row.get(name) is not None
    }


def rows_with(report: dict[str, Any], facts: Row) -> list[Row]:
    """Return the rows of a report with these facts."""
    return [
        row
        for row in report["rows"]
        if all(row.get(name) == value for name, value in facts.items())
    ]


def find(
    report: dict[str, Any], dataset: str, wanted: Callable[[Row], bool]
) -> list[tuple[Row, Gap]]:
    """Return the differences of a data set that are wanted, each with its gap."""
    found = []
    for line in report["differences"]:
        if line["dataset"] == dataset and wanted(line):
            one = gap(report, line)
            if one is not None:
                found.append((line, one))
    return found


def mean(gaps: Sequence[Gap]) -> Gap | None:
    """Return the mean of several gaps over the seeds that all have; None if they share none.

    The ends of its interval are the means of theirs, as if all moved together: no interval
    of the mean is wider.
    """
    common = set.intersection(*(set(one.seeds) for one in gaps)) if gaps else set()
    if not common:
        return None
    first, second = (
        {seed: _mean([getattr(one, part)[seed] for one in gaps]) for seed in common}
        for part in ("first", "second")
    )
    ends = _mean([one.low for one in gaps]), _mean([one.high for one in gaps])
    users = min(one.users for one in gaps)
    return Gap(gaps[0].metric, first, second, *ends, users, all(one.direct for one in gaps))


def between(one: Gap, other: Gap) -> Gap | None:
    """Return the gap between the first methods of two gaps from the same reference."""
    if not set(one.first) & set(other.first):
        return None
    ends = one.low - other.high, one.high - other.low
    users = min(one.users, other.users)
    return Gap(one.metric, one.first, other.first, *ends, users, direct=False)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class Overall:
    """Mean of paired differences from random users, and its 95 % interval over trainings.

    In the units of the metric; low and high are Student's t, with each pair of a budget and a
    seed as one training.
    """

    pairs: int
    value: float
    low: float
    high: float


def overall(report: dict[str, Any], dataset: str, against: str = "random") -> dict[str, Overall]:
    """Return what each strategy gave over all budgets and seeds that `against` has, too.

    Strategies with fewer than three such pairs are left out.
    """
    rows = [row for row in report["rows"] if row["dataset"] == dataset and "strategy" in row]
    if not rows:
        return {}
    metric = next(name for name in PRIMARY_METRIC.values() if name in rows[0])
    scores: dict[str, dict[tuple[float, int], float]] = {}
    for row in rows:
        key = float(row["share"]), int(row["seed"])
        scores.setdefault(row["strategy"], {})[key] = float(row[metric])
    base = scores.pop(against, {})
    found = {}
    for strategy, own in scores.items():
        pairs = [own[key] - base[key] for key in sorted(own.keys() & base.keys())]
        interval = over_trainings(pairs)
        if interval is not None:
            found[strategy] = Overall(len(pairs), sum(pairs) / len(pairs), *interval)
    return found
