"""The settings of sources that are read from original files; each has the paper's defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from puma_engine.errors import ConfigError, DataError

S = TypeVar("S", bound="OriginalSettings")


@dataclasses.dataclass(frozen=True)
class OriginalSettings:
    """What every source of original files is told.

    Shares are in [0, 1]; names that begin with max_ bound something and 0 sets no bound.
    Raises ConfigError with everything that is wrong.
    """

    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        wrong = [problem for field in dataclasses.fields(self) if (problem := self._wrong(field))]
        if wrong:
            raise ConfigError(f"{' and '.join(wrong)}.")

    def _wrong(self, field: dataclasses.Field[Any]) -> str | None:
        value = getattr(self, field.name)
        if isinstance(field.default, bool):
            return None if isinstance(value, bool) else f"{field.name} must be true or false"
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"{field.name} must be a number, not {value!r}"
        if isinstance(field.default, float):
            return None if 0 <= value <= 1 else f"{field.name} must be from 0 to 1, not {value}"
        if isinstance(value, float) or value < 0:
            return f"{field.name} must be a whole number of 0 or more, not {value}"
        return None


@dataclasses.dataclass(frozen=True)
class RatingSettings(OriginalSettings):
    """Which ratings are kept.

    min_item_rows, then min_rows: items, then users, with fewer ratings are left out.
    max_rows: of users with more, the latest are kept.
    """

    min_rows: int = 20
    max_rows: int = 85
    min_item_rows: int = 0


def settings_from(kind: type[S], source: str, given: Mapping[str, Any]) -> S:
    """Build a source's settings from those that were given; None keeps a default.

    Raises ConfigError for a setting that the source does not have.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(
            f"The source {source!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}."
        )
    return kind(**{name: value for name, value in given.items() if value is not None})


def first_file(folder: Path, *names: str) -> Path:
    """Return the first of these files that a folder holds, plain or .gz. Raises DataError."""
    for name in names:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    raise DataError(f"{folder} holds no {' or '.join(names)} (.gz too); give the right folder.")


def plain_name(path: Path) -> str:
    """Return a file's name without .gz."""
    return path.name.removesuffix(".gz")
