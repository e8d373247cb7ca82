"""Convert times to Unix seconds: detect the unit or format of a column, and mark usable values."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.reading.column_values import as_numbers, as_texts, is_text, value_type
from puma_engine.errors import DataError

# A larger number cannot be seconds (it would be the year 5138); as milliseconds it is after 1973.
_MAX_SECONDS = 10**11
_MAX_MILLISECONDS = 10**14
# Times of large files are stored as unsigned 32-bit seconds while a file is read.
_MAX_UINT32 = 2**32
_MIND_DATE = "%m/%d/%Y %I:%M:%S %p"

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# The median time of interactions on the internet lies in this range; single ones may be older. Clocks of
# other systems, such as .NET ticks and Apple's seconds since 2001, lie outside in any unit.
_MEDIAN_FROM = datetime(1995, 1, 1, tzinfo=UTC).timestamp()
_FROM = datetime(1971, 1, 1, tzinfo=UTC).timestamp()
_UNTIL = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
# Numbers whose digits are a date: format, smallest and largest value.
_DATE_NUMBERS = {
    "%Y%m%d": (19000101, 21001231),
    "%Y%m%d%H%M": (190001010000, 210012312359),
    "%Y%m%d%H%M%S": (19000101000000, 21001231235959),
    "%Y": (1900, 2100),
}
_DAYS = ("%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y")
_FORMATS = (
    *("ISO8601", _MIND_DATE, "%d/%m/%Y %I:%M:%S %p"),
    *(day + clock for day in _DAYS for clock in ("", " %H:%M", " %H:%M:%S")),
    *("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S %Z"),
    *(
        "%a %b %d %H:%M:%S %Y",
        "%b %d, %Y",
        "%B %d, %Y",
        "%b %d %Y",
        "%d %b %Y",
        "%d %B %Y",
        "%d-%b-%Y",
    ),
    *("%m %d, %Y", "%b %d, %Y %I:%M:%S %p", "%b %d, %Y %H:%M:%S"),
)
_SAMPLE = 200
# Spreadsheets write long numbers with few digits: 1.44132E+12.
_SCIENTIFIC = re.compile(r"\s*[0-9](?:[.,]([0-9]*))?[eE]\+?([0-9]+)\s*")


@dataclass(frozen=True)
class Times:
    """The times of a table.

    seconds: Unix seconds, [n] int64. usable: [n] bool. written_as: the unit or format. note: a
    remark for the report, or None.
    """

    seconds: np.ndarray
    usable: np.ndarray
    written_as: str
    note: str | None = None


def read_times(column: pa.ChunkedArray, unit: str | None = None) -> Times:
    """Read the times of a table.

    Numbers count s, ms, us or ns since 1970, or are dates such as 20150904; texts are numbers,
    ISO 8601 dates (in UTC unless they name a zone) or dates in a common format. unit: s, ms, us,
    ns or a format of strptime; None guesses from all values. Usable times lie between 1971 and
    2100. Raises DataError when no unit fits, when the named one does not, and when days and
    months cannot be told apart.
    """
    if unit is not None and unit not in UNITS and "%" not in unit:
        raise DataError(
            f"time_unit must be {', '.join(UNITS)} or a date format such as '%d/%m/%Y', not {unit!r}."
        )
    kind = value_type(column)
    if pa.types.is_dictionary(column.type) and not is_text(kind):
        column = pc.cast(column, kind)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        dates = pc.cast(
            pc.cast(column, pa.timestamp("us"), safe=False), pa.timestamp("s"), safe=False
        )
        seconds = pc.fill_null(pc.cast(dates, pa.int64()), 0).to_numpy()
        return _in_range(seconds.astype(np.float64), "dates")
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        raise DataError(f"The column of times has the type {kind}; it must hold dates or numbers.")
    number = as_numbers(column, "times")
    finite = np.isfinite(number)
    if is_text(kind):
        texts = as_texts(column, "times")
        filled = np.array([bool(text.strip()) for text in texts.unique])[texts.codes]
        if 2 * finite.sum() <= filled.sum() or (unit is not None and "%" in unit):
            seconds, written_as = _parse_texts(texts.unique, unit)
            return _in_range(seconds[texts.codes], written_as)
    if not finite.any():
        return Times(np.zeros(len(number), np.int64), finite, "nothing")
    times = _parse_numbers(number, unit)
    per = next((UNITS[u] for u, name in _UNIT_NAMES.items() if name == times.written_as), None)
    step = 0.0 if per is None else _resolution(column, number) / per
    if step <= 1:
        return times
    return replace(
        times,
        note=f"The times are rounded to steps of about {step:,.0f} seconds, by few digits or 32-bit "
        "floats; rows within a step are in a seeded order. Write them again with all digits.",
    )


def _resolution(column: pa.ChunkedArray, number: np.ndarray) -> float:
    """Return the rounding step of a column of numbers, 0 if nothing is rounded."""
    kind = value_type(column)
    if is_text(kind):
        texts = [text for text in as_texts(column, "times").unique if text.strip()]
        matches = [match for text in texts if (match := _SCIENTIFIC.fullmatch(text))]
        if 2 * len(matches) <= len(texts):
            return 0.0
        return min(10.0 ** (int(match[2]) - len(match[1] or "")) for match in matches)
    if not pa.types.is_floating(kind) or kind.bit_width == 64:
        return 0.0
    median = np.median(number[np.isfinite(number)])
    return float(np.spacing(np.float32(median) if kind.bit_width == 32 else np.float16(median)))


def _parse_numbers(number: np.ndarray, unit: str | None) -> Times:
    known = number[np.isfinite(number)]
    median = float(np.median(known))
    likely_unit = next(
        (u for u, per in UNITS.items() if _MEDIAN_FROM <= median / per < _UNTIL),
        next(
            (f for f, (low, high) in _DATE_NUMBERS.items() if _are_dates(known, f, low, high)), None
        ),
    )
    if unit is not None and unit != likely_unit and likely_unit is not None and likely_unit != "%Y":
        raise DataError(
            f"The times do not fit time_unit={unit!r} (one is {known[0]:.0f}): they look like "
            f"{_UNIT_NAMES.get(likely_unit, likely_unit)}. Pass time_unit={likely_unit!r} (--time-unit {likely_unit}), or leave "
            "it out."
        )
    chosen = unit or likely_unit
    if chosen is not None and "%" in chosen:
        dates = _parse_dates([_whole(value) for value in number.tolist()], chosen)
        note = (
            "The times are years; rows of one year are in a seeded order."
            if chosen == "%Y"
            else None
        )
        return _in_range(_date_seconds(dates), chosen, note)
    per = UNITS[chosen or "s"]
    name = _UNIT_NAMES[chosen or "s"]
    if chosen is not None and chosen == likely_unit:
        return _in_range(number / per, name)
    # Times since an unknown origin; a split only needs the order of whole numbers.
    is_whole = np.isfinite(number) & (number == np.floor(number))
    if known.max() / per >= _UNTIL or (unit is None and not is_whole[np.isfinite(number)].all()):
        raise DataError(
            f"The times (one is {known[0]:g}) are in no known unit; pass time_unit= (--time-unit) "
            f"{', '.join(UNITS)} or a date format such as %d/%m/%Y."
        )
    usable = np.isfinite(number) & (number >= 0)
    seconds = np.floor(np.where(usable, number / per, 0.0)).astype(np.int64)
    shown = f"The times (one is {known[0]:.15g}) are not dates between 1995 and 2100 in "
    note = (
        f"{shown}any unit; only their order is used. If they are dates, pass time_unit (--time-unit)."
        if unit is None
        else f"{shown}{name}; only their order is used."
    )
    return Times(seconds, usable, "counts", note)


def _are_dates(known: np.ndarray, date_format: str, low: int, high: int) -> bool:
    inside = known[(known >= low) & (known <= high) & (known == np.floor(known))]
    if 2 * len(inside) <= len(known):
        return False
    sample = np.unique(inside)
    sample = sample[:: 1 + len(sample) // _SAMPLE]
    return bool(
        _parse_dates([_whole(value) for value in sample.tolist()], date_format).notna().all()
    )


def _whole(value: float) -> str:
    return str(int(value)) if np.isfinite(value) and value == np.floor(value) else ""


def _parse_texts(texts: list[str], unit: str | None) -> tuple[np.ndarray, str]:
    """Return the seconds of dates as texts, [n] float64, NaN where unreadable, and the format."""
    if unit is not None and "%" in unit:
        return _date_seconds(_parse_dates(texts, unit)), unit
    sample = [text for text in texts if text.strip()]
    sample = sample[:: 1 + len(sample) // _SAMPLE]
    fitting = [
        date_format for date_format in _FORMATS if _parse_dates(sample, date_format).notna().any()
    ]
    read: dict[str, np.ndarray] = {}
    for date_format in fitting:
        read[date_format] = _date_seconds(_parse_dates(texts, date_format))
    if not read:
        return np.full(len(texts), np.nan), "nothing"
    best = max(read, key=lambda date_format: np.isfinite(read[date_format]).sum())
    count = np.isfinite(read[best]).sum()
    for date_format, seconds in read.items():
        if np.isfinite(seconds).sum() == count and not np.array_equal(
            seconds, read[best], equal_nan=True
        ):
            raise DataError(
                f"Days and months of the times cannot be told apart (one is {sample[0]!r}); pass "
                f"time_unit={best!r} or {date_format!r} (--time-unit)."
            )
    return read[best], "dates" if best == "ISO8601" else best


def _in_range(seconds: np.ndarray, written_as: str, note: str | None = None) -> Times:
    usable = np.isfinite(seconds) & (seconds >= _FROM) & (seconds < _UNTIL)
    seconds_floored = np.floor(np.where(usable, seconds, 0.0)).astype(np.int64)
    return Times(seconds_floored, usable, written_as, note)


def seconds_of_numbers(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return Unix seconds [n] int64, which are usable [n] bool, and counts by unit.

    numbers: [n] float64 of seconds, or milliseconds if 10^11 or more; NaN if missing. Usable times
    are after 1970 and before 2106.
    """
    is_milliseconds = (numbers >= _MAX_SECONDS) & (numbers < _MAX_MILLISECONDS)
    seconds = np.where(is_milliseconds, numbers / 1000, numbers)
    usable = (seconds > 0) & (seconds < _MAX_UINT32)
    floored = np.floor(np.where(usable, seconds, 0)).astype(np.int64)
    units = {
        "seconds": int((usable & ~is_milliseconds).sum()),
        "milliseconds": int((usable & is_milliseconds).sum()),
    }
    return floored, usable, units


def seconds_of_texts(
    texts: pa.ChunkedArray | pa.Array,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Like seconds_of_numbers, for texts: dates (in UTC unless they name a zone) or numbers.

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
        of_dates = _date_seconds(dates)
        valid = (of_dates > 0) & (of_dates < _MAX_UINT32)
        seconds[is_date] = np.where(valid, of_dates, 0.0)
        usable[is_date] = valid
    kind = np.where(is_date, 0, np.where(numbers >= _MAX_SECONDS, 1, 2))
    # A missing text has the code -1: the last entry, which is unusable.
    seconds, usable = np.append(seconds, 0)[codes], np.append(usable, False)[codes]
    counts = np.bincount(np.append(kind, 0)[codes][usable], minlength=3).tolist()
    units = dict(zip(("dates", "milliseconds", "seconds"), counts, strict=True))
    return np.where(usable, seconds, 0), usable, units


def iso_seconds(text: str) -> int | None:
    """Return the Unix seconds of an ISO 8601 date (in UTC unless it names a zone), or None."""
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def _parse_dates(texts: list[str] | np.ndarray, date_format: str) -> pd.Series:
    stripped = pd.Series(texts, dtype=object).str.strip()
    if date_format == "ISO8601":
        # The zone as databases write it: 2015-09-04 12:30:00 UTC.
        stripped = stripped.str.replace(r"\s+(?:UTC|GMT)$", "Z", regex=True)
    try:
        return pd.to_datetime(stripped, format=date_format, errors="coerce", utc=True)
    except ValueError as error:
        raise DataError(f"{date_format!r} is not a format of dates ({error}).") from error


def _date_seconds(dates: pd.Series) -> np.ndarray:
    """Return Unix seconds, [n] float64, NaN where there is no date."""
    seconds = dates.dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.float64)
    return np.where(dates.isna().to_numpy(), np.nan, seconds)
