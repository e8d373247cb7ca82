"""Reports of studies kept in their workspace, so that the dashboard can show them."""

from __future__ import annotations

import json
from typing import Any

from puma_engine.errors import StoreError
from puma_engine.store import Workspace
from puma_engine.study.catalog import STUDIES
from puma_engine.tensors import write_json

FOLDER = "studies"
PARTS = ("study", "command", "date", "rows", "summary", "differences", "failed", "missing")


def keep_report(ws: Workspace, report: dict[str, Any]) -> None:
    """Keep what is known of a study; the latest report of each counts."""
    folder = ws.root / FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{report['study']}.json", report)


def read_report(ws: Workspace, name: str) -> dict[str, Any]:
    """Return the report of a study, or raise StoreError if it is missing or damaged."""
    file = ws.root / FOLDER / f"{name}.json"
    try:
        return parse_report(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"The report of the study {name!r} cannot be read ({error}); run `puma study {name}`."
        ) from error


def parse_report(text: str) -> dict[str, Any]:
    """Return the report that a JSON text holds, or raise ValueError that says what it lacks."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    lost = [part for part in PARTS if part not in found]
    if lost:
        raise ValueError(f"it has no {', '.join(lost)}")
    return found


def reported(ws: Workspace) -> list[str]:
    """Names of the studies that have a report here."""
    return [name for name in STUDIES if (ws.root / FOLDER / f"{name}.json").is_file()]
