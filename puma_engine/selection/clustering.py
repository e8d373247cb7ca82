"""Grouping of users: k-means on principal components of their prompts, and quantile strata.

Up to MAX_IN_MEMORY users are fitted together. For more users, components are fitted on a seeded
sample and the users are projected in blocks, so that not all prompts are in memory at once.
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
# Oversampled columns and power iterations of the randomised SVD.
OVERSAMPLES, POWER_ITERATIONS = 10, 4
KMEANS_BATCH = 4096
MAX_THREADS = 4
# Several threads are faster only for tables with at least so many numbers.
LARGE = 100_000_000
_LIMITING = threading.RLock()


@dataclass(frozen=True)
class Projection:
    """Principal components: mean [d] and axes [d, k], float32; no axes if all users are equal."""

    mean: np.ndarray
    axes: np.ndarray | None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the components [m, k] float32 of rows [m, d]; one constant 0 without axes."""
        if self.axes is None:
            return np.zeros((len(rows), 1), np.float32)
        return (np.asarray(rows, np.float32) - self.mean) @ self.axes


class PromptBlocks(Protocol):
    """Prompts of n users that are read in blocks; row i belongs to user_ids[i]."""

    user_ids: np.ndarray

    def projected(self, project: Projection, rows: int) -> np.ndarray:
        """Return the components [n, k] of all users, computed for at most `rows` users at a time."""

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
    """Return the principal components [n, k] of prompts that are read in blocks.

    Row i belongs to prompts.user_ids[i]. With more than MAX_IN_MEMORY users, at most SAMPLE prompts
    are in memory. Results equal `principal_components` of users sorted by id, up to rounding.
    """
    order = np.argsort(np.asarray(prompts.user_ids, dtype=str), kind="stable")
    n = len(order)
    if n <= MAX_IN_MEMORY:
        space = principal_components(prompts.take(order).astype(np.float64), seed)
        return space[np.argsort(order)]
    project = fit_components(prompts.take(order[_sample_rows(n, seed)]), seed)
    return prompts.projected(project, BLOCK)


def _sample_rows(n: int, seed: int) -> np.ndarray:
    """Return the ascending rows of the users on whom components are fitted."""
    return np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False))


def kmeans(space: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return k-means labels [n] int64 of rows [n, k].

    There may be fewer clusters than `count`, since rows that differ only by rounding share a
    cluster. With more than MAX_IN_MEMORY users the centres are fitted on mini-batches.
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
    """Return strata 0..count-1 [n] int64 of equal size by values [n]; ties are broken by row order."""
    order = np.argsort(values, kind="stable")
    strata = np.empty(len(values), dtype=np.int64)
    strata[order] = np.arange(len(values)) * min(count, len(values)) // len(values)
    return strata


@contextmanager
def limited_threads(size: int, limit: int = MAX_THREADS) -> Iterator[None]:
    """Context manager: limit the threads of BLAS and OpenMP for fewer than LARGE numbers.

    More threads slow small problems down. A library with a lower limit, such as OMP_NUM_THREADS,
    keeps it. BLAS has one setting for the process, so one thread at a time changes and restores it.
    """
    if size >= LARGE:
        yield
        return
    from threadpoolctl import ThreadpoolController

    with _LIMITING:
        # Once for both: it searches all memory mappings of the process.
        libraries = ThreadpoolController()
        limits = {
            library["filepath"]: min(limit, library["num_threads"]) for library in libraries.info()
        }
        with libraries.limit(limits=limits):
            yield
