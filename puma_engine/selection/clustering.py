"""Groups of users: clusters in a space, and strata of one number."""

from __future__ import annotations

import numpy as np

from puma_engine.selection.space import MANY
from puma_engine.selection.threads import few_threads

BATCH = 4096


def clusters(space: np.ndarray, count: int, seed: int) -> np.ndarray:
    """k-means labels [n]; fewer clusters where there are fewer distinct users.

    Above 50,000 users centres are found on mini-batches.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(space) > MANY:
        some = MiniBatchKMeans(count, batch_size=BATCH, n_init=3, random_state=seed)
        with few_threads(space.size):
            return np.asarray(some.fit_predict(space), dtype=np.int64)
    count = min(count, len(np.unique(space, axis=0)))
    if count < 2:
        return np.zeros(len(space), dtype=np.int64)
    with few_threads(space.size):
        labels = KMeans(count, n_init=1, random_state=seed).fit_predict(space)
    return labels.astype(np.int64)


def strata(values: np.ndarray, count: int) -> np.ndarray:
    """Quantile groups 0..count-1 [n], as equal as can be; ties go by row order."""
    order = np.argsort(values, kind="stable")
    found = np.empty(len(values), dtype=np.int64)
    found[order] = np.arange(len(values)) * min(count, len(values)) // len(values)
    return found
