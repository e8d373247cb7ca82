"""Interactions as integer codes: the form in which importers filter, draw and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from puma_engine.datasets.population import EVERYONE, in_population
from puma_engine.datasets.seeded_hashing import mix, rank_within, seed_key, text_keys
from puma_engine.datasets.splits import SPLITS
from puma_engine.errors import DataError


@dataclasses.dataclass(frozen=True)
class EncodedInteractions:
    """Rows of (user, item, outcome, time), users and items as indices of sorted ids.

    user_ids, item_ids: [users], [items] of str, sorted. user, item: [n] int64.
    outcome: [n] float32. time: [n] int64 or None.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    user: np.ndarray
    item: np.ndarray
    outcome: np.ndarray
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    def keep(self, rows: np.ndarray) -> EncodedInteractions:
        """Return the rows of a boolean mask or of an index array."""
        time = None if self.time is None else self.time[rows]
        return dataclasses.replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            outcome=self.outcome[rows],
            time=time,
        )

    def users_present(self) -> np.ndarray:
        """Codes of the users that have rows, sorted, [users] int64."""
        return np.flatnonzero(np.bincount(self.user, minlength=len(self.user_ids)))

    def count_users(self) -> int:
        """How many users have rows."""
        return len(self.users_present())

    def pairs(self) -> np.ndarray:
        """One integer for each row's user and item, [n] int64."""
        return self.user.astype(np.int64) * len(self.item_ids) + self.item

    def row_keys(self, seed: int, purpose: str) -> np.ndarray:
        """A seeded 64-bit key of each row that depends on its two ids alone, [n] uint64."""
        users, items = text_keys(self.user_ids), text_keys(self.item_ids)
        return mix(seed_key(seed, purpose), users[self.user], items[self.item])


def encode(values: pd.Series, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes [n] int64 and the sorted ids as text; -1 for a value not among given ids."""
    raw, unique = pd.factorize(values)
    texts = np.array([str(value) for value in unique], dtype=str)
    if ids is None:
        ids, position = np.unique(texts, return_inverse=True)
    else:
        position = pd.Index(ids).get_indexer(pd.Index(texts))
    return np.append(position, -1)[raw].astype(np.int64), ids


def latest_of_each_pair(rows: EncodedInteractions) -> np.ndarray:
    """Say which rows to keep so that each user and item occur once: the latest, [n] bool.

    Without times the last in file order is the latest.
    """
    pairs = rows.pairs()
    by = np.argsort(pairs, kind="stable")
    ordered = pairs[by]
    same = ordered[1:] == ordered[:-1]
    # Only rows that share their pair are compared: of millions these are few.
    repeated = np.zeros(len(pairs), dtype=bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    del same, ordered
    shared = np.sort(by[repeated])
    _, pair = np.unique(pairs[shared], return_inverse=True)
    newest = -np.arange(len(shared))
    order = (newest,) if rows.time is None else (-rows.time[shared].astype(np.int64), newest)
    keep = np.ones(len(rows), dtype=bool)
    keep[shared] = rank_within(pair, *order) == 0
    return keep


def has_min_rows(rows: EncodedInteractions, least: int) -> np.ndarray:
    """Say which rows belong to users that have at least so many, [n] bool."""
    counts = np.bincount(rows.user, minlength=len(rows.user_ids))
    return counts[rows.user] >= least


def sample_users(
    rows: EncodedInteractions, family: str, population: str, users: int | None, seed: int, name: str
) -> EncodedInteractions:
    """Keep a population's users, and of these a seeded choice of `users` (None: all)."""
    present = rows.users_present()
    ids = rows.user_ids[present]
    present = present[in_population(ids, family, population)]
    if users is not None:
        if not 1 <= users <= len(present):
            raise DataError(
                f"{users} users were asked of {name!r}, which has {len(present)} "
                f"{'usable' if population == EVERYONE else population} users; ask for 1 to "
                f"{len(present)}."
            )
        keys = mix(seed_key(seed, "users"), text_keys(rows.user_ids[present]))
        present = present[np.argsort(keys, kind="stable")[:users]]
    return rows.keep(np.isin(rows.user, present))


def to_frame(
    rows: EncodedInteractions, split: np.ndarray, history: Sequence[list[str]] | None = None
) -> pd.DataFrame:
    """Return canonical interactions, sorted by user id, then item id.

    split: [n] of str. history: [n] lists of item ids, or None.
    """
    by = np.lexsort((rows.item, rows.user))
    columns: dict[str, object] = {
        "user_id": take_texts(rows.user_ids, rows.user[by]),
        "item_id": take_texts(rows.item_ids, rows.item[by]),
        "outcome": rows.outcome[by].astype(np.float32),
        "split": take_texts(*_coded_splits(split[by])),
    }
    if rows.time is not None:
        columns["time"] = rows.time[by].astype(np.int64)
    frame = pd.DataFrame(columns)
    if history is not None:
        frame["history"] = pd.Series([history[row] for row in by], dtype=object)
    return frame


def items_frame(item_ids: Sequence[str], texts: dict[str, str]) -> pd.DataFrame:
    """Return the canonical items of these ids, sorted by id."""
    ids = sorted(item_ids)
    return pd.DataFrame(
        {
            "item_id": pd.Series(ids, dtype="str"),
            "text": pd.Series([texts[item] for item in ids], dtype="str"),
        }
    )


def take_texts(texts: np.ndarray, codes: np.ndarray) -> pd.Series:
    """Return texts[codes] as a text column without making a Python string a row."""
    return pd.Series(texts.astype(object), dtype="str").take(codes).reset_index(drop=True)


def _coded_splits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the names of the splits and the place of each value among them."""
    codes = np.zeros(len(values), np.int8)
    for place, name in enumerate(SPLITS):
        codes[values == name] = place
    return np.array(SPLITS), codes
