"""Files of runs: tables as Parquet, tensors as safetensors, each hashed and whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.files import TensorFile, atomic_write, load_tensors, save_tensors, sha256_file
from puma_engine.store.records import checked_file_name, now, plain
from puma_engine.store.runs import Runs

if TYPE_CHECKING:
    import pandas as pd

GROUP = 1 << 16
_BARRED = "The file {} may not be read by the user who runs this"
# Files whose hash this process has compared: path, size and time of the last change.
_SEEN: set[tuple[str, int, int]] = set()


class Artifacts(Runs):
    """The part of a workspace that keeps files."""

    def put_table(self, run_id: str, name: str, frame: pd.DataFrame) -> None:
        """Keep a frame (its index is dropped) as a Parquet file of a running run."""

        def write(path: Path) -> None:
            # Small groups, so that the rows of one user are found without reading all others.
            atomic_write(
                path,
                lambda temporary: frame.to_parquet(temporary, index=False, row_group_size=GROUP),
            )

        self._put(run_id, name, "parquet", len(frame), write)

    def get_table(
        self,
        run_id: str,
        name: str,
        *,
        where: Mapping[str, Sequence[Any]] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Read a frame back; raises NotFoundError, or StoreError for a damaged file.

        where: for some columns the values that are wanted; other rows are not kept in memory.
        columns: those to read, all of them if not told.
        """
        import pandas as pd

        wanted = [(column, "in", list(values)) for column, values in (where or {}).items()]
        path = self._whole_file(run_id, name, "parquet")
        names = None if columns is None else list(columns)
        return pd.read_parquet(path, columns=names, filters=wanted or None)

    def put_tensors(
        self,
        run_id: str,
        name: str,
        arrays: Mapping[str, np.ndarray],
        ids: Sequence[str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep arrays as a safetensors file of a running run.

        ids: the user of each row, for the arrays that have as many rows as there are ids.
        """
        users = None if ids is None else [str(one) for one in ids]
        if users is not None:
            _check_ids(name, users, arrays)
        header = {
            "ids": users,
            "meta": None if meta is None else plain(meta, "metadata"),
        }
        rows = None if users is None else len(users)
        write: Callable[[Path], None] = lambda path: save_tensors(path, arrays, header)
        self._put(run_id, name, "safetensors", rows, write)

    def get_tensors(
        self, run_id: str, name: str
    ) -> tuple[dict[str, np.ndarray], list[str] | None, dict[str, Any] | None]:
        """Read arrays, the user ids of their rows, and metadata back."""
        arrays, header = load_tensors(self._whole_file(run_id, name, "safetensors"))
        return arrays, header["ids"], header["meta"]

    def open_tensors(self, run_id: str, name: str) -> TensorFile:
        """Return the file of `get_tensors` for reading in parts; its meta holds ids and meta."""
        return TensorFile(self._whole_file(run_id, name, "safetensors"))

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """Return the files of a run: name, format, file, sha256, bytes, rows, created."""
        return self.query(
            "SELECT name, format, file, sha256, bytes, rows, created FROM artifacts"
            " WHERE run_id = ? ORDER BY name",
            [self._get(run_id).id],
        )

    def _put(
        self,
        run_id: str,
        name: str,
        form: str,
        rows: int | None,
        write: Callable[[Path], None],
    ) -> None:
        checked_file_name(name)
        self._running(run_id)
        # A new file each time: a row never points to content that it does not describe.
        path = self.folder(run_id) / f"{name}.{secrets.token_hex(4)}.{form}"
        try:
            write(path)
            before = self._record(run_id, name, form, rows, path)
        except StoreError:
            path.unlink(missing_ok=True)
            raise
        except Exception as error:
            path.unlink(missing_ok=True)
            raise StoreError(f"The {name} of run {run_id} cannot be written: {error}") from error
        if before is not None:
            before.unlink(missing_ok=True)

    def _record(
        self, run_id: str, name: str, form: str, rows: int | None, path: Path
    ) -> Path | None:
        created = now()
        values = [
            run_id,
            name,
            form,
            path.name,
            sha256_file(path),
            path.stat().st_size,
            rows,
            created,
        ]
        # Whoever writes the file later gives it another time than that of this record.
        os.utime(path, ns=(_stamp(created), _stamp(created)))
        with self.transaction() as db:
            self._running(run_id)
            old = self.query(
                "SELECT file FROM artifacts WHERE run_id = ? AND name = ?",
                [run_id, name],
            )
            db.execute(
                "INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        return self.folder(run_id) / old[0]["file"] if old else None

    def _whole_file(self, run_id: str, name: str, form: str) -> Path:
        run = self._get(run_id)
        found = self.query(
            "SELECT file, sha256, bytes, created FROM artifacts WHERE run_id = ? AND name = ?"
            " AND format = ?",
            [run.id, name, form],
        )
        if not found:
            raise NotFoundError(
                f"The {run.kind} run {run.name!r} ({run.id}) has no {form} file named {name!r}."
            )
        path = self.folder(run.id) / checked_file_name(found[0]["file"])
        if _is_barred(path):
            raise StoreError(f"{_BARRED.format(path)}; change its owner or its rights.")
        problem = self._problem(run.id, found[0])
        if problem:
            raise StoreError(f"{problem}; restore it from a backup or delete the run and redo it.")
        return path

    def _problem(self, run_id: str, row: Mapping[str, Any], *, again: bool = False) -> str | None:
        """Say what is wrong with a file.

        Its hash is compared again if told so, else if its time is not that of its record (it
        was copied, or written to), once a process.
        """
        path = self.folder(run_id) / checked_file_name(row["file"])
        if _is_barred(path):
            return _BARRED.format(path)
        try:
            facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"The file {path} is missing"
        if facts.st_size != row["bytes"]:
            return f"The file {path} has {facts.st_size} bytes, not {row['bytes']}: it was changed"
        seen = (str(path), facts.st_size, facts.st_mtime_ns)
        untouched = facts.st_mtime_ns == _stamp(row["created"]) or seen in _SEEN
        if again or not untouched:
            if sha256_file(path) != row["sha256"]:
                return f"The content of {path} was changed since it was written"
            _SEEN.add(seen)
        return None

    def verify(self) -> list[str]:
        """Compare everything with what was recorded; return one sentence a problem."""
        problems = [
            f"The database {self.path} is damaged: {row['quick_check']}."
            for row in self.query("PRAGMA quick_check")
            if row["quick_check"] != "ok"
        ]
        if self.query("PRAGMA foreign_key_check"):
            problems.append(f"The database {self.path} has rows that belong to nothing.")
        for row in self.query("SELECT * FROM artifacts ORDER BY run_id"):
            problem = self._problem(row["run_id"], row, again=True)
            if problem:
                problems.append(f"{problem} (run {row['run_id']}).")
        known = {row["id"] for row in self.query("SELECT id FROM runs")}
        folders = sorted((self.root / "runs").glob("*"))
        return problems + [
            f"The folder {folder} belongs to no run; it can be removed."
            for folder in folders
            if folder.name not in known
        ]


def _is_barred(path: Path) -> bool:
    """Say whether there may be a file that this process must not read."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK)


def _stamp(created: str) -> int:
    """The time of a record in nanoseconds."""
    since = datetime.fromisoformat(created) - datetime.fromtimestamp(0, UTC)
    return since // timedelta(microseconds=1) * 1000


def _check_ids(name: str, ids: list[str], arrays: Mapping[str, np.ndarray]) -> None:
    if len(set(ids)) != len(ids):
        raise StoreError(f"The ids of {name} must differ; {len(ids) - len(set(ids))} repeat.")
    if not any(array.ndim and len(array) == len(ids) for array in arrays.values()):
        shapes = ", ".join(f"{key} {tuple(array.shape)}" for key, array in arrays.items())
        raise StoreError(
            f"{len(ids)} ids came for {name}, but no array has as many rows: {shapes}."
        )
