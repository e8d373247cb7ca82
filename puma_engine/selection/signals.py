"""What a strategy may look at: one aligned array a signal, keyed by user id."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from puma_engine.errors import SelectionError
from puma_engine.selection.threads import few_threads

PCA_WIDTH = 50


@dataclass(frozen=True)
class Signals:
    """Signals of n users, row i of each array for user_ids[i].

    embedding [n, d]: the source prompts, flattened; variance [n]: of the train outcomes, 0
    for a single one; loss [n]: mean train loss on the source; activations [n, f]: binarised
    FFN activations; space [n, k]: principal components of the embedding, where they are known
    already; activity [n]: train rows. Those that no strategy needs may be None.
    """

    user_ids: np.ndarray
    embedding: np.ndarray | None = None
    variance: np.ndarray | None = None
    loss: np.ndarray | None = None
    activations: np.ndarray | None = None
    space: np.ndarray | None = None
    activity: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.user_ids)
        if len(np.unique(self.user_ids)) != n:
            raise SelectionError("The signals name a user twice; each user has one row.")
        for field in fields(self):
            values = getattr(self, field.name)
            if values is None:
                continue
            if len(values) != n:
                raise SelectionError(
                    f"The signal {field.name} has {len(values)} rows for {n} users; give one each."
                )
            if field.name != "user_ids" and not np.isfinite(np.asarray(values, float)).all():
                raise SelectionError(f"The signal {field.name} holds NaN or infinite values.")

    def by_id(self) -> Signals:
        """Return the same signals with users in the order of their ids."""
        order = np.argsort(np.asarray(self.user_ids, dtype=str), kind="stable")
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        ordered: dict[str, Any] = {
            name: None if value is None else np.asarray(value)[order]
            for name, value in values.items()
        }
        return Signals(**ordered)

    def need(self, name: str, strategy: str) -> np.ndarray:
        """Return a signal, or raise SelectionError that says which strategy needs it."""
        values = getattr(self, name)
        if values is None:
            raise SelectionError(
                f"The strategy {strategy!r} needs the signal {name}, which was not given."
            )
        return np.asarray(values, dtype=np.float64)


def reduced(values: np.ndarray, seed: int) -> np.ndarray:
    """Project rows [n, d] to at most 50 principal components."""
    from sklearn.decomposition import PCA

    width = min(PCA_WIDTH, *values.shape)
    if width < 1 or np.ptp(values, axis=0).max(initial=0) == 0:
        return np.zeros((len(values), 1))
    with few_threads(values.size):
        return PCA(width, svd_solver="randomized", random_state=seed).fit_transform(values)


def unit(values: np.ndarray) -> np.ndarray:
    """Scale rows [n, d] to length 1; zero rows stay."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norm > 0, norm, 1)
