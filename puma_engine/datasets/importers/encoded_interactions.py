"""Interactions as integer codes, which importers filter, sample and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.datasets.dataset import Dataset, TaskName, occurring
from puma_engine.datasets.seeded_hashing import mix, seed_key, text_keys
from puma_engine.datasets.splits import MIN_ROWS_TO_HOLD_OUT, SPLITS


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

    def select(self, rows: np.ndarray) -> EncodedInteractions:
        """Return the rows of a boolean mask or of an index array."""
        return dataclasses.replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            outcome=self.outcome[rows],
            time=None if self.time is None else self.time[rows],
        )

    def users_present(self) -> np.ndarray:
        """Return the codes of the users that have rows, sorted, [users] int64."""
        return np.flatnonzero(np.bincount(self.user, minlength=len(self.user_ids)))

    def pairs(self) -> np.ndarray:
        """Return one integer for each row's user and item, [n] int64."""
        return self.user.astype(np.int64) * len(self.item_ids) + self.item

    def row_keys(self, seed: int, purpose: str) -> np.ndarray:
        """Return a seeded 64-bit key of each row, which depends only on its ids, [n] uint64."""
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
    """Return which rows are the latest of their user and item, [n] bool; without times, the last in the file."""
    pairs = rows.pairs()
    # The sort is stable: rows of one pair and time stay in file order.
    order = np.lexsort((pairs,) if rows.time is None else (rows.time, pairs))
    ordered = pairs[order]
    latest = np.zeros(len(rows), dtype=bool)
    latest[order[np.append(ordered[1:] != ordered[:-1], True)[: len(rows)]]] = True
    return latest


def has_min_rows(rows: EncodedInteractions, min_rows: int) -> np.ndarray:
    """Return which rows belong to users with at least min_rows rows, [n] bool."""
    return np.bincount(rows.user, minlength=len(rows.user_ids))[rows.user] >= min_rows


def build_dataset(
    name: str,
    task: TaskName,
    rows: EncodedInteractions,
    split: np.ndarray,
    texts: Mapping[str, str],
    report: dict[str, Any],
    history: Sequence[list[str]] | None = None,
) -> Dataset:
    """Return rows as a data set, sorted by user id, then item id; complete its report.

    split: [n] of str. texts: by item id, at least those of the items in rows and histories.
    history: [n] lists of item ids, or None.
    """
    order = np.lexsort((rows.item, rows.user))
    split_codes = np.select([split == part for part in SPLITS], range(len(SPLITS)))
    columns: dict[str, object] = {
        "user_id": _take_texts(rows.user_ids, rows.user[order]),
        "item_id": _take_texts(rows.item_ids, rows.item[order]),
        "outcome": rows.outcome[order].astype(np.float32),
        "split": _take_texts(np.array(SPLITS), split_codes[order]),
    }
    if rows.time is not None:
        columns["time"] = rows.time[order].astype(np.int64)
    frame = pd.DataFrame(columns)
    if history is not None:
        frame["history"] = pd.Series([history[row] for row in order], dtype=object)
    ids = sorted(occurring(frame))
    items = pd.DataFrame(
        {
            "item_id": pd.Series(ids, dtype="str"),
            "text": pd.Series([texts[item] for item in ids], dtype="str"),
        }
    )
    if not (split == "test").any():
        report.setdefault("warnings", []).append(
            f"Nothing is held out to test; users need {MIN_ROWS_TO_HOLD_OUT} rows."
        )
    report["kept"] = {"rows": len(frame), "users": len(rows.users_present()), "items": len(items)}
    return Dataset(name, task, frame, items, report)


def _take_texts(texts: np.ndarray, codes: np.ndarray) -> pd.Series:
    """Return texts[codes] as a text column, without a Python string for each row."""
    return pd.Series(texts.astype(object), dtype="str").take(codes).reset_index(drop=True)
