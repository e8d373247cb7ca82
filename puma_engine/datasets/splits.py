"""Split each user's rows into train, validation and test, and cap the rows of a user."""

import numpy as np

from puma_engine.datasets.seeded_hashing import rank_within

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.10
TEST_SHARE = 0.20
MIN_ROWS_TO_HOLD_OUT = 5
CHRONOLOGICAL = (
    "chronological per user: the earliest 70 % of rows train, the next 10 % validation, "
    "the latest 20 % test; rows of the same second in a seeded order"
)
SEEDED = "seeded random per user: 70 % of rows train, 10 % validation, 20 % test"


def split_rule(timed: bool, *, per_class: bool = False) -> str:
    """Return a sentence that describes how rows were split."""
    rule = CHRONOLOGICAL if timed else SEEDED
    if per_class:
        rule += ", positives and negatives split apart"
    return f"{rule}; users with fewer than {MIN_ROWS_TO_HOLD_OUT} rows train only"


def assign_splits(group: np.ndarray, key: np.ndarray, time: np.ndarray | None = None) -> np.ndarray:
    """Return the split of each row, [n] of str.

    group: [n] integer codes, usually of users; each group is split separately. key: [n] uint64, the
    seeded order. time: [n] int64 or None; rows are ordered by time if there is one, and key breaks
    ties. Groups of fewer than five rows stay in train.
    """
    if not len(group):
        return np.array([], dtype="<U10")
    rank = rank_within(group, key) if time is None else rank_within(group, time, key)
    size = np.bincount(group)
    held = size >= MIN_ROWS_TO_HOLD_OUT
    test = np.where(held, np.maximum(1, np.rint(size * TEST_SHARE)), 0).astype(np.int64)
    validation = np.where(held, np.maximum(1, np.rint(size * VALIDATION_SHARE)), 0).astype(np.int64)
    first_test = (size - test)[group]
    first_validation = first_test - validation[group]
    number = (rank >= first_validation).astype(np.int64) + (rank >= first_test)
    return np.array(SPLITS)[number]


def splits_at_one_time(time: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the split of each row, [n] of str, at two times for all users, and the rule in words.

    time: [n] int64. The earliest 70 % of all rows train, the next 10 % validate, the latest 20 %
    test; rows of the same second are in one split.
    """
    ordered = np.sort(time)
    held_out = VALIDATION_SHARE + TEST_SHARE
    starts = [ordered[round((len(time) - 1) * (1 - share))] for share in (held_out, TEST_SHARE)]
    number = sum((time >= start).astype(np.int64) for start in starts)
    validation, test = (f"{np.datetime64(int(start), 's')} UTC" for start in starts)
    rule = f"at one time for all users: rows from {validation} on validate, from {test} on test"
    return np.array(SPLITS)[number], rule


def latest_share(group: np.ndarray, key: np.ndarray, time: np.ndarray, share: float) -> np.ndarray:
    """Return which rows are the latest share of their group, [n] bool.

    At least one row of a group of five or more, none of smaller groups. key breaks ties.
    """
    size = np.bincount(group)
    held = np.where(size >= MIN_ROWS_TO_HOLD_OUT, np.maximum(1, np.rint(size * share)), 0)
    return rank_within(group, time, key) >= (size - held.astype(np.int64))[group]


def cap_rows(
    group: np.ndarray, max_rows: int, key: np.ndarray, time: np.ndarray | None = None
) -> np.ndarray:
    """Return which rows to select so that no group has more than max_rows, [n] bool.

    With times the latest rows are selected, otherwise a random sample by key.
    """
    order = (key,) if time is None else (-time, key)
    return rank_within(group, *order) < max_rows
