"""Users with similar prompts, by cosine, in tables of any size and without a language model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.pipeline.stored_prompts import PromptTableReader

CENTRE_USERS = 65_536


class Space:
    """The cosines between the prompts of one table, each taken as its difference from their mean.

    Prompts share much that says nothing about anybody (they start from one vector), so plain
    cosines would all be near 1. The mean is that of CENTRE_USERS users, spread over the
    table, if there are more. Memory: 4 bytes a user, and one block of vectors.
    """

    def __init__(self, rows: PromptTableReader) -> None:
        self.rows = rows
        self._norms = np.zeros(0, np.float32)
        self._centre = np.zeros(0, np.float32)
        self._guard = threading.Lock()

    def cosines(self, user: str) -> np.ndarray | None:
        """Return the cosine of every user's prompt with a user's, [users] float32, -1 to 1.

        None if the user has no prompt here.
        """
        if self.rows.row_of(user) is None:
            return None
        with self._guard:
            if len(self._norms) != len(self.rows):
                return self._measure(user)
        own = self.rows.vector(user).reshape(-1) - self._centre
        found = np.empty(len(self.rows), np.float32)
        for start, block in self.rows.blocks():
            found[start : start + len(block)] = np.vecdot(block, own)
        return self._scaled(found - float(self._centre @ own), own)

    def _measure(self, user: str) -> np.ndarray:
        """The same, measuring centre and norms on the way, so that the table is read once."""
        centre = self.rows.mean(CENTRE_USERS)
        own = self.rows.vector(user).reshape(-1) - centre
        norms, found = np.empty((2, len(self.rows)), np.float32)
        for start, block in self.rows.blocks():
            block -= centre
            stop = start + len(block)
            norms[start:stop] = np.sqrt(np.vecdot(block, block))
            found[start:stop] = np.vecdot(block, own)
        self._centre, self._norms = centre, norms
        return self._scaled(found, own)

    def _scaled(self, dots: np.ndarray, own: np.ndarray) -> np.ndarray:
        scale = self._norms * float(np.linalg.norm(own))
        return np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)


def neighbours(first: Space, second: Space, user: str, most: int = 10) -> pd.DataFrame:
    """The users nearest to one in either of two spaces, joined by user id.

    Returns user_id, and for each space its cosine and place (1 is the nearest), nearest in
    the first space first; NaN where a user has no prompt in a space. Raises DataError when
    the user has none in both.
    """
    spaces = (first, second)
    # Both tables are read to the end, which is what takes the time; blocks are multiplied by vecdot,
    # since the threads of a matrix product would wait for each other where cores are busy.
    with ThreadPoolExecutor(2) as pool:
        cosines = list(pool.map(lambda space: _of_others(space, user), spaces))
    if all(found is None for found in cosines):
        raise DataError(f"The user {user[:60]!r} has no prompt in either run; choose another.")
    nearest = [_nearest(space, found, most) for space, found in zip(spaces, cosines, strict=True)]
    rows_by_id = {**nearest[1], **nearest[0]}
    ids = [*nearest[0], *(one for one in nearest[1] if one not in nearest[0])]
    frame = pd.DataFrame({"user_id": pd.Series(ids, dtype="str")})
    for name, space, found in zip(("first", "second"), spaces, cosines, strict=True):
        values = [_cosine(space, found, one, rows_by_id[one]) for one in ids]
        places = [_place(found, value) for value in values]
        frame[f"{name}_cosine"] = pd.Series(values, dtype="float64")
        frame[f"{name}_place"] = pd.Series(places, dtype="float64")
    return frame


def _of_others(space: Space, user: str) -> np.ndarray | None:
    """The cosines with a user, whose own is out of the race."""
    found = space.cosines(user)
    if found is not None:
        found[space.rows.row_of(user)] = -np.inf
    return found


def _nearest(space: Space, found: np.ndarray | None, most: int) -> dict[str, int]:
    """The ids of the nearest users and their rows, nearest first."""
    count = 0 if found is None else min(most, len(found) - 1)
    if found is None or not count:
        return {}
    top = np.argpartition(-found, count - 1)[:count]
    top = top[np.lexsort((top, -found[top]))]
    return {str(space.rows.user_ids[int(row)].as_py()): int(row) for row in top}


def _place(found: np.ndarray | None, value: float) -> float:
    if found is None or np.isnan(value):
        return float("nan")
    return 1.0 + int(np.count_nonzero(found > value))


def _cosine(space: Space, found: np.ndarray | None, user: str, likely: int) -> float:
    row = space.rows.row_of(user, likely)
    return float("nan") if found is None or row is None else float(found[row])
