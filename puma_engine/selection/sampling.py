"""How users are taken from one group: at random, by activity, or by where they stand."""

from __future__ import annotations

import numpy as np

# Facility location measures how well everybody is stood for on at most this many users.
CLIENTS = 5_000
# Of each step's candidates one of the best hundredth is among those tried, in 99 of 100 steps.
MISSED = 0.01
BLOCK = 512


def weighted(weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of `count` users, drawn by weight without replacement; weight 0 comes last."""
    with np.errstate(divide="ignore"):
        wait = generator.exponential(size=len(weights)) / np.maximum(weights, 0)
    return np.lexsort((generator.random(len(weights)), wait))[:count]


def largest(values: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of the `count` largest values; ties are drawn."""
    return np.lexsort((generator.random(len(values)), -values))[:count]


def farthest(points: np.ndarray, count: int) -> np.ndarray:
    """Start next to the centre, then take the point farthest from all taken, `count` times."""
    length = (points**2).sum(1)

    def from_point(row: int) -> np.ndarray:
        return length - 2 * (points @ points[row]) + length[row]

    taken = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    distance = from_point(taken[0])
    distance[taken[0]] = -np.inf
    while len(taken) < count:
        taken.append(int(np.argmax(distance)))
        distance = np.minimum(distance, from_point(taken[-1]))
        distance[taken[-1]] = -np.inf
    return np.array(taken)


def facilities(points: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of `count` points that keep every point's distance to the nearest of them small.

    Greedy facility location. Each step tries a draw of the points left, about 4.6 n / count of
    them, which costs the same for every count; distances are measured from at most
    5,000 points, drawn where there are more.
    """
    points = points.astype(np.float32)
    n = len(points)
    clients = points
    if n > CLIENTS:
        clients = points[generator.choice(n, CLIENTS, replace=False)]
    tried = min(n, int(np.ceil(n / count * np.log(1 / MISSED))))
    reach = float(np.sqrt((points**2).sum(1).max(initial=0)))
    nearest = np.full(len(clients), 2 * reach)
    left, taken = np.arange(n), list[int]()
    while len(taken) < count:
        pool = left if tried >= len(left) else generator.choice(left, tried, replace=False)
        best, best_gain = -1, -1.0
        for start in range(0, len(pool), BLOCK):
            some = pool[start : start + BLOCK]
            gain = np.maximum(nearest[:, None] - _distances(clients, points[some]), 0).sum(0)
            row = int(np.argmax(gain))
            if gain[row] > best_gain:
                best, best_gain = int(some[row]), float(gain[row])
        taken.append(best)
        left = left[left != best]
        nearest = np.minimum(nearest, _distances(clients, points[[best]])[:, 0])
    return np.array(taken)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [len(a), len(b)]."""
    squared = (a**2).sum(1)[:, None] - 2 * (a @ b.T) + (b**2).sum(1)
    distance: np.ndarray = np.sqrt(np.maximum(squared, 0))
    return distance
