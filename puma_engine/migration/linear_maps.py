"""Maps between backbones without training: from users whose prompts are known on both.

These are baselines for an adapter. They ask for what a migration is meant to save, prompts of
some users fitted on the target, and then cost one linear system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from puma_engine.errors import ConfigError, MigrationError
from puma_engine.prompts.table import PromptTable

Method = Literal["ridge", "procrustes"]
# Ridge strengths that are tried, as shares of the mean variance of the source's directions.
STRENGTHS = np.logspace(-3, 3, 13)
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class LinearMap:
    """y = (x - source_mean) @ weight + target_mean, on prompts flattened to rows.

    weight [d_in, d_out]; strength: the ridge's, chosen by leaving one user out, else 0.
    """

    weight: np.ndarray
    source_mean: np.ndarray
    target_mean: np.ndarray
    strength: float = 0.0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Map rows [n, d_in] to [n, d_out]."""
        mapped: np.ndarray = (rows - self.source_mean) @ self.weight + self.target_mean
        return mapped


def ridge(source: np.ndarray, target: np.ndarray) -> LinearMap:
    """Least squares with the penalty whose error on users left out one by one is the least.

    source [n, d_in] and target [n, d_out]: row i of both is one user.
    """
    x, y, means = _centred(source, target)
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    unit = max(float((sizes**2).sum()) / x.shape[1], 1e-12)
    best, best_error = STRENGTHS[-1] * unit, np.inf
    for strength in STRENGTHS * unit:
        shrink = sizes**2 / (sizes**2 + strength)
        # The mean, which takes 1 / n of each user's own row, is left out as well.
        own = (left**2 @ shrink) + 1 / len(x)
        error = (y - left @ (shrink[:, None] * projected)) / np.maximum(1 - own, 1e-9)[:, None]
        total = float((error**2).sum())
        if total < best_error:
            best, best_error = strength, total
    weight = right.T @ ((sizes / (sizes**2 + best))[:, None] * projected)
    return LinearMap(weight, *means, strength=float(best))


def procrustes(source: np.ndarray, target: np.ndarray) -> LinearMap:
    """One turn (and mirror), scaled as a whole: the closest map that keeps all angles.

    Where widths differ, directions beyond the narrower of the two are lost or left empty.
    """
    x, y, means = _centred(source, target)
    left, sizes, right = np.linalg.svd(x.T @ y, full_matrices=False)
    seen = sizes > sizes.max(initial=0) * 1e-10
    turn = left[:, seen] @ right[seen]
    length = float(((x @ turn) ** 2).sum())
    scale = float(sizes[seen].sum()) / length if length > 0 else 0.0
    return LinearMap(scale * turn, *means)


def map_prompts(
    source: PromptTable, examples: PromptTable, *, method: Method = "ridge"
) -> PromptTable:
    """Map every user's source prompt to the target by a map found on the examples.

    examples: prompts of some users fitted on the target; they are matched by user id, and their
    head comes along. Raises ConfigError, and MigrationError with fewer than three users in both.
    """
    methods = {"ridge": ridge, "procrustes": procrustes}
    if method not in methods:
        raise ConfigError(f"There is no method {method!r}; choose {' or '.join(methods)}.")
    both = np.intersect1d(source.user_ids, examples.user_ids)
    if len(both) < FEWEST_PAIRS:
        raise MigrationError(
            f"{len(both)} users have prompts on both backbones; a map needs {FEWEST_PAIRS} or more."
        )
    found = methods[method](_rows(source, both), _rows(examples, both))
    everyone = found(_rows(source, source.user_ids))
    vectors = everyone.reshape(len(everyone), examples.tokens, examples.width).astype(np.float32)
    meta = examples.meta | {"method": method, "pairs": len(both), "strength": found.strength}
    return PromptTable(source.user_ids, vectors, examples.head, meta, examples.items)


def _rows(table: PromptTable, users: np.ndarray) -> np.ndarray:
    return table.take(users).reshape(len(users), -1).astype(np.float64)


def _centred(
    source: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    if len(source) != len(target) or len(source) < FEWEST_PAIRS:
        raise MigrationError(
            f"A map needs {FEWEST_PAIRS} or more pairs of prompts; got {len(source)} and "
            f"{len(target)} rows."
        )
    means = source.mean(0), target.mean(0)
    return source - means[0], target - means[1], means
