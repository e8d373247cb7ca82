"""Numbers with their units, and other people's text as plain text, for display."""

import html
import math
import re
import textwrap
from datetime import UTC, datetime

from dashboard.engine import capitalised, duration, mid_sentence, percent, shortened

__all__ = [
    "ago",
    "capitalised",
    "count",
    "duration",
    "duration_range",
    "escaped",
    "mid_sentence",
    "percent",
    "plotly_text",
    "short",
    "size",
]


def duration_range(low: float, high: float) -> str:
    """Return a range of seconds as text, rounded outwards: 20 to 40 s, 2 to 4 min, 3 to 5 h."""
    if high < 90:
        step, size, unit = 5, 1.0, "s"
    elif high < 5400:
        step, size, unit = 1, 60.0, "min"
    else:
        step, size, unit = 1, 3600.0, "h"
    least = step * math.floor(max(low, 0.0) / size / step)
    most = step * max(math.ceil(high / size / step), 1)
    return f"{most:,} {unit}" if least == most else f"{least:,} to {most:,} {unit}"


def size(count: float) -> str:
    """Return bytes as text in powers of 1024: 812 B, 10.3 MiB, 200 MiB."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    digits = 0 if unit == "B" else 1
    return f"{f'{count:.{digits}f}'.removesuffix('.0')} {unit}"


def count(number: float | None) -> str:
    """Return a whole number with separators, or a dash."""
    return "–" if number is None else f"{number:,.0f}"


def ago(time: str | None) -> str:
    """Return the age of an ISO 8601 time, such as "3 h ago", or its date (UTC) after a day."""
    if time is None:
        return "–"
    moment = datetime.fromisoformat(time)
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for limit, unit, size in ((60, "s", 1), (60, "min", 60), (24, "h", 3600)):
        # Rounded before it is compared: 59.7 minutes are 1 hour, rather than 60 minutes.
        number = round(max(seconds, 0) / size)
        if number < limit:
            return f"{number} {unit} ago"
    return moment.strftime("%Y-%m-%d")


MAX_WARNING = 1000  # characters of a warning of an import or a model

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~<>$:&^=])")
# Control characters, and marks that reverse or hide text.
_HIDDEN = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]"
)


# What the browser's Markdown turns into a link even where it is escaped: a word joiner keeps it text.
_LINK = re.compile(r"(https?:)(?=//)|(www)(?=\.)|((?<=[-.\w+])@)(?=[-\w])", re.IGNORECASE)


def short(text: str, limit: int = 80) -> str:
    """Return a text on one line, without control characters, of at most `limit` characters."""
    return shortened(" ".join(_HIDDEN.sub(" ", text).split()), limit)


def escaped(text: str, limit: int = 80) -> str:
    """Return a short text with markdown escaped, for labels that are markdown; nothing becomes a link.

    Prefer st.text and tables, which show text as it is.
    """
    return _MARKUP.sub(r"\\\1", _LINK.sub("\\g<0>\u2060", short(text, limit)))


def unbroken(text: str) -> str:
    """Return a text in which a number and its percent sign, or its seconds, stay on one line."""
    return re.sub(r"(?<=\d) (?=(%|s\b))", "\u00a0", text)


def plotly_lines(text: str, width: int = 34, lines: int = 3) -> str:
    """Return a text that plotly shows literally, wrapped to lines of at most `width` characters.

    Text beyond that number of lines is cut, with an ellipsis.
    """
    wrapped = textwrap.wrap(short(text, width * lines), width, max_lines=lines, placeholder=" …")
    return "<br>".join(html.escape(line, quote=False) for line in wrapped)


def plotly_text(text: str, limit: int = 60) -> str:
    """Return a short text that plotly shows literally; it would read tags and entities."""
    return html.escape(short(text, limit), quote=False)
