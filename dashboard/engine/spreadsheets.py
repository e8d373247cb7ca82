"""Tables for spreadsheets, as the engine writes them."""

from puma_engine.report.spreadsheets import without_formulas

__all__ = ["without_formulas"]
