"""The canonical data set: interactions of users with items, their outcomes and splits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from puma_engine.datasets.seeded_hashing import mix, text_keys
from puma_engine.datasets.splits import SPLITS
from puma_engine.errors import DataError

TaskName = Literal["rating", "click"]
TASKS: tuple[TaskName, ...] = ("rating", "click")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions of one task and the texts of their items.

    interactions: user_id str, item_id str, outcome float32 (a rating in [1, 5], or a click 0 or 1),
    split ("train", "validation" or "test"), and where known time (int64, Unix seconds) and history
    (list of item ids). There is at most one row for each user and item. items: item_id str, text
    str; exactly the items that occur in rows or histories. report: counts of rows read, selected
    and dropped, with reasons; plain JSON values. Raises DataError for an unknown task, missing
    columns or no interactions.
    """

    name: str
    task: TaskName
    interactions: pd.DataFrame
    items: pd.DataFrame
    report: dict[str, Any]

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise DataError(f"There is no task {self.task!r}; choose {' or '.join(TASKS)}.")
        for table, columns in (
            ("interactions", ("user_id", "item_id", "outcome", "split")),
            ("items", ("item_id", "text")),
        ):
            present = getattr(self, table).columns
            missing = [column for column in columns if column not in present]
            if missing:
                raise DataError(
                    f"The {table} lack the column {', '.join(missing)}; they have "
                    f"{', '.join(map(str, present))}."
                )
        if not len(self.interactions):
            raise DataError(f"The data set {self.name!r} has no interactions.")

    @cached_property
    def users(self) -> np.ndarray:
        """Sorted unique user ids, [n] of str."""
        return np.sort(self.interactions["user_id"].unique().astype(object)).astype(str)

    @cached_property
    def user_rows(self) -> np.ndarray:
        """Index of each interaction's user in `users`, [rows] int64."""
        codes, ids = pd.factorize(self.interactions["user_id"])
        return np.searchsorted(self.users, np.asarray(ids, dtype=str))[codes]

    @cached_property
    def item_rows(self) -> np.ndarray:
        """Row of each interaction's item in `items`, [rows] int64."""
        codes, ids = pd.factorize(self.interactions["item_id"])
        return pd.Index(self.items["item_id"]).get_indexer(ids)[codes]

    def rows(self, split: str) -> pd.DataFrame:
        """Return the rows of a split, numbered from 0. Raises DataError for an unknown split."""
        if split not in SPLITS:
            raise DataError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        chosen = self.interactions["split"] == split
        return self.interactions[chosen].reset_index(drop=True)

    def for_users(self, ids: Sequence[str] | np.ndarray) -> Dataset:
        """Return the data set of some users only. Raises DataError for unknown ids."""
        user_ids = np.unique(np.asarray(ids).astype(str))
        unknown = user_ids[~np.isin(user_ids, self.users)]
        if len(unknown):
            raise DataError(
                f"{len(unknown)} of {len(user_ids)} users are not in the data set {self.name!r} "
                f"(first: {str(unknown[0])!r}); ask only for users that it holds."
            )
        chosen = np.isin(self.users, user_ids)[self.user_rows]
        interactions = self.interactions[chosen].reset_index(drop=True)
        occurs = np.zeros(len(self.items), dtype=bool)
        occurs[self.item_rows[chosen]] = True
        if "history" in interactions:
            occurs |= self.items["item_id"].isin(occurring(interactions)).to_numpy()
        items = self.items[occurs].reset_index(drop=True)
        report = {**self.report, "chosen_users": len(user_ids)}
        return Dataset(self.name, self.task, interactions, items, report)

    @cached_property
    def content_hash(self) -> str:
        """16 hexadecimal digits of a hash of task, rows and texts; row order and name do not matter."""
        frame = self.interactions
        keys = mix(
            _column_keys(frame["user_id"]),
            _column_keys(frame["item_id"]),
            frame["outcome"].to_numpy(np.float32).view(np.uint32).astype(np.uint64),
            _column_keys(frame["split"]),
        )
        if "time" in frame:
            keys = mix(keys, frame["time"].to_numpy(np.int64).view(np.uint64))
        if "history" in frame:
            keys = mix(keys, text_keys(["\x1f".join(past) for past in frame["history"]]))
        ids, texts = _column_keys(self.items["item_id"]), text_keys(self.items["text"].tolist())
        digest = hashlib.sha256(f"{self.task}:{sorted(frame.columns)}".encode())
        digest.update(np.sort(keys).tobytes())
        digest.update(np.sort(mix(ids, texts)).tobytes())
        return digest.hexdigest()[:16]


def occurring(interactions: pd.DataFrame) -> set[str]:
    """Return the ids of all items in rows or histories."""
    ids = set(interactions["item_id"].unique())
    if "history" in interactions:
        ids.update(item for past in interactions["history"] for item in past)
    return ids


def allowed_outcomes(task: str, outcome: np.ndarray) -> np.ndarray:
    """Return which outcomes are valid for a task, [n] bool: ratings in [1, 5], or clicks 0 and 1."""
    if task != "rating":
        return (outcome == 0) | (outcome == 1)
    with np.errstate(invalid="ignore"):
        return (outcome >= 1) & (outcome <= 5)


def validate(ds: Dataset) -> None:
    """Check the values of rows and items. Raises DataError that names every problem."""
    frame, texts = ds.interactions, ds.items["text"]
    allowed = allowed_outcomes(ds.task, frame["outcome"].to_numpy(np.float64))
    checks = {
        "outcomes out of range": int((~allowed).sum()),
        "rows in an unknown split": int((~frame["split"].isin(SPLITS)).sum()),
        "repeated user-item pairs": int(frame.duplicated(["user_id", "item_id"]).sum()),
        "repeated items": int(ds.items["item_id"].duplicated().sum()),
        "items without text": int((texts.isna() | (texts == "")).sum()),
        "items that only rows or only texts have": len(occurring(frame) ^ set(ds.items["item_id"])),
    }
    problems = [f"{count} {problem}" for problem, count in checks.items() if count]
    if problems:
        raise DataError(f"The data set {ds.name!r} has {', '.join(problems)}; import it again.")


def _column_keys(column: pd.Series) -> np.ndarray:
    codes, unique = pd.factorize(column)
    return text_keys(list(unique))[codes]
