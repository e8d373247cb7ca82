"""Back up a workspace while it is in use, check the copy, and restore it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.files import new_folder
from puma_engine.store.database import DATABASE, plain_errors
from puma_engine.store.run_records import RECORD
from puma_engine.store.workspace import Workspace, has_database, locate

# Folders without files of finished runs: checkpoints, locks, uploads, a socket, cached items.
LEFT_OUT = ("runs", "work", "locks", "uploads", "whatif", "cache")


@dataclass(frozen=True)
class WorkspaceCopy:
    """A copy of a workspace. problems: the result of `Workspace.verify` for the copy."""

    folder: Path
    runs: int
    bytes: int
    problems: list[str]


def backup(ws: Workspace, target: Path) -> WorkspaceCopy:
    """Copy a workspace to a new folder, also while jobs run.

    A consistent state of the database is copied first, then the files of runs that are finished in
    it. Checkpoints and uploads are left out. Raises StoreError if the folder exists or cannot be
    written.
    """
    target = target.expanduser().resolve()
    with _new_copy(target) as folder:
        database = sqlite3.connect(folder / DATABASE)
        try:
            with plain_errors(ws.path):
                ws.db.conn.backup(database)
        finally:
            database.close()
        snapshot = Workspace(folder)
        with snapshot.transaction() as db:
            # An unfinished run deletes its files when it starts again.
            db.execute(
                "DELETE FROM artifacts WHERE run_id IN (SELECT id FROM runs WHERE status != 'finished')"
            )
        for row in snapshot.query("SELECT id FROM runs WHERE status = 'finished'"):
            copy_run(ws, snapshot, row["id"])
        for path in ws.root.iterdir():
            if path.name in LEFT_OUT or path.name.startswith((DATABASE, "puma.lock", ".")):
                continue
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            elif path.is_file():
                shutil.copy2(path, folder / path.name)
        snapshot.close()
    return _describe_copy(target)


def copy_run(ws: Workspace, snapshot: Workspace, run_id: str) -> None:
    """Copy the files and the record of a run that is in the snapshot's database."""
    names = [row["file"] for row in snapshot.artifact_rows(run_id)] + [RECORD]
    folder = snapshot.folder(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        # The check of the copy reports a missing or damaged file.
        if (source := ws.folder(run_id) / name).is_file():
            shutil.copy2(source, folder / name)


def restore(source: Path, path: Path | str | None = None) -> WorkspaceCopy:
    """Copy a backup to the path of a workspace, which must not exist.

    path: the workspace (default: as for `Workspace.open`). Raises NotFoundError if the backup is no
    workspace, StoreError if the path exists.
    """
    source, target = source.expanduser().resolve(), locate(path)
    if not has_database(source):
        raise NotFoundError(f"There is no workspace at {source}; give a folder of puma backup.")
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    with _new_copy(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return _describe_copy(target)


@contextmanager
def _new_copy(target: Path) -> Iterator[Path]:
    """Context manager: a temporary folder that becomes `target`. Raises StoreError for a full disk."""
    try:
        with new_folder(target) as folder:
            folder.chmod(0o700)
            yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"The copy {target} cannot be written ({reason}).") from error


def _describe_copy(folder: Path) -> WorkspaceCopy:
    ws = Workspace.open(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    copy = WorkspaceCopy(folder, len(ws.runs(status="finished")), size, ws.verify())
    ws.close()
    return copy
