"""The workspace: a folder with puma.db and the files of runs."""

from __future__ import annotations

import os
from pathlib import Path

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.store.artifacts import Artifacts
from puma_engine.store.database import DATABASE
from puma_engine.store.file_hashes import FileHashes
from puma_engine.store.metrics import Metrics

VARIABLE = "PUMA_WORKSPACE"
DEFAULT = "workspace"


class Workspace(Artifacts, Metrics, FileHashes):
    """All runs with their files and metrics, and the job queue, in one folder.

    Use `Workspace.open`. One object may be used by several threads, and one folder by
    several processes; each thread has a connection of its own.
    """

    @classmethod
    def open(cls, path: Path | str | None = None, *, create: bool = False) -> Workspace:
        """Open a workspace folder (default: PUMA_WORKSPACE, else ./workspace).

        Its database is brought up to date. Raises NotFoundError if there is none (unless
        create), and StoreError if it cannot be read or was used by a newer version.
        """
        root = locate(path)
        if not has_database(root) and not create:
            raise NotFoundError(
                f"There is no workspace at {root}; make one with `puma data import`, or name another "
                f"with --workspace or {VARIABLE}."
            )
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The workspace {root} cannot be made ({error.strerror}); choose a folder that can "
                "be written."
            ) from error
        ws = cls(root)
        try:
            ws.update_schema()
        except BaseException:
            ws.close()
            raise
        return ws


def locate(path: Path | str | None) -> Path:
    """Return the folder of a workspace: the given one, PUMA_WORKSPACE, or ./workspace."""
    return Path(path or os.environ.get(VARIABLE) or DEFAULT).expanduser().resolve()


def has_database(root: Path) -> bool:
    """Return whether a folder holds a workspace's database. Raises StoreError if it is unreadable."""
    file = root / DATABASE
    try:
        size = file.stat().st_size if file.is_file() else None
        emptied = size == 0 and any((root / "runs").glob("*"))
    except PermissionError as error:
        raise StoreError(
            f"The workspace {root} may not be read by the user who runs this; change its owner or "
            "its rights."
        ) from error
    if emptied:
        # SQLite would take it for a new database, and every file beside it would be unknown.
        raise StoreError(
            f"The database {file} is empty but there are runs beside it; restore it from a backup."
        )
    return size is not None
