"""Strategies over all budgets, in pairs with random users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from puma_engine.evaluation.metrics import PRIMARY_METRIC
from puma_engine.studies.over_trainings import over_trainings


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
