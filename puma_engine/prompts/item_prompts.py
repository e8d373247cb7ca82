"""Soft prompts of items: a second table that is read beside the users' prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from puma_engine.errors import DataError


@dataclass(frozen=True)
class ItemPrompts:
    """Soft prompts by item, which follow the user's in the prompt slot.

    item_ids: [m] strings, unique; vectors: [m, l, d] float32; other: [l, d], of every item that
    is not among them. Raises DataError.
    """

    item_ids: np.ndarray
    vectors: np.ndarray
    other: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.shape != (len(self.item_ids), *self.other.shape) or self.other.ndim != 2:
            raise DataError(
                f"Item prompts need vectors of shape [items, tokens, dim] and one of [tokens, dim] for all others; got "
                f"{self.vectors.shape} and {self.other.shape} for {len(self.item_ids)} item ids."
            )
        if len(set(self.item_ids.tolist())) != len(self.item_ids):
            raise DataError("Item prompts hold the same item id twice; each item has one row.")
        if not (np.isfinite(self.vectors).all() and np.isfinite(self.other).all()):
            raise DataError("Item prompts hold NaN or infinite values; fit them again.")

    @property
    def tokens(self) -> int:
        return int(self.other.shape[0])

    def take(self, items: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return vectors [len(items), l, d] by item id; items that are unknown get `other`."""
        rows = pd.Index(self.item_ids.astype(str)).get_indexer(
            pd.Index(np.asarray(items, dtype=str))
        )
        return np.concatenate([self.vectors, self.other[None]])[rows]


def join_items(
    tables: Sequence[ItemPrompts | None], items: Sequence[str] | np.ndarray
) -> np.ndarray | None:
    """Put the item prompts of several sources side by side, for given items and for all others.

    Returns [len(items) + 1, l, sum of d], the last row for items that are not among them, or
    None if no source has item prompts. Sources without them add nothing.
    """
    own = [table for table in tables if table is not None]
    if not own:
        return None
    if len({table.tokens for table in own}) > 1:
        raise DataError(
            "The sources have item prompts of different lengths; they cannot be joined."
        )
    rows = [np.concatenate([table.take(items), table.other[None]]) for table in own]
    return np.concatenate(rows, axis=2)
