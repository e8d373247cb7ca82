"""Closed-form maps between backbones, from users whose prompts are known on both.

They are baselines for the adapter. They need prompts of some users that were fitted on the target,
which a migration saves; then they cost one linear system.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from puma_engine.errors import ConfigError, MigrationError
from puma_engine.prompts.table import PromptTable

Method = Literal["ridge", "procrustes"]
# Candidates of the ridge strength, in units of the mean variance of the source's dimensions.
STRENGTHS = np.logspace(-3, 3, 13)
MIN_PAIRS = 3


@dataclass(frozen=True)
class LinearMap:
    """y = (x - source_mean) @ weight + target_mean, on prompts flattened to rows.

    weight: [d_in, d_out]; strength: of the ridge penalty, 0 for Procrustes.
    """

    weight: np.ndarray
    source_mean: np.ndarray
    target_mean: np.ndarray
    strength: float = 0.0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Map rows [n, d_in] to [n, d_out]."""
        return (rows - self.source_mean) @ self.weight + self.target_mean


def ridge(source: np.ndarray, target: np.ndarray) -> LinearMap:
    """Fit a ridge regression (Hoerl & Kennard 1970) with the strength of the smallest leave-one-out error.

    source [n, d_in] and target [n, d_out]: row i of both is one user. Raises MigrationError for
    fewer than MIN_PAIRS rows.
    """
    from sklearn.linear_model import RidgeCV

    _check_pairs(source, target)
    variance = float(np.square(source - source.mean(0)).sum()) / source.shape[1]
    model = RidgeCV(alphas=STRENGTHS * max(variance, 1e-12)).fit(source, target)
    return LinearMap(model.coef_.T, source.mean(0), target.mean(0), float(model.alpha_))


def procrustes(source: np.ndarray, target: np.ndarray) -> LinearMap:
    """Fit an orthogonal Procrustes map with one scale (Schoenemann 1966): the closest one that keeps angles.

    source [n, d_in] and target [n, d_out]: row i of both is one user. Widths may differ, unlike in
    `scipy.linalg.orthogonal_procrustes`: dimensions beyond the smaller width are dropped or stay 0.
    Raises MigrationError for fewer than MIN_PAIRS rows.
    """
    _check_pairs(source, target)
    x, y = source - source.mean(0), target - target.mean(0)
    u, singular, vt = np.linalg.svd(x.T @ y, full_matrices=False)
    nonzero = singular > singular.max(initial=0) * 1e-10
    rotation = u[:, nonzero] @ vt[nonzero]
    length = float(((x @ rotation) ** 2).sum())
    scale = float(singular[nonzero].sum()) / length if length > 0 else 0.0
    return LinearMap(scale * rotation, source.mean(0), target.mean(0))


def map_prompts(
    source: PromptTable, examples: PromptTable, *, method: Method = "ridge"
) -> PromptTable:
    """Map every user's source prompt to the target by a map that is fitted on examples.

    examples: prompts of some users fitted on the target, joined with the source by user id; the
    result has their head. Raises ConfigError for an unknown method, and MigrationError where fewer
    than MIN_PAIRS users are in both tables.
    """
    methods = {"ridge": ridge, "procrustes": procrustes}
    if method not in methods:
        raise ConfigError(f"There is no method {method!r}; choose {' or '.join(methods)}.")
    both = np.intersect1d(source.user_ids, examples.user_ids)
    if len(both) < MIN_PAIRS:
        raise MigrationError(
            f"{len(both)} users have prompts on both backbones; a map needs {MIN_PAIRS} or more."
        )

    def rows(table: PromptTable, users: np.ndarray) -> np.ndarray:
        return table.take(users).reshape(len(users), -1).astype(np.float64)

    linear = methods[method](rows(source, both), rows(examples, both))
    mapped = linear(rows(source, source.user_ids)).astype(np.float32)
    vectors = mapped.reshape(len(mapped), examples.tokens, examples.width)
    meta = examples.meta | {"method": method, "pairs": len(both), "strength": linear.strength}
    return PromptTable(source.user_ids, vectors, examples.head, meta, examples.items)


def _check_pairs(source: np.ndarray, target: np.ndarray) -> None:
    if len(source) != len(target) or len(source) < MIN_PAIRS:
        raise MigrationError(
            f"A map needs {MIN_PAIRS} or more pairs of prompts; got {len(source)} and {len(target)} rows."
        )
