"""Lines of original files as columns, and which of them can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.text_cleaning import clean_text

NO_USER = "without a usable user id"
NO_ITEM = "without a usable item id"
NO_TIME = "without a usable time"
NO_TEXT = "without a usable title"
REPEATED = "repeating a user and item (the latest is kept)"
WRONG_RATING = "with a rating that is not a number from 1 to 5"


@dataclass(frozen=True)
class RawRows:
    """Some lines of a file of ratings: their numbers and columns, [n] each.

    user, item: text, null where missing. outcome: float64, NaN where missing. seconds:
    int64; timed: bool, whether the time is usable.
    """

    lines: np.ndarray
    user: pa.ChunkedArray
    item: pa.ChunkedArray
    outcome: np.ndarray
    seconds: np.ndarray
    timed: np.ndarray


@dataclass(frozen=True)
class RawItems:
    """Some lines of a file of items: their numbers, ids and texts, [n]; null where missing."""

    lines: np.ndarray
    item: pa.ChunkedArray
    text: pa.ChunkedArray


# How a source reads a file: from its start each time, counting into the row_counts.
RatingReader = Callable[[RowCounts], Iterator[RawRows]]
ItemReader = Callable[[RowCounts], Iterator[RawItems]]


def usable_ratings_of(
    read: RatingReader, row_counts: RowCounts
) -> Iterator[tuple[RawRows, np.ndarray]]:
    """Yield rows and which are usable, [n] bool; each bad one counts by its first reason."""
    for part in read(row_counts):
        with np.errstate(invalid="ignore"):
            rated = (part.outcome >= 1) & (part.outcome <= 5)
        good = np.ones(len(part.lines), dtype=bool)
        for reason, fine in (
            (NO_USER, usable_ids(part.user)),
            (NO_ITEM, usable_ids(part.item)),
            (WRONG_RATING, rated),
            (NO_TIME, part.timed),
        ):
            row_counts.drop(reason, part.lines[good & ~fine])
            good &= fine
        row_counts.stop_if_unusable()
        yield part, good
    row_counts.check()


def usable_items(
    read: ItemReader, row_counts: RowCounts
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids and texts of items that have both, [n] of str each."""
    for part in read(row_counts):
        good = usable_ids(part.item)
        row_counts.drop(NO_ITEM, part.lines[~good])
        titled = usable_texts(part.text)
        row_counts.exclude(NO_TEXT, int((good & ~titled).sum()))
        row_counts.stop_if_unusable()
        chosen = pa.array(good & titled)
        yield texts_of(part.item.filter(chosen)), texts_of(part.text.filter(chosen))
    row_counts.check()


def usable_ids(column: pa.ChunkedArray) -> np.ndarray:
    """Say which ids are neither missing, blank nor with control characters, [n] bool."""
    text = pc.fill_null(column, "")
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    unusable = pc.or_(blank, pc.match_substring_regex(text, r"\p{Cc}"))
    return np.asarray(pc.invert(unusable).to_numpy(), dtype=bool)


def usable_texts(column: pa.ChunkedArray) -> np.ndarray:
    """Say which texts are not empty once cleaned, [n] bool."""
    text = pc.fill_null(column, "")
    usable = np.array(pc.match_substring_regex(text, "[0-9A-Za-z]").to_numpy(), dtype=bool)
    for row in np.flatnonzero(~usable):
        usable[row] = bool(clean_text(text[int(row)].as_py()))
    return usable


def texts_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return a text column as an array of str, "" where it is null, [n] object."""
    return pc.fill_null(column, "").to_numpy(zero_copy_only=False)


def id_codes(ids: np.ndarray) -> np.ndarray:
    """Return a 64-bit code of each id, [n] uint64."""
    return pd.util.hash_array(ids, categorize=False).astype(np.uint64)


def positions_in(codes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return where each code stands among ordered ones, [n] int64; -1 where it does not."""
    if not len(ordered):
        return np.full(len(codes), -1)
    place = np.searchsorted(ordered, codes).clip(max=len(ordered) - 1)
    return np.where(ordered[place] == codes, place, -1)
