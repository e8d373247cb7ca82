"""Input of the strategies: one array for each signal, aligned by user id."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from puma_engine.errors import SelectionError
from puma_engine.selection.clustering import MAX_IN_MEMORY

BLOCK = 1 << 14


@dataclass(frozen=True)
class Signals:
    """Signals of n users; row i of each array belongs to user_ids[i].

    embedding [n, d]: the source prompts, flattened; variance [n]: of the train outcomes, 0 for one
    outcome; loss [n]: mean train loss on the source; activations [n, f]: binarised FFN activations;
    space [n, k]: principal components of the embedding, if known; activity [n]: number of train
    rows. Signals that no strategy reads may be None. Raises SelectionError for a repeated user,
    wrong lengths, and NaN or infinite values.
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
        for name, values in self._present().items():
            if len(values) != n:
                raise SelectionError(
                    f"The signal {name} has {len(values)} rows for {n} users; give one each."
                )
            # In blocks, since a copy in double precision may not fit in memory.
            blocks = range(0, n, BLOCK)
            if name != "user_ids" and not all(
                np.isfinite(np.asarray(values[at : at + BLOCK], float)).all() for at in blocks
            ):
                raise SelectionError(f"The signal {name} holds NaN or infinite values.")

    def _present(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def by_id(self) -> "Signals":
        """Return the same signals with users in the order of their ids."""
        order = np.argsort(np.asarray(self.user_ids, dtype=str), kind="stable")
        if (order == np.arange(len(order))).all():
            return self
        return Signals(
            **{name: np.asarray(value)[order] for name, value in self._present().items()}
        )

    def require(self, name: str, strategy: str) -> np.ndarray:
        """Return a signal, in float64 unless it is a table of more than MAX_IN_MEMORY users.

        Raises SelectionError with the name of the strategy if the signal is None.
        """
        values = getattr(self, name)
        if values is None:
            raise SelectionError(
                f"The strategy {strategy!r} needs the signal {name}, which was not given."
            )
        large = values.ndim == 2 and len(values) > MAX_IN_MEMORY
        return np.asarray(values) if large else np.asarray(values, dtype=np.float64)
