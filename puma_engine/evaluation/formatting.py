"""Format numbers and names of methods for verdicts, reports and pages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable


def format_interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """Return a value with its interval, 0.8123 [0.8001, 0.8245]; sign: with + or -."""
    form = "+.4f" if sign else ".4f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def format_share(share: float) -> str:
    """Return a share as a percentage with two significant digits: 98 %, 4.5 %."""
    if not math.isfinite(share):
        return "an unknown share"
    percent = 100 * share
    return f"{percent:.0f} %" if abs(share) >= 0.1 else f"{percent:.2g} %"


def format_share_interval(share: float, low: float | None, high: float | None) -> str:
    """Return a share with its interval, 98 % [97 %, 99 %], or without brackets if it has none."""
    value = format_share(share)
    if low is None or high is None or math.isnan(low):
        return value
    return f"{value} [{format_share(low)}, {format_share(high)}]"


def format_percent(share: float) -> str:
    """Return a share as a percentage with at most one decimal: 0.3 %, 1 %, 12.5 %."""
    if not math.isfinite(share):
        return "an unknown share"
    text = f"{100 * share:.1f}"
    return f"{text.removesuffix('.0')} %"


def round_up_percent(share: float) -> float:
    """Round a share up to a multiple of 0.1 %, apart from rounding errors."""
    return math.ceil(round(1000 * share, 6)) / 1000


def format_change(
    loss: float,
    low: float,
    high: float,
    base: float,
    *,
    noun: str,
    higher_is_better: bool,
    reference: str = "",
) -> str:
    """Return a loss and its interval relative to a base value, in words.

    For example: 0.3 % more error (between 0.5 % less and 1.1 % more). noun: the quantity.
    higher_is_better: whether a loss means less of it. reference: the method with the base value,
    which ends the sentence.
    """

    def amount(value: float) -> str:
        return format_percent(abs(value) / abs(base))

    def direction(value: float) -> str:
        return "more" if (value > 0) != higher_is_better else "less"

    ends = " and ".join(f"{amount(value)} {direction(value)}" for value in (low, high))
    same = amount(loss) == "0 %"
    change = f"the same {noun}" if same else f"{amount(loss)} {direction(loss)} {noun}"
    end = f" {'as' if same else 'than'} {reference}" if reference else ""
    return f"{change} (between {ends}){end}"


def method_names(labels: Iterable[str]) -> dict[str, str]:
    """Return the names of methods in plain words by their stored labels.

    "Migrated, 60 users (kmeans-variance)" becomes "Migration trained on 60 users". The strategy is
    kept if two methods would have the same name without it.
    """
    labels = list(dict.fromkeys(labels))
    full = {label: _in_words(label) for label in labels}
    brief = {label: _STRATEGY.sub(r"\1", name) for label, name in full.items()}
    count = Counter(brief.values())
    return {label: brief[label] if count[brief[label]] == 1 else full[label] for label in labels}


_MIGRATED = re.compile(r"^Migrated( from \d+ sources)?, (all users|\d+ users)")
_SOURCE = re.compile(r"^Source prompts\b")
_SHUFFLED = re.compile(r"^Shuffled control( from \d+ sources)?, ")
_STRATEGY = re.compile(r"((?:trained on|swapped between users,) \d+ users) \([a-z0-9-]+\)")


def _in_words(label: str) -> str:
    name = _MIGRATED.sub(r"Migration\1 trained on \2", label)
    name = _SOURCE.sub("Old model", name)
    return _SHUFFLED.sub(r"Check: prompts swapped between users\1, ", name)


def shortened(text: str, limit: int) -> str:
    """Return a text cut to at most `limit` characters, with an ellipsis if it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def capitalised(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def mid_sentence(name: str) -> str:
    """Return the name of a method within a sentence: full retraining; PUMA stays PUMA."""
    return name[:1].lower() + name[1:] if name[1:2].islower() else name


def format_seconds(value: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def format_duration(seconds: float | None) -> str:
    """Return seconds as text: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not 1: 1 seed, 2,000 users."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_users(count: int) -> str:
    """Return a number of users: 1 user, 2,000 users."""
    return format_count(count, "user")
