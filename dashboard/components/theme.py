"""The one visual language: colours, marks and order of the kinds of prompts.

The colours are Okabe and Ito's, which colour-blind people can tell apart, and stand out at 3:1
or more from the light and from the dark page alike. No meaning rests on colour alone: each
kind has its own mark too.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple


class Kind(NamedTuple):
    """How one kind of prompts is shown everywhere: its name, colour and plotly symbol."""

    label: str
    colour: str
    symbol: str


KINDS = {
    "source": Kind("Source prompts", "#0072B2", "circle"),
    "migrated": Kind("Migrated", "#009E73", "diamond"),
    "refined": Kind("Migrated and refined", "#8A63D2", "star"),
    "retrained": Kind("Retrained", "#D55E00", "square"),
    "random": Kind("Random prompts", "#CC79A7", "x"),
    "shuffled": Kind("Shuffled control", "#8A8A8A", "triangle-up"),
    "baseline": Kind("No language model", "#9C8B52", "cross"),
}
NEUTRAL = "#8A8A8A"  # reference lines, and what belongs to no kind
LOWER_IS_BETTER = ("rmse", "mae", "log_loss")
# For groups without an order, such as clusters; sequences and diverging scales for amounts.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#9C8B52")
AMOUNTS = "Cividis"
DIFFERENCES = "RdBu"


def rank(kind: str) -> int:
    """Place of a kind in every table and legend."""
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def marker(kind: str, **more: Any) -> dict[str, Any]:
    """Plotly's marker settings of a kind of prompts."""
    return {"color": KINDS[kind].colour, "symbol": KINDS[kind].symbol} | more


class Status(NamedTuple):
    """How the state of a job or run is shown: its word, icon and streamlit's colour name."""

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
