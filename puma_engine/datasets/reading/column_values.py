"""From a file's column to ids, outcomes, times, texts and histories.

Each function takes one column as read, returns plain arrays, and marks what cannot be used
instead of guessing; the caller decides whether that is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.reading.text_cleaning import clean_text, has_control
from puma_engine.errors import DataError

_LARGEST_SECONDS = 10**11
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Texts:
    """A column of texts as codes [n] into unique texts; "" stands for a missing value."""

    codes: np.ndarray
    unique: list[str]


def as_texts(column: pa.ChunkedArray, what: str) -> Texts:
    """Read text or whole numbers exactly as written. Raises DataError for other types."""
    try:
        text = pc.fill_null(_to_string(column, what), "").combine_chunks()
    except pa.ArrowInvalid as error:
        raise DataError(f"The column of {what} does not hold UTF-8 text.") from error
    encoded = pc.dictionary_encode(text)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return Texts(encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist())


def bad_id(text: str) -> bool:
    """Say whether a text cannot be an id: blank, or with control characters."""
    return not text.strip() or has_control(text)


def as_numbers(column: pa.ChunkedArray, what: str) -> np.ndarray:
    """Read real numbers, [n] float64; what is missing or not a number becomes NaN.

    True and false, as values or words, count as 1 and 0.
    """
    kind = _decoded(column).type
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    elif _is_text(kind):
        texts = as_texts(column, what)
        return np.array([_number(text) for text in texts.unique], dtype=np.float64)[texts.codes]
    elif not _is_number(kind):
        raise DataError(f"The column of {what} has the type {kind}; it must hold numbers.")
    return pc.fill_null(pc.cast(column, pa.float64()), math.nan).to_numpy()


def as_seconds(column: pa.ChunkedArray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Read times as Unix seconds, [n] int64, and say which are usable, [n] bool.

    Numbers count seconds, or milliseconds with unit "ms"; dates are read as ISO 8601,
    in UTC where they name no zone. Raises DataError when numbers are in another unit.
    """
    if unit not in ("s", "ms"):
        raise DataError(f"time_unit must be 's' or 'ms', not {unit!r}.")
    kind = _decoded(column).type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        moments = pc.cast(column, pa.timestamp("us")).to_pandas()
        return _moments_to_seconds(moments)
    number = as_numbers(column, "times")
    usable = np.isfinite(number)
    if not usable.any() and _is_text(kind):
        texts = as_texts(column, "times")
        moments = pd.to_datetime(
            pd.Series(texts.unique, dtype=object), errors="coerce", utc=True, format="ISO8601"
        )
        seconds, valid = _moments_to_seconds(moments)
        return seconds[texts.codes], valid[texts.codes]
    number = np.where(usable, number, 0.0) / (1000.0 if unit == "ms" else 1.0)
    if usable.any() and np.median(np.abs(number[usable])) > _LARGEST_SECONDS:
        raise DataError(
            f"The times are not in seconds (one is {number[usable][0]:.0f}); if they count "
            "milliseconds, pass time_unit='ms' (--time-unit ms)."
        )
    usable &= np.abs(number) <= _LARGEST_SECONDS
    return np.floor(np.where(usable, number, 0.0)).astype(np.int64), usable


def first_texts(item: np.ndarray, texts: Texts) -> tuple[dict[int, str], int]:
    """Return each item's first text that is not empty once cleaned, and how many had several.

    item: [n] codes; texts: the same rows. Items without any text are absent.
    """
    clean = [clean_text(text) for text in texts.unique]
    codes, unique = pd.factorize(np.array(clean, dtype=object))
    row_text = codes[texts.codes]
    filled = np.array([bool(text) for text in unique], dtype=bool)[row_text]
    items, texts_of = item[filled], row_text[filled]
    found, first = np.unique(items, return_index=True)
    distinct = np.unique(np.stack([items, texts_of]), axis=1)[0] if len(items) else items
    several = int((np.bincount(distinct) > 1).sum()) if len(distinct) else 0
    return {
        int(i): str(unique[texts_of[row]]) for i, row in zip(found, first, strict=True)
    }, several


def as_histories(column: pa.ChunkedArray, separator: str) -> list[list[str]]:
    """Read lists of item ids, or texts of ids joined by the separator; missing means none."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [
            [str(item) for item in past or () if item is not None] for past in column.to_pylist()
        ]
    texts = as_texts(column, "histories")
    parts = [[part for part in text.split(separator) if part] for text in texts.unique]
    return [list(parts[code]) for code in texts.codes]


def _moments_to_seconds(moments: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    usable = moments.notna().to_numpy()
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return moments.to_numpy().astype("datetime64[s]").astype(np.int64), usable


def _to_string(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    column = _decoded(column)
    kind = column.type
    if pa.types.is_floating(kind):
        # A whole-number column with gaps arrives as floats; 12.0 was 12.
        whole = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
        try:
            column = pc.cast(whole, pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"The column of {what} holds fractions; it must hold text or whole numbers."
            ) from error
    elif not (_is_text(kind) or pa.types.is_integer(kind)):
        raise DataError(
            f"The column of {what} has the type {kind}; it must hold text or whole numbers."
        )
    return pc.cast(column, pa.string())


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return pc.cast(column, column.type.value_type)
    return column


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _number(text: str) -> float:
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return math.nan if "_" in word else float(word)
    except ValueError:
        return math.nan
