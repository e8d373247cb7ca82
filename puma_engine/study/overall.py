"""Strategies over all budgets: their trainings in pairs with those on random users."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma_engine.study.results import MAIN

FEWEST = 3


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
    metric = next(name for name in MAIN.values() if name in rows[0])
    scores: dict[str, dict[tuple[float, int], float]] = {}
    for row in rows:
        key = float(row["share"]), int(row["seed"])
        scores.setdefault(row["strategy"], {})[key] = float(row[metric])
    base = scores.pop(against, {})
    found = {
        strategy: np.array([own[key] - base[key] for key in sorted(own.keys() & base.keys())])
        for strategy, own in scores.items()
    }
    return {name: _interval(pairs) for name, pairs in found.items() if len(pairs) >= FEWEST}


def _interval(pairs: np.ndarray) -> Overall:
    from scipy.special import stdtrit

    count, mean = len(pairs), float(pairs.mean())
    half = float(stdtrit(count - 1, 0.975)) * float(pairs.std(ddof=1)) / math.sqrt(count)
    return Overall(count, mean, mean - half, mean + half)
