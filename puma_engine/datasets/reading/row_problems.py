"""Rows that cannot be used: counted by reason, and refused in one clear error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from puma_engine.errors import DataError


class Problems:
    """The unusable rows of a table, each counted under the first reason found for it."""

    def __init__(self, rows: int) -> None:
        self.bad = np.zeros(rows, dtype=bool)
        self.counts: dict[str, int] = {}
        self._first: dict[str, int] = {}

    def add(self, reason: str, rows: np.ndarray) -> None:
        """Mark rows [n] bool; those already marked keep their earlier reason."""
        new = rows & ~self.bad
        self.counts[reason] = int(new.sum())
        if new.any():
            self._first[reason] = int(np.argmax(new))
        self.bad |= new

    def first_rows(self) -> dict[str, int]:
        """Return the first row of each reason that was found."""
        return dict(self._first)

    def refuse(self, path: Path, example: Callable[[int], str]) -> None:
        """Raise DataError with each reason's count and its first row, if any row is bad."""
        if self._first:
            self._refuse(
                path,
                example,
                f"{int(self.bad.sum())} of {len(self.bad)} rows cannot be used",
                "Correct them, or pass drop_invalid=True (--drop-invalid) to leave them out.",
            )

    def refuse_above(
        self,
        allowed: float,
        path: Path,
        example: Callable[[int], str],
        *,
        spare: Sequence[str],
        more: int,
    ) -> None:
        """Raise DataError if more than a share of the rows is bad.

        spare: reasons that do not count. more: bad rows that were left out before.
        """
        if not 0 <= allowed <= 1:
            raise DataError(f"max_bad_share must be from 0 to 1, not {allowed}.")
        bad = more + sum(count for reason, count in self.counts.items() if reason not in spare)
        rows = more + len(self.bad)
        if bad > allowed * rows:
            self._refuse(
                path,
                example,
                f"{bad} of {rows} rows cannot be used, {more} of them for their number of fields",
                f"At most {allowed:.2%} may be; correct them, or raise max_bad_share "
                "(--max-bad-share).",
            )

    def _refuse(self, path: Path, example: Callable[[int], str], what: str, remedy: str) -> None:
        reasons = "; ".join(
            f"{self.counts[reason]} {reason} ({example(row)})"
            for reason, row in self._first.items()
        )
        raise DataError(f"{path}: {what}: {reasons or 'no other reason'}. {remedy}")
