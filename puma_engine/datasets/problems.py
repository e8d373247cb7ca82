"""Rows that cannot be used: counted by reason, and refused in one clear error."""

from __future__ import annotations

from collections.abc import Callable
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
        if not self._first:
            return
        reasons = "; ".join(
            f"{self.counts[reason]} {reason} ({example(row)})"
            for reason, row in self._first.items()
        )
        raise DataError(
            f"{path}: {int(self.bad.sum())} of {len(self.bad)} rows cannot be used: {reasons}. "
            "Correct them, or pass drop_invalid=True (--drop-invalid) to leave them out."
        )
