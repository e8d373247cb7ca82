"""Sampling of users from one group: by activity, or by their position in a space."""

import numpy as np

# Largest number of users from whom facility location measures distances.
MAX_CLIENTS = 5_000
# Probability that the candidates of a step contain none of the best n / count points.
MISS_PROBABILITY = 0.01
BLOCK = 512


def weighted_sample(weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw rows of `count` users by weights [n] without replacement; weight 0 comes last.

    Exponential keys (Efraimidis & Spirakis 2006).
    """
    with np.errstate(divide="ignore"):
        keys = generator.exponential(size=len(weights)) / np.maximum(weights, 0)
    return np.lexsort((generator.random(len(weights)), keys))[:count]


def top_values(values: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return the rows of the `count` largest values [n]; ties are broken at random."""
    return np.lexsort((generator.random(len(values)), -values))[:count]


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of `count` points [n, k]: first the nearest to the mean, then always the farthest from all chosen.

    Farthest-point traversal (Gonzalez 1985). Deterministic.
    """
    squares = (points**2).sum(1)
    rows = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    distance = np.full(len(points), np.inf)
    while True:
        last = rows[-1]
        distance = np.minimum(distance, squares - 2 * (points @ points[last]) + squares[last])
        distance[last] = -np.inf
        if len(rows) == count:
            return np.array(rows)
        rows.append(int(np.argmax(distance)))


def facility_location(points: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return the rows of `count` points [n, k] that have a small mean distance from all points to the nearest.

    Greedy maximisation of a submodular function (Krause & Golovin 2014), stochastically
    (Mirzasoleiman et al. 2015): each step tries about 4.6 n / count random candidates, so that the
    cost does not depend on count. Distances are measured from at most MAX_CLIENTS points, which are
    drawn where there are more.
    """
    points = points.astype(np.float32)
    n = len(points)
    clients = points
    if n > MAX_CLIENTS:
        clients = points[generator.choice(n, MAX_CLIENTS, replace=False)]
    candidates = min(n, int(np.ceil(n / count * np.log(1 / MISS_PROBABILITY))))
    radius = float(np.sqrt((points**2).sum(1).max(initial=0)))
    nearest = np.full(len(clients), 2 * radius)
    remaining, rows = np.arange(n), list[int]()
    while len(rows) < count:
        pool = remaining
        if candidates < len(remaining):
            pool = generator.choice(remaining, candidates, replace=False)
        best, best_gain = -1, -1.0
        for start in range(0, len(pool), BLOCK):
            block = pool[start : start + BLOCK]
            gain = np.maximum(nearest[:, None] - _distances(clients, points[block]), 0).sum(0)
            row = int(np.argmax(gain))
            if gain[row] > best_gain:
                best, best_gain = int(block[row]), float(gain[row])
        rows.append(best)
        remaining = remaining[remaining != best]
        nearest = np.minimum(nearest, _distances(clients, points[[best]])[:, 0])
    return np.array(rows)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [len(a), len(b)], in the precision of the points."""
    squared = (a**2).sum(1)[:, None] - 2 * (a @ b.T) + (b**2).sum(1)
    return np.sqrt(np.maximum(squared, 0))
