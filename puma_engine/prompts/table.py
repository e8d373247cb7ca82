"""Tables of soft prompts, one row for each user."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.errors import DataError, MigrationError
from puma_engine.prompts.item_prompts import ItemPrompts, in_slot_order

# Largest number of users from whose prompts a participation ratio is computed.
RATIO_USERS = 20_000


@dataclass(frozen=True)
class PromptTable:
    """Soft prompts by user.

    user_ids: [n] strings, unique; vectors: [n, l, d] float32; head: the tensors of the task's head
    that was trained with them, or None; meta: where they come from (JSON); items: soft prompts of
    items that were fitted with them, or None. Raises DataError for wrong shapes, a repeated user id,
    and NaN or infinite values.
    """

    user_ids: np.ndarray
    vectors: np.ndarray
    head: dict[str, np.ndarray] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    items: ItemPrompts | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or len(self.vectors) != len(self.user_ids):
            raise DataError(
                f"A prompt table needs vectors of shape [users, tokens, dim]; got {self.vectors.shape} for "
                f"{len(self.user_ids)} user ids."
            )
        if len(set(self.user_ids.tolist())) != len(self.user_ids):
            raise DataError("A prompt table has the same user id twice; each user has one row.")
        if not np.isfinite(self.vectors).all():
            raise DataError("A prompt table holds NaN or infinite values; fit it again.")

    @property
    def tokens(self) -> int:
        """Soft prompt tokens of each user, l."""
        return int(self.vectors.shape[1])

    @property
    def read_tokens(self) -> int:
        """Number of soft prompt tokens of an example: of the user and, if items have prompts, of the item."""
        return self.tokens + (self.items.tokens if self.items is not None else 0)

    @property
    def width(self) -> int:
        """Width of the backbone's token embeddings, d."""
        return int(self.vectors.shape[2])

    @property
    def is_vectors(self) -> bool:
        """Whether the table holds vectors of another origin instead of prompts of a language model."""
        return bool(self.meta.get("vectors"))

    @cached_property
    def embedding(self) -> np.ndarray:
        """The space in which strategies and maps compare users: prompts flattened, [n, l * d].

        The numbers of vectors may have any units, so they are standardised.
        """
        flat = self.vectors.reshape(len(self.vectors), -1)
        if not self.is_vectors:
            return flat
        std = flat.std(axis=0)
        return (flat - flat.mean(axis=0)) / np.where(std > 0, std, 1)

    def participation_ratio(self) -> float:
        """Return the participation ratio of the prompts' covariance, between 1 and l * d.

        (sum of eigenvalues)^2 / sum of squared eigenvalues: the number of directions in which users
        differ, where directions of equal variance count one each (Gao et al., A theory of
        multineuronal dimensionality, 2017, https://doi.org/10.1101/214262). 0 where all prompts are
        equal. Of more than RATIO_USERS users, evenly spaced ones are used.
        """
        step = -(-len(self.vectors) // RATIO_USERS)
        rows = self.vectors[::step].reshape(-1, self.tokens * self.width).astype(np.float64)
        centred = rows - rows.mean(axis=0)
        # The products of a matrix with its transpose in either order have the same eigenvalues above 0.
        wide = centred.shape[1] > centred.shape[0]
        product = centred @ centred.T if wide else centred.T @ centred
        squares = float(np.square(product).sum())
        return float(np.trace(product)) ** 2 / squares if squares > 0 else 0.0

    def rows_of(self, users: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the row of each user id, [len(users)] int64; -1 where the table has none."""
        index = pd.Index(self.user_ids.astype(str))
        return index.get_indexer(pd.Index(np.asarray(users, dtype=str))).astype(np.int64)

    def take(self, users: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return vectors [len(users), l, d] by user id. Raises MigrationError for unknown ids."""
        rows = self.rows_of(users)
        if (rows < 0).any():
            missing = np.asarray(users)[rows < 0]
            users_have = "1 user has" if len(missing) == 1 else f"{len(missing)} users have"
            raise MigrationError(
                f"{users_have} no prompt in this table (first: {str(missing[0])!r}); fit prompts first, or "
                "leave out users without one."
            )
        return self.vectors[rows]

    def take_pairs(
        self, users: Sequence[str] | np.ndarray, items: Sequence[str] | np.ndarray
    ) -> np.ndarray:
        """Return the prompts of examples, [n, read_tokens, d]: user and item prompts in slot order.

        users, items: ids [n]. Raises MigrationError for unknown users.
        """
        vectors = self.take(users)
        if self.items is None:
            return vectors
        item_vectors, first = self.items.take(items), self.items.first
        return np.concatenate(in_slot_order(vectors, item_vectors, item_first=first), axis=1)

    def shuffled(self, seed: int) -> "PromptTable":
        """Return the shuffled control: every user gets another user's prompt, in a random cycle of all users."""
        order = np.random.default_rng(seed).permutation(len(self.user_ids))
        vectors = np.empty_like(self.vectors)
        vectors[order] = self.vectors[np.roll(order, 1)]
        return dataclasses.replace(self, vectors=vectors, meta=self.meta | {"shuffled": seed})
