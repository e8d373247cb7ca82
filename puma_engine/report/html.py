"""HTML built as a tree: every text is escaped when it is written, other people's text included."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

Element = ElementTree.Element
Content = Element | str
# What is invisible, or would turn the text around it.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
# Nothing is ever loaded: no script, no picture, no font, no style but the report's own.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def tag(name: str, /, *children: Content, **attributes: object) -> Element:
    """Return an element; cls is its class, underscores in attribute names become dashes."""
    element = Element(name)
    for key, value in attributes.items():
        element.set("class" if key == "cls" else key.replace("_", "-"), visible(str(value)))
    for child in children:
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + visible(child)
        else:
            element.text = (element.text or "") + visible(child)
    return element


def visible(text: str) -> str:
    """Return a text without control characters and marks that hide or turn it."""
    return _HIDDEN.sub(" ", text)


def table(
    head: Sequence[str], rows: Sequence[Sequence[Content]], *, numbers: Sequence[int] = ()
) -> Element:
    """Return a table that scrolls sideways; numbers: columns that are set to the right."""
    right = set(numbers)

    def line(name: str, cells: Sequence[Content]) -> Element:
        classes = [{"cls": "number"} if at in right else {} for at in range(len(cells))]
        return tag("tr", *(tag(name, cell, **c) for cell, c in zip(cells, classes, strict=True)))

    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("div", tag("table", tag("thead", line("th", head)), body), cls="wide")


def facts(pairs: Sequence[tuple[str, Content]]) -> Element:
    """Return a list of names with their values."""
    items = [child for name, value in pairs for child in (tag("dt", name), tag("dd", value))]
    return tag("dl", *items)


def document(title: str, style: str, body: Sequence[Content]) -> str:
    """Return a whole page that refers to nothing outside itself."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    page = tag("html", head, tag("body", tag("main", *body)), lang="en")
    text = ElementTree.tostring(page, encoding="unicode", method="html")
    return f"<!doctype html>\n{text}\n"
