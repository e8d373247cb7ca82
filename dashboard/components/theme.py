"""Colours and marks of the charts, and how states of jobs and runs are shown.

Kinds of prompts look as in the report: see puma_engine.report.theme.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import streamlit as st
from plotly.colors import sample_colorscale

from dashboard.engine import KINDS, NEUTRAL, rank

__all__ = ["KINDS", "NEUTRAL", "rank"]

# CATEGORIES: colours of unordered groups. AMOUNTS, DIFFERENCES: Plotly's sequential and
# diverging scales.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#9C8B52")
AMOUNTS = "Viridis"
DIFFERENCES = "RdBu"
# Whether a difference is surely good, surely bad, or may be chance.
DIFFERENCE_COLOURS = {
    "better": KINDS["migrated"].colour,
    "worse": KINDS["retrained"].colour,
    "open": NEUTRAL,
}


def marker(kind: str, **more: Any) -> dict[str, Any]:
    """Return Plotly's marker settings of a kind of prompts."""
    return {"color": KINDS[kind].colour, "symbol": KINDS[kind].symbol} | more


def difference_texts() -> dict[str, str]:
    """Return the colours of texts about differences that are surely good or bad, for the page's theme.

    Each has a contrast of 4.5:1 or more.
    """
    dark = st.context.theme.type == "dark"
    return (
        {"better": "#3FCF9B", "worse": "#FF9A57"}
        if dark
        else {"better": "#007552", "worse": "#A84A00"}
    )


def amounts() -> str | list[str]:
    """Return the scale of amounts for dots; on a dark page without its end that is as dark as the page."""
    if st.context.theme.type != "dark":
        return AMOUNTS
    return sample_colorscale(AMOUNTS, np.linspace(0.25, 1.0, 10).tolist())


def text_colour() -> str:
    """Return the colour of texts in charts on faint colours, for the page's theme."""
    return "#E6E9EF" if st.context.theme.type == "dark" else "#31333F"


class Status(NamedTuple):
    """How a status is shown: label, icon and Streamlit's colour name."""

    label: str
    icon: str
    colour: Literal["red", "orange", "blue", "green", "gray"]


STATUSES = {
    "queued": Status("Queued", ":material/schedule:", "gray"),
    "running": Status("Running", ":material/play_circle:", "blue"),
    "finished": Status("Finished", ":material/check_circle:", "green"),
    "failed": Status("Failed", ":material/error:", "red"),
    "cancelled": Status("Cancelled", ":material/cancel:", "gray"),
    "interrupted": Status("Interrupted", ":material/power_off:", "orange"),
}
