"""Grouping of users: k-means on principal components of their prompts, and quantile strata.

Up to MAX_IN_MEMORY users, all are fitted together. Of more users, components are fitted on a seeded
sample and the users are projected block by block, so that the prompts are never in memory together.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

COMPONENTS = 50
MAX_IN_MEMORY = 50_000
SAMPLE = 1 << 15
BLOCK = 1 << 13
# Of the randomised SVD: columns beyond the components, and power iterations.
OVERSAMPLES, POWER_ITERATIONS = 10, 4
KMEANS_BATCH = 4096
MAX_THREADS = 4
# Numbers in a table from which more threads pay.
LARGE = 100_000_000
_LIMITING = threading.RLock()


@dataclass(frozen=True)
class Projection:
    """Principal components: mean [d] and axes [d, k], float32; without axes, of users who are all alike."""

    mean: np.ndarray
    axes: np.ndarray | None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the components [m, k] float32 of rows [m, d]; one constant 0 without axes."""
        if self.axes is None:
            return np.zeros((len(rows), 1), np.float32)
        return (np.asarray(rows, np.float32) - self.mean) @ self.axes


class PromptBlocks(Protocol):
    """Prompts of n users that are read in parts; row i belongs to user_ids[i]."""

    user_ids: np.ndarray

    def projected(self, project: Projection, rows: int) -> np.ndarray:
        """Return the components [n, k] of all users, computed for up to `rows` of them at a time."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the prompts [len(rows), d] of some users."""


def fit_components(sample: np.ndarray, seed: int) -> Projection:
    """Fit at most COMPONENTS principal components to rows [n, d], centred in place if float32.

    Randomised SVD by subspace iteration (Halko et al. 2011) on the covariance, whose
    matrices are d wide rather than n long. scikit-learn's solvers need float64 copies of the sample
    and give other signs and rounding, which would change the users that stored runs selected.
    """
    sample = np.asarray(sample, np.float32)
    mean = sample.mean(0, dtype=np.float64).astype(np.float32)
    if np.ptp(sample, axis=0).max(initial=0) == 0:
        return Projection(mean, None)
    sample -= mean
    n, d = sample.shape
    width = min(COMPONENTS, n, d)
    columns = min(width + OVERSAMPLES, d)
    basis = np.random.default_rng(seed).standard_normal((d, columns), np.float32)
    with limited_threads(sample.size):
        basis = _orthonormal(basis)
        for _ in range(POWER_ITERATIONS):
            basis = _orthonormal(sample.T @ (sample @ basis))
        inside = (sample @ basis).astype(np.float64)
        rotation = np.linalg.eigh(inside.T @ inside)[1][:, ::-1][:, :width]
    axes = np.ascontiguousarray(basis @ rotation.astype(np.float32))
    return Projection(mean, axes)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    with limited_threads(columns.size, 1):
        return np.linalg.qr(columns)[0]


def principal_components(values: np.ndarray, seed: int) -> np.ndarray:
    """Project rows [n, d] to at most COMPONENTS principal components, [n, k]."""
    if len(values) > MAX_IN_MEMORY:
        project = fit_components(values[_sample_rows(len(values), seed)], seed)
        blocks = range(0, len(values), BLOCK)
        return np.concatenate([project(values[at : at + BLOCK]) for at in blocks])
    from sklearn.decomposition import PCA

    width = min(COMPONENTS, *values.shape)
    if width < 1 or np.ptp(values, axis=0).max(initial=0) == 0:
        return np.zeros((len(values), 1))
    with limited_threads(values.size):
        return PCA(width, svd_solver="randomized", random_state=seed).fit_transform(values)


def streamed_components(prompts: PromptBlocks, seed: int) -> np.ndarray:
    """Return what `principal_components` gives for users in the order of their ids, [n, k].

    Row i belongs to prompts.user_ids[i]. Of more than MAX_IN_MEMORY users at most SAMPLE prompts are
    in memory; results differ from `principal_components` by rounding.
    """
    order = np.argsort(np.asarray(prompts.user_ids, dtype=str), kind="stable")
    n = len(order)
    if n <= MAX_IN_MEMORY:
        space = principal_components(prompts.take(order).astype(np.float64), seed)
        return space[np.argsort(order)]
    project = fit_components(prompts.take(order[_sample_rows(n, seed)]), seed)
    return prompts.projected(project, BLOCK)


def _sample_rows(n: int, seed: int) -> np.ndarray:
    """Rows of the users on whom components are fitted, ascending."""
    return np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False))


def kmeans(space: np.ndarray, count: int, seed: int) -> np.ndarray:
    """k-means labels [n] int64 of rows [n, k]; at most as many clusters as distinct rows.

    Rows that differ by rounding alone share a cluster, so there may be fewer clusters than asked for.

    Of more than MAX_IN_MEMORY users the centres are fitted on mini-batches.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(space) > MAX_IN_MEMORY:
        model = MiniBatchKMeans(count, batch_size=KMEANS_BATCH, n_init=3, random_state=seed)
    else:
        count = min(count, len(np.unique(space, axis=0)))
        if count < 2:
            return np.zeros(len(space), dtype=np.int64)
        model = KMeans(count, n_init=1, random_state=seed)
    with limited_threads(space.size), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit_predict(space), dtype=np.int64)


def quantile_strata(values: np.ndarray, count: int) -> np.ndarray:
    """Strata 0..count-1 [n] int64 by quantiles of values [n], of equal size; ties go by row order."""
    order = np.argsort(values, kind="stable")
    strata = np.empty(len(values), dtype=np.int64)
    strata[order] = np.arange(len(values)) * min(count, len(values)) // len(values)
    return strata


@contextmanager
def limited_threads(size: int, limit: int = MAX_THREADS) -> Iterator[None]:
    """Limit the threads of BLAS and OpenMP in work on fewer than LARGE numbers.

    More threads slow small problems down. A library that has fewer, as by OMP_NUM_THREADS, keeps
    them. BLAS has one setting for the process, so one thread at a time changes it and puts it back.
    """
    if size >= LARGE:
        yield
        return
    from threadpoolctl import threadpool_info, threadpool_limits

    with _LIMITING:
        limits = {
            library["filepath"]: min(limit, library["num_threads"]) for library in threadpool_info()
        }
        with threadpool_limits(limits):
            yield
