"""Soft prompts of items: a second table, whose tokens join those of the user in the prompt slot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from puma_engine.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class ItemPrompts:
    """Soft prompts by item.

    item_ids: [m] strings, unique; vectors: [m, l, d] float32; other: [l, d], the prompt of every item
    that is not in item_ids. first: whether they stand before the user's tokens in the prompt slot.
    Raises DataError for wrong shapes, a repeated id, and NaN or infinite values.
    """

    item_ids: np.ndarray
    vectors: np.ndarray
    other: np.ndarray
    first: bool = False

    def __post_init__(self) -> None:
        if self.vectors.shape != (len(self.item_ids), *self.other.shape) or self.other.ndim != 2:
            raise DataError(
                "Item prompts need vectors of shape [items, tokens, dim] and one of [tokens, dim] for all "
                f"others; got {self.vectors.shape} and {self.other.shape} for {len(self.item_ids)} item ids."
            )
        if len(set(self.item_ids.tolist())) != len(self.item_ids):
            raise DataError("Item prompts hold the same item id twice; each item has one row.")
        if not (np.isfinite(self.vectors).all() and np.isfinite(self.other).all()):
            raise DataError("Item prompts hold NaN or infinite values; fit them again.")

    @property
    def tokens(self) -> int:
        """Soft prompt tokens of each item, l."""
        return int(self.other.shape[0])

    def take(self, items: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return vectors [len(items), l, d] by item id; unknown items get `other`."""
        ids = pd.Index(self.item_ids.astype(str))
        rows = ids.get_indexer(pd.Index(np.asarray(items, dtype=str)))
        # Row -1, of unknown items, is the last.
        return np.concatenate([self.vectors, self.other[None]])[rows]


def in_slot_order(user: T, item: T, *, item_first: bool) -> tuple[T, T]:
    """Concatenate the prompts of users and items in the order of the prompt slot."""
    return (item, user) if item_first else (user, item)


def join_items(tables: Sequence[ItemPrompts], items: Sequence[str] | np.ndarray) -> np.ndarray:
    """Concatenate the item prompts of one or more sources along the width, joined by item id.

    Returns [len(items) + 1, l, sum of d]; the last row is for all other items. Raises DataError if
    the tables differ in the number or the place of their tokens.
    """
    if len({table.tokens for table in tables}) > 1:
        raise DataError(
            "The sources have item prompts of different lengths; they cannot be joined."
        )
    if len({table.first for table in tables}) > 1:
        raise DataError(
            "Some sources have item prompts before the users', others after; they cannot be joined."
        )
    rows = [np.concatenate([table.take(items), table.other[None]]) for table in tables]
    return np.concatenate(rows, axis=2)
