"""How the kinds of prompts look in exports: the dashboard's names, colours and marks."""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """Name, colour and mark of a kind."""

    label: str
    colour: str
    mark: str


LOOKS = {
    "source": Look("Source prompts", "#0072B2", "circle"),
    "migrated": Look("Migrated", "#009E73", "diamond"),
    "refined": Look("Migrated and refined", "#8A63D2", "star"),
    "retrained": Look("Retrained", "#D55E00", "square"),
    "random": Look("Random prompts", "#CC79A7", "x"),
    "shuffled": Look("Shuffled control", "#8A8A8A", "triangle-up"),
    "baseline": Look("No language model", "#9C8B52", "cross"),
}
NEUTRAL = "#8A8A8A"


def rank(kind: str) -> int:
    """Place of a kind in every table and legend."""
    return list(LOOKS).index(kind) if kind in LOOKS else len(LOOKS)
