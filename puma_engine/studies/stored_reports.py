"""Reports of studies kept in their workspace, so that the dashboard can show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from puma_engine.errors import StoreError
from puma_engine.files import write_json
from puma_engine.store import Workspace
from puma_engine.studies.catalog import STUDIES

FOLDER = "studies"
PARTS = ("study", "command", "date", "rows", "summary", "differences", "failed", "missing")


def keep_report(ws: Workspace, report: dict[str, Any]) -> None:
    """Keep what is known of a study; the latest report of each counts."""
    folder = ws.root / FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{report['study']}.json", report)


def read_report(ws: Workspace, name: str) -> dict[str, Any]:
    """Return the report of a study in its workspace, or raise StoreError as load_report does."""
    return load_report(ws.root / FOLDER / f"{name}.json", f"run `puma study {name}`")


def load_report(file: Path, remedy: str) -> dict[str, Any]:
    """Return the report that a file holds, or raise StoreError if it is missing or damaged.

    remedy: what to do then, as the error ends.
    """
    try:
        return _parsed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # What the system says of a file repeats its name.
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"The report {file} cannot be read ({reason}); {remedy}.") from error


def _parsed(text: str) -> dict[str, Any]:
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
