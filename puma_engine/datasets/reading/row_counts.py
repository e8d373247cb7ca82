"""Count the rows of a file that are read, repaired, or unusable by reason; limit the unusable ones."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.errors import DataError

# Reading stops if all of so many first rows are unusable, since the file is of another kind.
EARLY_STOP_ROWS = 10_000


class RowCounts:
    """Counts of one file's rows; a row counts once, under the first reason that applies.

    max_bad_share: the share of rows, in [0, 1], that may be unusable. unlimited: reasons that do
    not count towards that share. label: describes a row, given its number, in errors. unit, remedy:
    the word for rows in errors, and their advice.
    """

    def __init__(
        self,
        path: Path,
        max_bad_share: float,
        *,
        unlimited: tuple[str, ...] = (),
        label: Callable[[int], str] = "first: line {:,}".format,
        unit: str = "lines",
        remedy: str = "check the file, or allow more with max_bad_share (--max-bad-share)",
    ) -> None:
        self.path = path
        self.max_bad_share = max_bad_share
        self.unlimited = unlimited
        self.label = label
        self.unit = unit
        self.remedy = remedy
        self.rows = 0
        self.dropped: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.excluded: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.time_units: Counter[str] = Counter()

    @property
    def bad(self) -> int:
        """Number of unusable rows, except for unlimited reasons."""
        return sum(n for reason, n in self.dropped.items() if reason not in self.unlimited)

    def drop(self, reason: str, numbers: np.ndarray) -> None:
        """Count unusable rows. numbers: in the file, ascending."""
        self.dropped[reason] = self.dropped.get(reason, 0) + len(numbers)
        if len(numbers):
            self.first.setdefault(reason, int(numbers[0]))

    def check_rows(self, numbers: np.ndarray, checks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Count the rows that fail a check; return which rows pass all checks, [n] bool.

        checks: by reason, the rows without that problem, [n] bool.
        """
        usable = np.ones(len(numbers), dtype=bool)
        for reason, passes in checks.items():
            self.drop(reason, numbers[usable & ~passes])
            usable &= passes
        return usable

    def repair(self, reason: str, count: int) -> None:
        """Count rows that were repaired while they were read."""
        if count:
            self.repaired[reason] += count

    def stop_if_unusable(self) -> None:
        """Raise DataError when many rows were read and none was usable."""
        if self.max_bad_share < 1 and self.rows == self.bad >= EARLY_STOP_ROWS:
            self._refuse(f"none of the first {self.rows:,} {self.unit} can be used")

    def check(self) -> None:
        """Raise DataError when the file has no rows, or more unusable ones than allowed."""
        if not self.rows:
            raise DataError(f"{self.path} is empty; check that the download is complete.")
        if self.bad > self.max_bad_share * self.rows:
            self._refuse(f"{self.bad:,} of {self.rows:,} {self.unit} cannot be used")

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON values. The keys are stored in runs."""
        counts = {
            "left_out": self.excluded,
            "mended": self.repaired,
            "times_written_as": self.time_units,
        }
        return {
            "file": self.path.name,
            "lines": self.rows,
            "unusable": self.bad,
            "unusable_share": self.bad / max(1, self.rows),
            "allowed_share": self.max_bad_share,
            "dropped": dict(self.dropped),
        } | {name: dict(values) for name, values in counts.items() if values}

    def _refuse(self, message: str) -> None:
        reasons = "; ".join(
            f"{self.dropped[reason]:,} {reason} ({self.label(number)})"
            for reason, number in self.first.items()
            if reason not in self.unlimited
        )
        limit = f"At most {100 * self.max_bad_share:.2f} %" if self.max_bad_share else "None"
        raise DataError(
            f"{self.path}: {message}: {reasons}. {limit} may be unusable; {self.remedy}."
        )
