"""Colours, marks and names of kinds of prompts and of decisions, in reports and in the dashboard.

The colours are Okabe and Ito's ("Color Universal Design", 2008), which colour-blind readers can
distinguish, with a contrast of 3:1 or more on light and dark pages. Each kind also has its own
mark.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """The display of a kind of prompts: its name, colour and mark (a Plotly symbol name)."""

    label: str
    colour: str
    symbol: str


KINDS = {
    "source": Kind("Source prompts", "#0072B2", "circle"),
    "vectors": Kind("Vectors, no language model", "#009EBF", "hexagon"),
    "migrated": Kind("Migrated", "#009E73", "diamond"),
    "refined": Kind("Refined", "#8A63D2", "star"),
    "retrained": Kind("Retrained", "#D55E00", "square"),
    "random": Kind("Random prompts", "#CC79A7", "x"),
    "reused": Kind("Reused as they are", "#7F6FB0", "pentagon"),
    "blended": Kind("Blended with a baseline", "#B0587A", "triangle-down"),
    "shuffled": Kind("Check: prompts swapped", "#8A8A8A", "triangle-up"),
    "baseline": Kind("No language model", "#9C8B52", "cross"),
}
DECISIONS = {
    "migrate": "Migrate",
    "refine": "Migrate all, refine some",
    "reuse": "Reuse and refine",
    "retrain": "Retrain",
    "undecided": "Not settled yet",
    "incomplete": "No verdict yet",
}
# Viridis (van der Walt and Smith, 2015) in five steps, from small to large amounts.
AMOUNTS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
NEUTRAL = "#8A8A8A"  # reference lines, and marks of no kind


def rank(kind: str) -> int:
    """Return the position of a kind in tables and legends; unknown kinds come last."""
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)
