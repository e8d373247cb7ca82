"""Data sets as runs: import them, and read them from the workspace."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from puma_engine.datasets import (
    REGISTRY,
    Dataset,
    data_root,
    import_folder,
    item_profiles,
    read_table,
    statistics,
    user_profiles,
    validate,
)
from puma_engine.datasets.importers.table_options import TableOptions
from puma_engine.datasets.registry import settings_from, source_files
from puma_engine.errors import ConfigError, DataError, NotFoundError
from puma_engine.files import sha256_file
from puma_engine.pipeline import stage
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    import pandas as pd

Population = Literal["product", "foundation"]


def import_dataset(
    ws: Workspace,
    source: str,
    *,
    path: str | Path | None = None,
    users: int | None = None,
    seed: int = 0,
    population: Population = "product",
    name: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
    **settings: Any,
) -> Run:
    """Read interactions, split them and store them in the workspace.

    source: a shipped data set, or the same from a folder given as path; amazon, amazon-2018, yelp,
    mind or movielens with their original files at path and their settings, such as those of
    `puma_engine.datasets.importers.amazon.AmazonSettings`; or "table" with a file at path, a task
    and the settings of `puma_engine.datasets.read_table`. Both take items_path, the file of items.
    users: the size of a seeded subset. The same files and settings give the same run. Raises
    DataError or ConfigError.
    """
    execution = stage.Execution(None, progress, should_cancel)
    if source == "table":
        if population != "product":
            raise ConfigError("A table has no population: it is for shipped sets.")
        return _import_table(ws, path, name, seed, execution, users=users, **settings)
    if source not in REGISTRY:
        names = ", ".join([*REGISTRY, "table"])
        own = "import a file of your own with `puma data import table FILE --task rating`, or click"
        # os.path, since it treats a name that is too long as a file that does not exist.
        if os.path.isfile(source):
            raise DataError(f"{source!r} is a file, not the name of a data set ({names}); {own}.")
        if os.sep in source or Path(source).suffix:
            raise DataError(
                f"The file {source!r} does not exist, nor is there a data set of that name; check "
                f"the path and {own}, or choose one of {names}."
            )
        raise DataError(f"There is no data set {source!r}; choose one of {names}.")
    if not REGISTRY[source].shipped:
        if population != "product":
            raise ConfigError(f"{source!r} is read whole: population is for shipped sets.")
        return _import_original(ws, source, path, users, name, seed, execution, **settings)
    if settings:
        raise ConfigError(f"{', '.join(settings)}: the shipped sets take no such settings.")
    folder = Path(path) if path is not None else data_root() / REGISTRY[source].family
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give the folder of the original files.")
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".parquet", ".csv", ".dat", ".gz"):
            digest.update(f"{file.name}:{sha256_file(file)};".encode())
    files = digest.hexdigest()[:16]
    config = {"source": source, "users": users, "population": population, "files": files}
    execution.announce(f"importing {source}")

    def read() -> Dataset:
        return import_folder(source, folder, population=population, users=users, seed=seed)

    return _store(ws, name or stage.slug(source, users), config, seed, read)


def _import_original(
    ws: Workspace,
    source: str,
    path: str | Path | None,
    users: int | None,
    name: str | None,
    seed: int,
    execution: stage.Execution,
    *,
    items_path: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Read a source that is not shipped from its original files, which may be large."""
    source_info = REGISTRY[source]
    if path is None or source_info.settings is None:
        raise ConfigError(f"{source!r} is read from its original files; give their path.")
    place, items = Path(path), None if items_path is None else Path(items_path)
    chosen = settings_from(source_info.settings, source, settings)
    began: dict[str, float] = {}

    def watch(part: str, done: int, total: int) -> None:
        """Report progress with an ETA; raise Cancelled if the work was cancelled."""
        execution.check_cancel(part)
        now = time.monotonic()
        spent = now - began.setdefault(part, now)
        left = spent * (total - done) / done if done and spent else None
        if execution.progress is not None:
            report = stage.StageProgress(part, step=done, total=total, eta_seconds=left)
            execution.progress(report)

    hashes = {}
    for role, file in source_files(source_info, place, items).items():
        watch(f"checking {file.name}", 0, 0)
        hashes[role] = sha256_file(file)[:16]
    config = {"source": source, "users": users, "files": hashes, **dataclasses.asdict(chosen)}

    def read() -> Dataset:
        return import_folder(
            source, place, users=users, seed=seed, items_path=items, progress=watch, **settings
        )

    stem = place.resolve().name.split(".")[0]
    parts = (stem,) if stem.startswith(source) else (source, stem)
    return _store(ws, name or stage.slug(*parts, users), config, seed, read)


def _import_table(
    ws: Workspace,
    path: str | Path | None,
    name: str | None,
    seed: int,
    execution: stage.Execution,
    *,
    task: str | None = None,
    items_path: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Read any table of interactions; settings that are None have their defaults."""
    if path is None:
        raise ConfigError("A table needs a path; give that of a CSV, Parquet or JSON lines file.")
    if task is None:
        raise ConfigError("A table needs a task; choose rating or click.")
    file, items = Path(path), None if items_path is None else Path(items_path)
    for needed in (file, items):
        if needed is not None and not needed.is_file():
            raise DataError(f"There is no file {needed}; give a CSV, Parquet or JSON lines file.")
    options = {key: value for key, value in settings.items() if value is not None}
    # Wrong options are refused before the run begins.
    settings_from(TableOptions, "table", options)
    config = {"source": "table", "task": task, "files": sha256_file(file)[:16], **options}
    if items is not None:
        config["items"] = sha256_file(items)[:16]
    execution.announce(f"importing {file.name}")

    def read() -> Dataset:
        return read_table(
            file,
            name=name or file.stem,
            task=task,  # type: ignore[arg-type]  # read_table refuses others
            items_path=items,
            seed=seed,
            **options,
        )

    return _store(ws, name or stage.slug(file.stem), config, seed, read)


def _store(
    ws: Workspace, name: str, config: dict[str, Any], seed: int, read: Callable[[], Dataset]
) -> Run:
    def compute(run_id: str, _folder: Path, _clock: stage.Clock) -> stage.StageResult:
        dataset = read()
        validate(dataset)
        ws.put_table(run_id, "interactions", dataset.interactions)
        ws.put_table(run_id, "items", dataset.items)
        ws.put_table(run_id, "user-profiles", user_profiles(dataset))
        ws.put_table(run_id, "item-profiles", item_profiles(dataset))
        return stage.StageResult(summary=describe_dataset(dataset))

    return stage.run_stage(
        ws, "dataset", name=name, config=config, inputs={}, seed=seed, compute=compute
    )


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return the summary of a data set's run."""
    counts = dataset.interactions["split"].value_counts()
    return {
        "dataset": dataset.name,
        "task": dataset.task,
        "users": len(dataset.users),
        "items": len(dataset.items),
        "interactions": len(dataset.interactions),
        "splits": {str(split): int(count) for split, count in counts.items()},
        "content_hash": dataset.content_hash,
        "statistics": statistics(dataset),
        "report": dataset.report,
    }


def load_dataset(ws: Workspace, reference: stage.Reference) -> Dataset:
    """Read the data set of a finished dataset run; the last one stays in memory."""
    run = stage.find(ws, reference, "dataset")
    key = (str(ws.root), run.id)
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = Dataset(
            run.summary["dataset"],
            run.summary["task"],
            ws.get_table(run.id, "interactions"),
            ws.get_table(run.id, "items"),
            run.summary["report"],
        )
    return _LAST[key]


_LAST: dict[tuple[str, str], Dataset] = {}


def forget_datasets() -> None:
    """Drop the data set in memory."""
    _LAST.clear()


def dataset_facts(ws: Workspace, reference: stage.Reference) -> dict[str, Any]:
    """Return `datasets.statistics`; rows are only read if an older version imported them."""
    run = stage.find(ws, reference, "dataset")
    return run.summary.get("statistics") or statistics(load_dataset(ws, run))


def task_of(ws: Workspace, source: Run) -> str:
    """Return the task of a prompt table's data set: rating or click."""
    return str(ws.run(source.inputs["dataset"]).summary["task"])


def profiles_of(
    ws: Workspace, reference: stage.Reference, kind: Literal["user", "item"]
) -> pd.DataFrame:
    """Return `datasets.user_profiles` or `item_profiles` of a data set, which its import stored."""
    run = stage.find(ws, reference, "dataset")
    try:
        return ws.get_table(run.id, f"{kind}-profiles")
    except NotFoundError:  # imported by an older version
        make = user_profiles if kind == "user" else item_profiles
        return make(load_dataset(ws, run))
