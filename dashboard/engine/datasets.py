"""Data sets: statistics, users and items, and imports of files and shipped data sets."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine.uploads import Upload, UploadKind, queue_with_files
from puma_engine.datasets import REGISTRY, preview_table
from puma_engine.datasets.importers.table import Preview
from puma_engine.datasets.importers.table_options import TableOptions
from puma_engine.datasets.registry import Source
from puma_engine.errors import DataError
from puma_engine.jobs import Job
from puma_engine.pipeline.importing_data import dataset_facts, profiles_of
from puma_engine.store import Workspace

What = Literal["user", "item"]
_TEXT = (".csv", ".tsv", ".inter", ".item", ".jsonl")
TABLE = UploadKind(
    "A table is a file",
    (*_TEXT, *(f"{ending}.gz" for ending in _TEXT), ".parquet"),
    "puma data import table PATH",
)
CHECK_SECONDS = 300
MAX_SHOWN = 500
REQUIRED = ("user_id", "item_id", "outcome")
_ALWAYS_STORED = ("task", "drop_invalid", "min_rows", "history_separator")


@st.cache_data(max_entries=50, show_spinner=False)
def facts(root: str, dataset: str) -> dict[str, Any]:
    """Return puma_engine.datasets.statistics of a data set."""
    return dataset_facts(Workspace.open(root), dataset)


@st.cache_resource(max_entries=4, show_spinner=False)
def profiles(root: str, dataset: str, kind: What) -> pd.DataFrame:
    """Return the profile of every user or item, by id. Cached without a copy: do not change it."""
    return profiles_of(Workspace.open(root), dataset, kind)


def find(frame: pd.DataFrame, text: str, limit: int = MAX_SHOWN) -> tuple[pd.DataFrame, int]:
    """Return the rows whose id or text contains a text, most records first, and their number."""
    matches = frame
    if text:
        hit = frame.iloc[:, 0].str.contains(text, case=False, regex=False)
        if "text" in frame:
            hit |= frame["text"].str.contains(text, case=False, regex=False)
        matches = frame[hit]
    return matches.nlargest(limit, "records"), len(matches)


@st.cache_data(max_entries=50, show_spinner=False)
def rows_of(root: str, dataset: str, kind: What, entity: str) -> pd.DataFrame:
    """Return the records of one user or item with item texts, in the stored order."""
    ws = Workspace.open(root)
    rows = ws.get_table(dataset, "interactions", where={f"{kind}_id": [entity]})
    ids = rows["item_id"].unique().tolist()
    texts = ws.get_table(dataset, "items", where={"item_id": ids}) if ids else None
    return rows.assign(text="") if texts is None else rows.merge(texts, on="item_id", how="left")


def shipped() -> dict[str, Source]:
    """Return the data sets that ship with PUMA, by name."""
    return {item.name: item for item in REGISTRY.values() if item.shipped}


def import_shipped(name: str, users: int | None) -> Job:
    """Queue the import of a shipped data set, or of a seeded subset of its users."""
    if name not in shipped():
        raise DataError(f"There is no shipped data set {name!r}; choose one that is listed.")
    if users is not None and users < 1:
        raise DataError("Give a number of users of 1 or more, or none for all.")
    engine.workspace(create=True)
    title = f"Import {name}" + (f", {users:,} users" if users else "")
    return engine.queue("import_dataset", {"source": name, "users": users}, title)


@dataclass(frozen=True)
class TableSettings(TableOptions):
    """How a table is read, from the forms of the page; the engine checks it again."""

    task: str = "rating"

    def job_arguments(self) -> dict[str, Any]:
        """Return the settings of `import_dataset` for a table, those that differ from its defaults.

        The first options are always stored, as earlier versions did.
        """
        defaults = TableSettings()
        return {
            name: value
            for name, value in vars(self).items()
            if value not in (None, {})
            and (name in _ALWAYS_STORED or value != getattr(defaults, name))
        }

    def options(self) -> list[str]:
        """Return the options of `puma data check`."""
        options = []
        for name, value in self.job_arguments().items():
            if name in ("columns", "item_columns"):
                option = f"--{name.removesuffix('s').replace('_', '-')}"
                options += [f"{option}={key}={column}" for key, column in value.items()]
            elif value is True and name != "drop_invalid":
                options.append(f"--{name.replace('_', '-')}")
            elif not isinstance(value, bool):
                options.append(f"--{name.replace('_', '-')}={value}")
        return options


def preview(upload: Upload, settings: TableSettings, *, items: bool = False) -> Preview:
    """Return the first rows of a file and a guess at its columns. Raises DataError.

    items: whether the file is that of the items, which may have another format.
    """
    delimiter, encoding = settings.delimiter, settings.encoding
    if items:
        delimiter = settings.items_delimiter or delimiter
        encoding = settings.items_encoding or encoding
    return preview_table(
        upload.path,
        delimiter=delimiter,
        encoding=encoding,
        quote=settings.quote,
        no_header=settings.no_header and not items,
    )


def check(upload: Upload, items: Upload | None, settings: TableSettings) -> dict[str, Any]:
    """Return `puma_engine.datasets.importers.table.TableCheck` of a file as a dictionary.

    Another process reads the file, so that a large one leaves no memory in use in the app.
    Raises DataError with the engine's message.
    """
    command = [sys.executable, "-m", "puma_engine.cli", "--json", "data", "check"]
    command += settings.options()
    if items is not None:
        command.append(f"--items-path={items.path}")
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path])
    try:
        process = subprocess.run(
            [*command, "--", str(upload.path)],
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"The check took more than {CHECK_SECONDS} s; import the file from the command line."
        ) from error
    if process.stdout.strip():
        return json.loads(process.stdout)
    reason = (process.stderr.strip().splitlines() or ["The check ended without a message."])[-1]
    try:
        reason = str(json.loads(reason)["error"])
    except (ValueError, KeyError, TypeError):
        reason = reason[:500]
    for file in (upload, items):
        reason = reason if file is None else reason.replace(str(file.path), file.name)
    raise DataError(reason)


def import_table(
    upload: Upload, items: Upload | None, settings: TableSettings, name: str | None
) -> Job:
    """Move a checked upload into the workspace and queue its import."""
    arguments = {"source": "table", "name": name, **settings.job_arguments()}
    files = {"path": upload, "items_path": items}
    return queue_with_files("import_dataset", files, arguments, f"Import {upload.name}")
