"""Find users with similar prompts by cosine, in tables of any size, without a language model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.pipeline.stored_prompts import PromptTableReader

CENTRE_USERS = 65_536


class Space:
    """Cosines between the prompts of one table, after subtracting their mean.

    Prompts start from one vector, so plain cosines would all be near 1. The mean is estimated from
    CENTRE_USERS users spread over the table. Memory: 4 bytes for each user, and one block of
    vectors.
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
        query = self.rows.vector(user).reshape(-1) - self._centre
        similarity = np.empty(len(self.rows), np.float32)
        for start, block in self.rows.blocks():
            similarity[start : start + len(block)] = np.vecdot(block, query)
        return self._scaled(similarity - float(self._centre @ query), query)

    def _measure(self, user: str) -> np.ndarray:
        """Like `cosines`, but also compute centre and norms in the same pass over the table."""
        centre = self.rows.mean(CENTRE_USERS)
        query = self.rows.vector(user).reshape(-1) - centre
        norms, similarity = np.empty((2, len(self.rows)), np.float32)
        for start, block in self.rows.blocks():
            block -= centre
            stop = start + len(block)
            norms[start:stop] = np.sqrt(np.vecdot(block, block))
            similarity[start:stop] = np.vecdot(block, query)
        self._centre, self._norms = centre, norms
        return self._scaled(similarity, query)

    def _scaled(self, dots: np.ndarray, query: np.ndarray) -> np.ndarray:
        scale = self._norms * float(np.linalg.norm(query))
        return np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)


def neighbours(first: Space, second: Space, user: str, limit: int = 10) -> pd.DataFrame:
    """Return the users nearest to a user in either of two spaces, joined by user id.

    Columns: user_id, and for each space (first, second) the cosine and place (rank; 1 is the
    nearest), sorted by the first. NaN where a user has no prompt in a space. Raises DataError when
    the user has no prompt in either.
    """
    spaces = (first, second)
    # Reading both tables takes most of the time. vecdot rather than a matrix product, whose threads
    # wait for each other on busy cores.
    with ThreadPoolExecutor(2) as pool:
        cosines = list(pool.map(lambda space: space.cosines(user), spaces))
    if all(similarity is None for similarity in cosines):
        raise DataError(f"The user {user[:60]!r} has no prompt in either run; choose another.")
    nearest: list[dict[str, int]] = []  # rows by id, nearest first
    for space, similarity in zip(spaces, cosines, strict=True):
        top = np.zeros(0, np.int64)
        if similarity is not None:
            similarity[space.rows.row_of(user)] = -np.inf  # the user is not a neighbour
            count = min(limit, len(similarity) - 1)
            if count:
                top = np.argpartition(-similarity, count - 1)[:count]
                top = top[np.lexsort((top, -similarity[top]))]
        nearest.append({str(space.rows.user_ids[int(row)].as_py()): int(row) for row in top})
    rows_by_id = {**nearest[1], **nearest[0]}
    ids = [*nearest[0], *(id_ for id_ in nearest[1] if id_ not in nearest[0])]
    frame = pd.DataFrame({"user_id": pd.Series(ids, dtype="str")})
    for name, space, similarity in zip(("first", "second"), spaces, cosines, strict=True):
        rows = [space.rows.row_of(id_, rows_by_id[id_]) for id_ in ids]
        values, places = np.full((2, len(ids)), np.nan)
        for number, row in enumerate(rows):
            if similarity is not None and row is not None:
                values[number] = similarity[row]
                places[number] = 1 + np.count_nonzero(similarity > similarity[row])
        frame[f"{name}_cosine"], frame[f"{name}_place"] = values, places
    return frame
