"""Quotas of groups: their sum is exact, and none exceeds its group's size."""

import numpy as np


def apportion(weights: np.ndarray, capacity: np.ndarray, total: int) -> np.ndarray:
    """Split `total` in proportion to weights by largest remainders, [groups] int64.

    weights [groups]: negative ones count as 0; capacity [groups]: upper bounds, whose sum is at
    least `total`. What exceeds a group's capacity is split among the others by their weights.
    """
    quota = np.zeros(len(capacity), dtype=np.int64)
    while (remaining := total - int(quota.sum())) > 0:
        room = capacity - quota
        weight = np.where(room > 0, np.maximum(weights, 0), 0.0)
        if weight.sum() == 0:
            weight = (room > 0).astype(float)
        ideal = np.minimum(remaining * weight / weight.sum(), room)
        step = np.floor(ideal).astype(np.int64)
        order = np.argsort(-(ideal - step), kind="stable")
        order = order[(room - step)[order] > 0]
        step[order[: remaining - int(step.sum())]] += 1
        quota += step
    return quota


def apportion_with_minimum(size: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """Split `total` in proportion to size [groups], with at least `minimum` for each group.

    Groups that are smaller than the minimum give all their users; where the total does not allow
    the minimum, it is lowered for all. Returns quotas [groups] int64, at most `size`.
    """
    floor = np.minimum(size, minimum)
    if floor.sum() > total:
        floor = np.minimum(size, total // max(1, len(size)))
    above_floor = size - floor
    return floor + apportion(above_floor.astype(float), above_floor, total - int(floor.sum()))


def stratum_weights(count: int) -> np.ndarray:
    """The paper's stratum weights exp(-x^2 / 2) + 0.1 over x in [-2, 2], [count]."""
    x = np.linspace(-2, 2, count) if count > 1 else np.zeros(1)
    return np.exp(-(x**2) / 2) + 0.1
