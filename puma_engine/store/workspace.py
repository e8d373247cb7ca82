"""The workspace: a folder with puma.db and the files of runs."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.files import make_folder
from puma_engine.store.artifacts import Artifacts
from puma_engine.store.database import DATABASE
from puma_engine.store.file_hashes import FileHashes
from puma_engine.store.metrics import Metrics
from puma_engine.store.records import RUN_ID

_log = logging.getLogger("puma_engine.store")
VARIABLE = "PUMA_WORKSPACE"
DEFAULT = "workspace"
# Folder of cached keys and values of items, see `puma_engine.backbone.prefix_store`.
ITEM_CACHE = "cache/items"


class Workspace(Artifacts, Metrics, FileHashes):
    """All runs with their files and metrics, and the job queue, in one folder.

    Use `Workspace.open`. One object may be used by several threads, and one folder by
    several processes; each thread has a connection of its own.
    """

    @classmethod
    def open(cls, path: Path | str | None = None, *, create: bool = False) -> Workspace:
        """Open a workspace folder (default: PUMA_WORKSPACE, else ./workspace).

        The schema of its database is updated. A folder that cannot be written is opened for
        viewing. Raises NotFoundError if it does not exist (unless create), and StoreError if it
        cannot be read, was used by a newer version, or has lost its database.
        """
        root = locate(path)
        if not has_database(root) and not create:
            raise NotFoundError(
                f"There is no workspace at {root}; make one with `puma data import`, or name another "
                f"with --workspace or {VARIABLE}."
            )
        try:
            _make_private(root)
        except OSError as error:
            raise StoreError(
                f"The workspace {root} cannot be made ({error.strerror}); choose a folder that can "
                "be written."
            ) from error
        ws = cls(root)
        try:
            if may_be_written(root):
                ws.update_schema()
                ws.seal_runs()
            else:
                ws.open_for_viewing()
        except BaseException:
            ws.close()
            raise
        return ws

    def seal_runs(self) -> None:
        """Store missing checksums and records of finished runs, which earlier versions did not write.

        A run that fails is logged and skipped: a full disk or a damaged table must not prevent
        opening the workspace, or the records of other runs.
        """
        missing = "SELECT id FROM runs WHERE status = 'finished' AND checksum IS NULL"
        with suppress(StoreError):
            for row in self.query(missing):
                try:
                    with self.transaction():
                        if self.query(f"{missing} AND id = ?", [row["id"]]):
                            self.seal(row["id"])
                except StoreError as error:
                    _log.warning("The run %s has no record yet: %s", row["id"], error)


def _make_private(root: Path) -> None:
    """Make the folder of a workspace, accessible to its owner only.

    An existing empty folder keeps the rights of its group; others lose access. A folder with
    content is not changed.
    """
    if not root.is_dir():
        make_folder(root, 0o700)
        return
    # The rights of another user's folder cannot be changed.
    with suppress(OSError):
        if not any(root.iterdir()):
            root.chmod(root.stat().st_mode & 0o2770)


def locate(path: Path | str | None) -> Path:
    """Return the folder of a workspace: the given one, PUMA_WORKSPACE, or ./workspace."""
    return Path(path or os.environ.get(VARIABLE) or DEFAULT).expanduser().resolve()


def has_database(root: Path) -> bool:
    """Return whether a folder holds a workspace's database. Raises StoreError if it is unreadable."""
    file = root / DATABASE
    try:
        size = file.stat().st_size if file.is_file() else None
        lost = not size and any(RUN_ID.fullmatch(run.name) for run in (root / "runs").glob("*"))
    except PermissionError as error:
        raise StoreError(
            f"The workspace {root} may not be read by the user who runs this; change its owner or "
            "its rights."
        ) from error
    if lost:
        # A new database would not have the runs of the files beside it.
        state = "missing" if size is None else "empty"
        raise StoreError(
            f"The database {file} is {state}, but there are runs beside it; `puma doctor --rebuild` "
            "makes it again from their records, or restore it from a backup."
        )
    return size is not None


def may_be_written(root: Path) -> bool:
    """Return whether this user can write a workspace's folder and database; False on a read-only disk."""
    file = root / DATABASE
    effective = os.access in os.supports_effective_ids
    paths = (root, file) if file.exists() else (root,)
    return all(os.access(path, os.W_OK, effective_ids=effective) for path in paths)
