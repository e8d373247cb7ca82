"""How many users each group gives: exact in total, never above a group's size."""

from __future__ import annotations

import numpy as np


def shares(weights: np.ndarray, capacity: np.ndarray, total: int) -> np.ndarray:
    """Split `total` by weights, at most capacity each, by largest remainders, [groups] int.

    What a full group cannot take goes to the others by their weights.
    """
    quota = np.zeros(len(capacity), dtype=np.int64)
    while (left := total - int(quota.sum())) > 0:
        room = capacity - quota
        open_ = room > 0
        weight = np.where(open_, np.maximum(weights, 0), 0.0)
        if weight.sum() == 0:
            weight = open_.astype(float)
        ideal = np.minimum(left * weight / weight.sum(), room)
        step = np.floor(ideal).astype(np.int64)
        rest = left - int(step.sum())
        order = np.argsort(-(ideal - step), kind="stable")
        order = order[(room - step)[order] > 0][:rest]
        step[order] += 1
        quota += step
    return quota


def with_minimum(size: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """Quotas by size, each group at least `minimum` where size and total allow it."""
    floor = np.minimum(size, minimum)
    if floor.sum() > total:
        floor = np.minimum(size, total // max(1, len(size)))
    return floor + shares((size - floor).astype(float), size - floor, total - int(floor.sum()))


def bell(count: int) -> np.ndarray:
    """The paper's stratum weights exp(-x^2 / 2) + 0.1 over x in [-2, 2], [count]."""
    x = np.linspace(-2, 2, count) if count > 1 else np.zeros(1)
    return np.exp(-(x**2) / 2) + 0.1
