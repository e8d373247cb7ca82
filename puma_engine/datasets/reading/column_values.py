"""From a column as read to ids, outcomes, times, texts and histories.

Each function takes one column, returns plain arrays, and marks what cannot be used instead
of guessing; the caller decides whether that is an error.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.errors import DataError

# A larger number cannot count seconds (the year 5138); as milliseconds it is after 1973.
_MAX_SECONDS = 10**11
_MAX_MILLISECONDS = 10**14
# Times of large files are stored as unsigned 32-bit seconds while a file is read.
_MAX_UINT32 = 2**32
_MIND_DATE = "%m/%d/%Y %I:%M:%S %p"
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class EncodedTexts:
    """A column of texts as codes [n] into unique texts; "" stands for a missing value."""

    codes: np.ndarray
    unique: list[str]


def as_texts(column: pa.ChunkedArray, what: str) -> EncodedTexts:
    """Read text or whole numbers exactly as written. Raises DataError for other types."""
    column = _without_dictionary(column)
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
    try:
        text = pc.fill_null(pc.cast(column, pa.string()), "")
    except pa.ArrowInvalid as error:
        raise DataError(f"The column of {what} does not hold UTF-8 text.") from error
    codes, unique = pd.factorize(texts_of(text))
    return EncodedTexts(codes, unique.tolist())


def texts_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return a text column as an array of str, "" where it is null, [n] object."""
    return pc.fill_null(column, "").to_numpy(zero_copy_only=False)


def usable_ids(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Say which ids are neither missing, blank nor with control characters, [n] bool."""
    text = pc.fill_null(column, "")
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    unusable = pc.or_(blank, pc.match_substring_regex(text, r"\p{Cc}"))
    return np.asarray(pc.invert(unusable).to_numpy(zero_copy_only=False), dtype=bool)


def usable_texts(column: pa.ChunkedArray) -> np.ndarray:
    """Say which texts are not empty once cleaned, [n] bool."""
    text = pc.fill_null(column, "")
    usable = np.array(pc.match_substring_regex(text, "[0-9A-Za-z]").to_numpy(), dtype=bool)
    for row in np.flatnonzero(~usable):
        usable[row] = bool(clean_text(text[int(row)].as_py()))
    return usable


def first_texts(item: np.ndarray, texts: EncodedTexts) -> tuple[dict[int, str], int]:
    """Return each item's first text that is not empty once cleaned, and how many had several.

    item: [n] codes; texts: the same rows. Items without any text are absent.
    """
    clean = np.array([clean_text(text) for text in texts.unique], dtype=object)
    rows = pd.DataFrame({"item": item, "text": clean[texts.codes]})
    rows = rows[rows["text"] != ""].drop_duplicates()
    first = rows.drop_duplicates("item")
    several = int((rows["item"].value_counts() > 1).sum())
    return dict(zip(first["item"].tolist(), first["text"].tolist(), strict=True)), several


def as_numbers(column: pa.ChunkedArray, what: str) -> np.ndarray:
    """Read real numbers, [n] float64; what is missing or not a number becomes NaN.

    True and false, as values or words, count as 1 and 0. Raises DataError for other types.
    """
    kind = _without_dictionary(column).type
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    elif _is_text(kind):
        texts = as_texts(column, what)
        return np.array([_number(text) for text in texts.unique], dtype=np.float64)[texts.codes]
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"The column of {what} has the type {kind}; it must hold numbers.")
    return pc.fill_null(pc.cast(column, pa.float64()), math.nan).to_numpy()


def as_seconds(column: pa.ChunkedArray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the times of a table as Unix seconds, [n] int64, and which are usable, [n] bool.

    Numbers count seconds, or milliseconds with unit "ms"; dates are ISO 8601, in UTC unless
    they name a zone. Raises DataError when numbers are in another unit.
    """
    if unit not in ("s", "ms"):
        raise DataError(f"time_unit must be 's' or 'ms', not {unit!r}.")
    kind = _without_dictionary(column).type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _date_seconds(pc.cast(column, pa.timestamp("us")).to_pandas())
    number = as_numbers(column, "times")
    usable = np.isfinite(number)
    if not usable.any() and _is_text(kind):
        texts = as_texts(column, "times")
        seconds, valid = _date_seconds(_parse_dates(texts.unique, "ISO8601"))
        return seconds[texts.codes], valid[texts.codes]
    number = np.where(usable, number, 0.0) / (1000.0 if unit == "ms" else 1.0)
    if usable.any() and np.median(np.abs(number[usable])) > _MAX_SECONDS:
        raise DataError(
            f"The times are not in seconds (one is {number[usable][0]:.0f}); if they count "
            "milliseconds, pass time_unit='ms' (--time-unit ms)."
        )
    usable &= np.abs(number) <= _MAX_SECONDS
    return np.floor(np.where(usable, number, 0.0)).astype(np.int64), usable


def seconds_of_numbers(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return Unix seconds [n] int64, which are usable [n] bool, and counts by unit.

    numbers: [n] float64, each seconds, or milliseconds if it is 10^11 or more; NaN where
    there is none. Usable times are after 1970 and before 2106.
    """
    is_milliseconds = (numbers >= _MAX_SECONDS) & (numbers < _MAX_MILLISECONDS)
    seconds = np.where(is_milliseconds, numbers / 1000, numbers)
    usable = (seconds > 0) & (seconds < _MAX_UINT32)
    whole = np.floor(np.where(usable, seconds, 0)).astype(np.int64)
    units = {
        "seconds": int((usable & ~is_milliseconds).sum()),
        "milliseconds": int((usable & is_milliseconds).sum()),
    }
    return whole, usable, units


def seconds_of_texts(
    texts: pa.ChunkedArray | pa.Array,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return what seconds_of_numbers does, of texts: dates (UTC unless they say) or numbers.

    Dates are ISO 8601, or month/day/year with a twelve-hour clock as in MIND.
    """
    codes, unique = pd.factorize(texts.to_numpy(zero_copy_only=False))
    numbers = pd.to_numeric(pd.Series(unique, dtype=object), errors="coerce").to_numpy(np.float64)
    is_date = np.isnan(numbers)
    seconds, usable, _ = seconds_of_numbers(numbers)
    if is_date.any():
        dates = _parse_dates(unique[is_date], "ISO8601")
        if dates.isna().any():
            dates = dates.fillna(_parse_dates(unique[is_date], _MIND_DATE))
        seconds[is_date], valid = _date_seconds(dates)
        usable[is_date] = valid & (seconds[is_date] > 0) & (seconds[is_date] < _MAX_UINT32)
    kind = np.where(is_date, 0, np.where(numbers >= _MAX_SECONDS, 1, 2))
    # A missing text has the code -1: the last entry, which is unusable.
    seconds, usable = np.append(seconds, 0)[codes], np.append(usable, False)[codes]
    counts = np.bincount(np.append(kind, 0)[codes][usable], minlength=3).tolist()
    units = dict(zip(("dates", "milliseconds", "seconds"), counts, strict=True))
    return np.where(usable, seconds, 0), usable, units


def iso_seconds(text: str) -> int | None:
    """Return a date in ISO 8601 (UTC unless it says) in Unix seconds, or None."""
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


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


def _parse_dates(texts: list[str] | np.ndarray, form: str) -> pd.Series:
    return pd.to_datetime(pd.Series(texts, dtype=object), format=form, errors="coerce", utc=True)


def _date_seconds(dates: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    return dates.to_numpy().astype("datetime64[s]").astype(np.int64), dates.notna().to_numpy()


def _without_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return pc.cast(column, column.type.value_type)
    return column


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _number(text: str) -> float:
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return math.nan if "_" in word else float(word)
    except ValueError:
        return math.nan
