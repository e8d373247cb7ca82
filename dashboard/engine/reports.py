"""What leaves the workspace from the dashboard: reports, tables of runs, prompts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Run, StoreError
from puma_engine.pipeline.reporting import read_table, render_report, table_names
from puma_engine.store import Workspace

# More is better written by the command line than through the app's memory.
MOST_ROWS = 2_000_000
MOST_BYTES = 200 * 1024 * 1024
EXPORT_SECONDS = 300


@st.cache_data(max_entries=10, show_spinner=False)
def report(root: str, comparison: str, name: str, margin: float) -> str:
    """Return the report of a comparison as one HTML page; name: its name, as it is now."""
    return render_report(Workspace.open(root), comparison, margin=margin)


def runs_with_tables() -> list[Run]:
    """Finished runs that hold a table, the newest first."""
    found = engine.workspace().query(
        "SELECT DISTINCT run_id FROM artifacts WHERE format = 'parquet'"
    )
    with_files = {row["run_id"] for row in found}
    return [run for run in engine.runs() if run.id in with_files]


def names(run: Run) -> list[str]:
    """Return the names of a run's tables."""
    return table_names(engine.workspace(), run)


def rows(run: Run, name: str) -> int | None:
    """Return how many rows a table file has; None for tables that are no files."""
    for file in engine.workspace().artifacts(run.id):
        if file["name"] == name:
            return int(file["rows"])
    return None


@st.cache_data(max_entries=4, show_spinner=False)
def table(root: str, run: str, name: str) -> pd.DataFrame:
    """Return a table of a run."""
    return read_table(Workspace.open(root), run, name)


def prompt_runs() -> list[Run]:
    """Finished runs with a prompt table, the newest first."""
    found = [*engine.runs("prompts"), *engine.runs("migration")]
    return sorted(found, key=lambda run: run.created, reverse=True)


def prompt_bytes(run: Run) -> int:
    """Return the size of a run's prompt file."""
    files = engine.workspace().artifacts(run.id)
    return sum(int(file["bytes"]) for file in files if file["name"] == "prompts")


@st.cache_data(max_entries=2, show_spinner=False)
def prompts(root: str, run: str) -> bytes:
    """Return a run's prompts as the file that `puma prompts export` writes.

    Another process writes it, because the app loads no torch. Raises StoreError.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.safetensors"
        command = ["-m", "puma_engine.cli", "prompts", "export", run, "--out", str(file)]
        try:
            done = subprocess.run(
                [sys.executable, *command],
                env=os.environ | {"PUMA_WORKSPACE": root},
                capture_output=True,
                text=True,
                timeout=EXPORT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StoreError(
                "Writing the prompts took too long; use puma prompts export."
            ) from None
        if done.returncode:
            raise StoreError(done.stderr.strip() or "The prompts could not be written.")
        return file.read_bytes()
