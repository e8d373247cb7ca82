"""Counts of what a file of original data holds, and the share of it that may be unusable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.errors import DataError

# So many lines without a usable one are not worth reading on.
EARLY_STOP_LINES = 10_000


class RowCounts:
    """Lines of one file: how many were read, which were unusable and why, what was mended."""

    def __init__(self, path: Path, allowed: float) -> None:
        self.path = path
        self.allowed = allowed
        self.lines = 0
        self.dropped: dict[str, int] = {}
        self.excluded: dict[str, int] = {}
        self.repaired: dict[str, int] = {}
        self.units: dict[str, int] = {}
        self._first: dict[str, int] = {}

    @property
    def bad(self) -> int:
        """How many lines cannot be used."""
        return sum(self.dropped.values())

    def drop(self, reason: str, lines: np.ndarray) -> None:
        """Count unusable lines, given by their numbers in the file."""
        self.dropped[reason] = self.dropped.get(reason, 0) + len(lines)
        if len(lines):
            self._first[reason] = min(self._first.get(reason, int(lines[0])), int(lines[0]))

    def exclude(self, reason: str, count: int) -> None:
        """Count lines that are sound, but that a rule of the source leaves out."""
        if count:
            self.excluded[reason] = self.excluded.get(reason, 0) + count

    def repair(self, what: str, count: int) -> None:
        """Count lines that were read although something was wrong with them."""
        if count:
            self.repaired[what] = self.repaired.get(what, 0) + count

    def times(self, units: dict[str, int]) -> None:
        """Count times by the unit in which they were written."""
        for unit, count in units.items():
            if count:
                self.units[unit] = self.units.get(unit, 0) + count

    def stop_if_unusable(self) -> None:
        """Raise DataError when many lines held nothing usable: it is another kind of file."""
        if self.allowed < 1 and self.lines == self.bad >= EARLY_STOP_LINES:
            self._refuse("none of the first")

    def check(self) -> None:
        """Raise DataError when the file has no lines, or more unusable ones than allowed."""
        if not self.lines:
            raise DataError(f"{self.path} is empty; check that the download is complete.")
        if self.bad > self.allowed * self.lines:
            self._refuse(f"{self.bad:,} of")

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        found: dict[str, Any] = {
            "file": self.path.name,
            "lines": self.lines,
            "unusable": self.bad,
            "unusable_share": self.bad / max(1, self.lines),
            "allowed_share": self.allowed,
            "dropped": dict(self.dropped),
        }
        more = {"left_out": self.excluded, "mended": self.repaired, "times_written_as": self.units}
        return found | {name: dict(counts) for name, counts in more.items() if counts}

    def _refuse(self, how_many: str) -> None:
        reasons = "; ".join(
            f"{self.dropped[reason]:,} {reason} (first: line {line:,})"
            for reason, line in self._first.items()
        )
        verb = "can" if how_many.startswith("none") else "cannot"
        raise DataError(
            f"{self.path}: {how_many} {self.lines:,} lines {verb} be used: {reasons}. At most "
            f"{self.allowed:.2%} may be unusable; check the file, or allow more with "
            "max_bad_share (--max-bad-share)."
        )
