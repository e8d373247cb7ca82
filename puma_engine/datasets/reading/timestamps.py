"""Times as found in the wild: seconds, milliseconds or dates, row by row."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa

# What exceeds it cannot count seconds (the year 5138) and, as milliseconds, is after 1973.
_LARGEST_SECONDS = 1e11
_LARGEST_MILLISECONDS = 1e14
# Times are kept as unsigned 32-bit seconds while a file is read.
_LATEST = 2**32
_MIND = "%m/%d/%Y %I:%M:%S %p"


def seconds_of_numbers(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return Unix seconds [n] int64, which are usable [n] bool, and counts by unit.

    numbers: [n] float64, each seconds, or milliseconds if it is 10^11 or more; NaN where
    there is none. Usable times are after 1970 and before 2106.
    """
    milli = (numbers >= _LARGEST_SECONDS) & (numbers < _LARGEST_MILLISECONDS)
    seconds = np.where(milli, numbers / 1000, numbers)
    usable = (seconds > 0) & (seconds < _LATEST)
    whole = np.floor(np.where(usable, seconds, 0)).astype(np.int64)
    units = {"seconds": int((usable & ~milli).sum()), "milliseconds": int((usable & milli).sum())}
    return whole, usable, units


def seconds_of_texts(
    texts: pa.ChunkedArray | pa.Array,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return what seconds_of_numbers does, of texts: dates (UTC unless they say) or numbers.

    Dates are ISO 8601, or month/day/year with a twelve-hour clock as in MIND.
    """
    codes, unique = pd.factorize(texts.to_numpy(zero_copy_only=False))
    numbers = pd.to_numeric(pd.Series(unique, dtype=object), errors="coerce").to_numpy(np.float64)
    is_text = np.isnan(numbers)
    seconds, usable, _ = seconds_of_numbers(numbers)
    if is_text.any():
        dates = _dates(unique[is_text])
        seconds[is_text], usable[is_text] = dates, (dates > 0) & (dates < _LATEST)
    kind = np.where(is_text, 0, np.where(numbers >= _LARGEST_SECONDS, 1, 2))
    # A missing text has the code -1: the last place, which is unusable.
    seconds, usable = np.append(seconds, 0)[codes], np.append(usable, False)[codes]
    found = np.bincount(np.append(kind, 0)[codes][usable], minlength=3).tolist()
    units = dict(zip(("dates", "milliseconds", "seconds"), found, strict=True))
    return np.where(usable, seconds, 0), usable, units


def _dates(texts: np.ndarray) -> np.ndarray:
    """Return Unix seconds [n] int64 of dates, before 1970 where a text is none."""
    given = pd.Series(texts, dtype=object)
    moments = pd.to_datetime(given, format="ISO8601", errors="coerce", utc=True)
    if moments.isna().any():
        others = pd.to_datetime(given, format=_MIND, errors="coerce", utc=True)
        moments = moments.fillna(others)
    return moments.dt.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)


def iso_seconds(text: str) -> int | None:
    """Return a date in ISO 8601 (UTC unless it says) in Unix seconds, or None."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
