"""How numbers appear in sentences of verdicts and in reports."""

from __future__ import annotations

import math


def format_interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """Return a value with its interval, 0.8123 [0.8001, 0.8245]; sign: with + or -."""
    form = "+.4f" if sign else ".4f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def format_share(share: float) -> str:
    """Return a share as a percentage with two significant digits."""
    if not math.isfinite(share):
        return "an unknown share"
    return f"{share:.0%}" if abs(share) >= 0.1 else f"{100 * share:.2g}%"


def format_share_interval(share: float, low: float | None, high: float | None) -> str:
    """Return a share with its interval, 98% [97%, 99%]; without brackets where there is none."""
    if low is None or high is None or math.isnan(low):
        return format_share(share)
    return f"{format_share(share)} [{format_share(low)}, {format_share(high)}]"


def format_seconds(value: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def format_users(count: int) -> str:
    """Return a number of users: 1 user, 2,000 users."""
    return f"{count:,} user" if count == 1 else f"{count:,} users"
