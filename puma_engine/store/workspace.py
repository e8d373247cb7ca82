"""The workspace: a folder with puma.db and the files of runs."""

from __future__ import annotations

from pathlib import Path

from puma_engine.store.artifacts import Artifacts
from puma_engine.store.base import prepare
from puma_engine.store.scores import Scores


class Workspace(Artifacts, Scores):
    """Everything that was done, kept in one folder.

    Use `Workspace.open`. One object may be used by several threads, and one folder by
    several processes; each thread has a connection of its own.
    """

    @classmethod
    def open(cls, path: Path | str | None = None, *, create: bool = False) -> Workspace:
        """Open a workspace folder (default: PUMA_WORKSPACE, else ./workspace).

        Its database is brought up to date. Raises StoreError if there is none (unless
        create), or if it was used by a newer version.
        """
        return cls(prepare(path, create))
