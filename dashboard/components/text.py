"""Other people's text: titles, names and errors are shown as they are, never as markup."""

from __future__ import annotations

import html
import re

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~<>$:&^=])")
# What would turn the text around it, or hide in it.
_HIDDEN = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]"
)


def short(text: str, most: int = 80) -> str:
    """Return a text on one line, without hidden marks, cut after so many characters."""
    line = " ".join(_HIDDEN.sub(" ", text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def escaped(text: str, most: int = 80) -> str:
    """Return a short text that markdown shows literally.

    For widgets that read their labels as markdown (buttons, expanders, tabs, radio, pills,
    metrics). Where there is a choice, st.text and tables need no escaping.
    """
    return _MARKUP.sub(r"\\\1", short(text, most))


def drawn(text: str, most: int = 60) -> str:
    """Return a short text that a chart shows literally: plotly reads tags and entities."""
    return html.escape(short(text, most), quote=False)
