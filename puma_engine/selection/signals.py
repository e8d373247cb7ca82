"""What a strategy may look at: one aligned array a signal, keyed by user id."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from puma_engine.errors import SelectionError
from puma_engine.selection.space import MANY

BLOCK = 1 << 14


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
            if field.name != "user_ids" and not _finite(values):
                raise SelectionError(f"The signal {field.name} holds NaN or infinite values.")

    def by_id(self) -> Signals:
        """Return the same signals with users in the order of their ids."""
        order = np.argsort(np.asarray(self.user_ids, dtype=str), kind="stable")
        if (order == np.arange(len(order))).all():
            return self
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
        # A copy in double precision of many users' tables would not fit.
        large = values.ndim == 2 and len(values) > MANY
        return np.asarray(values) if large else np.asarray(values, dtype=np.float64)


def _finite(values: np.ndarray) -> bool:
    blocks = range(0, len(values), BLOCK)
    return all(np.isfinite(np.asarray(values[at : at + BLOCK], float)).all() for at in blocks)


def unit(values: np.ndarray) -> np.ndarray:
    """Scale rows [n, d] to length 1; zero rows stay."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norm > 0, norm, 1)
