"""Files of the demo that ship with PUMA, in demo/ of the data folder."""

from __future__ import annotations

from pathlib import Path

from puma_engine.datasets import data_root
from puma_engine.errors import DataError, StoreError
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.pipeline.backbones import fingerprints
from puma_engine.pipeline.publishing import add_published
from puma_engine.store import Run, Workspace
from puma_engine.store.archives import main_run_of

PROMPT_FILE = "source-prompts.safetensors"
ARCHIVE_FILE = "measured.zip"


def prompt_file() -> Path:
    """Return the path of the shipped source prompts: in demo/ of the data folder."""
    return data_root() / "demo" / PROMPT_FILE


def archive_file() -> Path:
    """Return the path of the shipped runs of the demo, which research/demo_archive.py makes."""
    return data_root() / "demo" / ARCHIVE_FILE


def add_shipped_comparisons(ws: Workspace) -> None:
    """Add the comparisons that ship as archives in demo/ of the data folder, unless they are present.

    The demo's own archive is not among them; the demo adds it after its data and models. Raises
    StoreError for a damaged archive.
    """
    existing = {run.id for run in ws.runs(kind="comparison", status="finished")}
    for file in sorted((data_root() / "demo").glob("*.zip")):
        if file.name != ARCHIVE_FILE and main_run_of(file) not in existing:
            add_published(ws, file)


def shipped_prompts(ws: Workspace, model: Run, data: Run) -> Path | None:
    """Return the shipped source prompts if they were made for this backbone and these users."""
    path = prompt_file()
    try:
        file = read_prompts(path)
    except (StoreError, DataError):
        return None
    suits = file.meta.get("backbone", {}).get("fingerprint") in fingerprints(ws, model)
    return path if suits and len(file.user_ids) >= data.summary["users"] else None
