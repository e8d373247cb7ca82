"""The space that users are clustered in: principal components of their prompts.

Of up to MANY users everything is held and fitted at once. Of more, components are fitted on a
seeded sample and the users are projected block by block, so that the prompts need never be in
memory together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from puma_engine.selection.threads import few_threads

PCA_WIDTH = 50
MANY = 50_000
SAMPLE = 1 << 15
BLOCK = 1 << 13
SPARE, ITERATIONS = 10, 4


class PromptBlocks(Protocol):
    """Prompts of n users that are read in parts; row i belongs to user_ids[i]."""

    user_ids: np.ndarray

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Give the first row's number and the prompts [up to `rows`, d] of one block after another."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the prompts [len(rows), d] of some users."""


@dataclass(frozen=True)
class Components:
    """The mean [d] and principal axes [d, k] of a sample; no axes where all users are alike."""

    mean: np.ndarray
    axes: np.ndarray | None

    @classmethod
    def of(cls, sample: np.ndarray, seed: int) -> Components:
        """Fit at most 50 components to rows [n, d], which are centred in place if float32."""
        sample = np.asarray(sample, np.float32)
        mean = sample.mean(0, dtype=np.float64).astype(np.float32)
        if np.ptp(sample, axis=0).max(initial=0) == 0:
            return cls(mean, None)
        sample -= mean
        n, d = sample.shape
        width = min(PCA_WIDTH, n, d)
        drawn = np.random.default_rng(seed).standard_normal((d, min(width + SPARE, d)), np.float32)
        with few_threads(sample.size):
            # Subspace iteration on the covariance: its matrices are d wide, not n long.
            basis = _orthonormal(drawn)
            for _ in range(ITERATIONS):
                basis = _orthonormal(sample.T @ (sample @ basis))
            inside = (sample @ basis).astype(np.float64)
            turn = np.linalg.eigh(inside.T @ inside)[1][:, ::-1][:, :width]
        return cls(mean, np.ascontiguousarray(basis @ turn.astype(np.float32)))

    @property
    def width(self) -> int:
        return 1 if self.axes is None else self.axes.shape[1]

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Return the components [n, k] float32 of rows [n, d]."""
        if self.axes is None:
            return np.zeros((len(rows), 1), np.float32)
        return (np.asarray(rows, np.float32) - self.mean) @ self.axes


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Columns [d, k] made orthonormal."""
    with few_threads(columns.size, 1):
        return np.linalg.qr(columns)[0]


def reduced(values: np.ndarray, seed: int) -> np.ndarray:
    """Project rows [n, d] to at most 50 principal components."""
    if len(values) > MANY:
        fit = Components.of(values[sampled(len(values), seed)], seed)
        found = np.empty((len(values), fit.width), np.float32)
        for start in range(0, len(values), BLOCK):
            found[start : start + BLOCK] = fit.project(values[start : start + BLOCK])
        return found
    from sklearn.decomposition import PCA

    width = min(PCA_WIDTH, *values.shape)
    if width < 1 or np.ptp(values, axis=0).max(initial=0) == 0:
        return np.zeros((len(values), 1))
    with few_threads(values.size):
        return PCA(width, svd_solver="randomized", random_state=seed).fit_transform(values)


def streamed(prompts: PromptBlocks, seed: int) -> np.ndarray:
    """Return what `reduced` gives for the same users in the order of their ids, [n, k].

    Row i belongs to prompts.user_ids[i]. Of more than 50,000 users at most 32,768 prompts are
    in memory; results differ from `reduced` by rounding.
    """
    order = np.argsort(np.asarray(prompts.user_ids, dtype=str), kind="stable")
    n = len(order)
    if n <= MANY:
        small = reduced(prompts.take(order).astype(np.float64), seed)
        return small[np.argsort(order)]
    fit = Components.of(prompts.take(order[sampled(n, seed)]), seed)
    found = np.empty((n, fit.width), np.float32)
    for start, block in prompts.blocks(BLOCK):
        found[start : start + len(block)] = fit.project(block)
    return found


def sampled(n: int, seed: int) -> np.ndarray:
    """Rows of the users on whom components are fitted, drawn evenly, ascending."""
    drawn = np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False)
    return np.sort(drawn)
