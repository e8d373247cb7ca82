"""Which users train the adapter: signals, clusters and strata, quotas and a seeded draw."""

from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import (
    STRATEGIES,
    Groups,
    Selection,
    Strategy,
    coverage,
    draw_users,
    get_strategy,
    group_users,
    select_users,
)

__all__ = [
    "STRATEGIES",
    "Groups",
    "Selection",
    "Signals",
    "Strategy",
    "coverage",
    "draw_users",
    "get_strategy",
    "group_users",
    "select_users",
]
