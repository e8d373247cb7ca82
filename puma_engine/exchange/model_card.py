"""Model cards of prompts and adapters: description, lineage and metrics."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CardContent:
    """Content of a card. lineage and metrics are rows of a table; licence an SPDX id or None."""

    title: str
    kind: str
    details: dict[str, Any]
    base_model: str
    licence: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    usage: str = ""


def model_card(content: CardContent) -> str:
    """Return the Markdown text of README.md, with the front matter that the hub reads."""
    front = {
        "library_name": "puma-workbench",
        "tags": ["puma", "soft-prompts", content.kind],
        "base_model": content.base_model if content.base_model.count("/") == 1 else None,
        "license": (content.licence or "other").lower(),
    }
    # Every JSON value is a YAML value, so nothing needs further escapes.
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items() if value)]
    lines += ["---", "", f"# {_plain(content.title)}", "", *_fields(content.details), ""]
    if content.usage:
        lines += ["## Use", "", content.usage, ""]
    lines += ["## Data", "", *(_fields(content.data) or ["Unknown."]), ""]
    lines += ["## Metrics", "", *(_table(content.metrics) or ["Not evaluated yet."]), ""]
    lines += ["## Lineage", "", *(_table(content.lineage) or ["Unknown."]), ""]
    licence = content.licence or (
        "None was given. Prompts and adapters derive from the data and models above, whose licences "
        "hold."
    )
    return "\n".join([*lines, "## Licence", "", _plain(licence), ""])


def _fields(values: dict[str, Any]) -> list[str]:
    return [f"- {name.replace('_', ' ')}: {_plain(value)}" for name, value in values.items()]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    names = list(rows[0])
    head = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return head + ["| " + " | ".join(_plain(row.get(n)) for n in names) + " |" for row in rows]


def _plain(value: Any) -> str:
    """Return a value as text that Markdown shows unchanged."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return "".join("\\" + c if c in "\\`*_[]<>|#!" else c for c in text)
