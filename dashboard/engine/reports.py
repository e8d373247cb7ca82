"""Files to download: reports of comparisons, tables of runs, prompts."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Run, StoreError
from puma_engine.pipeline.anchors import KIND as ANCHORS
from puma_engine.pipeline.reporting import read_table, render_report, table_names
from puma_engine.pipeline.stored_prompts import has_model
from puma_engine.pipeline.summary_page import render_summary
from puma_engine.store import Workspace

__all__ = ["table_names"]

# Larger files would not fit into the memory of the app; the command line writes them.
MAX_ROWS = 2_000_000
MAX_BYTES = 200 * 1024 * 1024
EXPORT_SECONDS = 300


@st.cache_data(max_entries=10, show_spinner=False)
def report(root: str, comparison: str, name: str, margin: float) -> str:
    """Return the report of a comparison as one HTML page. name: part of the cache key, shown in it."""
    return render_report(Workspace.open(root), comparison, margin=margin)


@st.cache_data(max_entries=10, show_spinner=False)
def one_page(
    root: str, comparison: str, name: str, margin: float, address: str | None, anchors: int
) -> str:
    """Return the decision on a comparison as one printable HTML page; its arguments as of `report`.

    anchors: the number of runs with anchor predictions, which its pictures may be drawn from.
    """
    return render_summary(Workspace.open(root), comparison, margin=margin, address=address)


def runs_with_tables() -> list[Run]:
    """Finished runs that hold a table, the newest first."""
    rows = engine.workspace().query(
        "SELECT DISTINCT run_id FROM artifacts WHERE format = 'parquet'"
    )
    with_tables = {row["run_id"] for row in rows}
    return [run for run in engine.runs() if run.id in with_tables or run.kind == ANCHORS]


def rows(run: Run, name: str) -> int | None:
    """Return the number of rows of a table; None for tables that are in the database."""
    if name == ANCHORS:
        return int(run.summary["users"] * run.summary["anchors"])
    for file in engine.workspace().artifacts(run.id):
        if file["name"] == name:
            return int(file["rows"])
    return None


@st.cache_data(max_entries=4, show_spinner=False)
def table(root: str, run: str, name: str) -> pd.DataFrame:
    """Return a table of a run."""
    return read_table(Workspace.open(root), run, name)


def prompt_runs() -> list[Run]:
    """Finished runs with prompts of a model, the newest first."""
    runs = filter(has_model, [*engine.runs("prompts"), *engine.runs("migration")])
    return sorted(runs, key=lambda run: run.created, reverse=True)


def prompt_bytes(run: Run) -> int:
    """Return the size of a run's prompt file."""
    files = engine.workspace().artifacts(run.id)
    return sum(int(file["bytes"]) for file in files if file["name"] == "prompts")


@st.cache_data(max_entries=2, show_spinner=False)
def prompts(root: str, run: str) -> bytes:
    """Return a run's prompts as a safetensors file. Raises StoreError.

    `puma prompts export` writes it in another process, because the app does not import torch.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.safetensors"
        command = ["-m", "puma_engine.cli", "prompts", "export", run, "--out", str(file)]
        try:
            process = subprocess.run(
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
        if process.returncode:
            raise StoreError(process.stderr.strip() or "The prompts could not be written.")
        return file.read_bytes()
