"""Which users train the adapter: signals, grouping, quotas and a seeded draw."""

from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import STRATEGIES, Selection, Strategy, select_users

__all__ = ["STRATEGIES", "Selection", "Signals", "Strategy", "select_users"]
