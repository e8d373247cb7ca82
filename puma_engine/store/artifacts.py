"""Files of runs: tables as Parquet and tensors as safetensors, written atomically and hashed."""

import functools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.files import TensorFile, atomic_write, load_tensors, save_tensors, sha256_file
from puma_engine.store.records import checked_file_name, now, plain
from puma_engine.store.run_records import RECORD, damaged_results, read_record
from puma_engine.store.runs import Runs

# Files whose hash this process has compared: path, size and time of the last change. Each process compares
# a file once, since a disk that loses bits does not change the time.
_VERIFIED: set[tuple[str, int, int]] = set()


class Artifacts(Runs):
    """The part of a workspace that stores files."""

    def put_table(self, run_id: str, name: str, frame: pd.DataFrame) -> None:
        """Store a frame (its index is dropped) as a Parquet file of a running run."""
        # Row groups are small, so that reading one user skips most of the others.
        write = functools.partial(frame.to_parquet, index=False, row_group_size=1 << 16)
        self._put(run_id, name, "parquet", len(frame), lambda path: atomic_write(path, write))

    def rewrite_table(
        self, run_id: str, name: str, frame: pd.DataFrame, *, compression: str = "snappy"
    ) -> None:
        """Replace a table of a finished run, for the erasure of a user."""
        write = functools.partial(
            frame.to_parquet, index=False, row_group_size=1 << 16, compression=compression
        )
        self._put(
            run_id,
            name,
            "parquet",
            len(frame),
            lambda path: atomic_write(path, write),
            finished=True,
        )

    def rewrite_tensors(
        self,
        run_id: str,
        name: str,
        arrays: Mapping[str, np.ndarray],
        ids: Sequence[str] | None,
        meta: Mapping[str, Any] | None,
    ) -> None:
        """Replace tensors of a finished run, for the erasure of a user."""
        header = {"ids": None if ids is None else list(ids), "meta": plain(meta, "metadata")}
        self._put(
            run_id,
            name,
            "safetensors",
            None if ids is None else len(ids),
            lambda path: save_tensors(path, arrays, header),
            finished=True,
        )

    def drop_artifact(self, run_id: str, name: str) -> None:
        """Remove a file of a finished run, for an archive that leaves it out."""
        with self.transaction() as db:
            self._get_undamaged(run_id)
            files = [row["file"] for row in self.artifact_rows(run_id) if row["name"] == name]
            db.execute("DELETE FROM artifacts WHERE run_id = ? AND name = ?", [run_id, name])
            self.seal(run_id)
        for file in files:
            (self.folder(run_id) / file).unlink(missing_ok=True)

    def get_table(
        self,
        run_id: str,
        name: str,
        *,
        where: Mapping[str, Sequence[Any]] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Read a frame. Raises NotFoundError, or StoreError for a damaged file.

        where: allowed values by column; other rows are skipped while reading. columns: the columns
        to read (default: all).
        """
        filters = [(column, "in", list(values)) for column, values in (where or {}).items()]
        path = self._verified_file(run_id, name, "parquet")
        return pd.read_parquet(path, columns=columns and list(columns), filters=filters or None)

    def put_tensors(
        self,
        run_id: str,
        name: str,
        arrays: Mapping[str, np.ndarray],
        ids: Sequence[str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Store arrays as a safetensors file of a running run.

        ids: the user of each row, for arrays with as many rows as ids. Raises StoreError if there
        is no such array, or an id repeats.
        """
        users, rows = None, None
        if ids is not None:
            users, rows = [str(user) for user in ids], len(ids)
            if len(set(users)) != rows:
                raise StoreError(f"The ids of {name} must differ; {rows - len(set(users))} repeat.")
            if not any(array.ndim and len(array) == rows for array in arrays.values()):
                shapes = ", ".join(f"{key} {tuple(array.shape)}" for key, array in arrays.items())
                raise StoreError(
                    f"{rows} ids were given for {name}, but no array has as many rows: {shapes}."
                )
        header = {"ids": users, "meta": plain(meta, "metadata")}
        self._put(
            run_id, name, "safetensors", rows, lambda path: save_tensors(path, arrays, header)
        )

    def get_tensors(
        self, run_id: str, name: str
    ) -> tuple[dict[str, np.ndarray], list[str] | None, dict[str, Any] | None]:
        """Read arrays, ids of rows, and metadata. Raises NotFoundError, StoreError if damaged."""
        arrays, header = load_tensors(self._verified_file(run_id, name, "safetensors"))
        return arrays, header["ids"], header["meta"]

    def open_tensors(self, run_id: str, name: str) -> TensorFile:
        """Return the file of `get_tensors` for reading in parts; its metadata has the keys ids and meta."""
        return TensorFile(self._verified_file(run_id, name, "safetensors"))

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """Return the files of a run: name, format, file, sha256, bytes, rows, created."""
        return self.query(
            "SELECT name, format, file, sha256, bytes, rows, created FROM artifacts"
            " WHERE run_id = ? ORDER BY name",
            [self._get(run_id).id],
        )

    def unrecorded_files(self, run_id: str) -> list[Path]:
        """Return the files in a run's folder that its rows do not name, left by killed processes."""
        recorded = {row["file"] for row in self.artifact_rows(run_id)} | {RECORD}
        return [file for file in self.folder(run_id).glob("*") if file.name not in recorded]

    def _put(
        self,
        run_id: str,
        name: str,
        suffix: str,
        rows: int | None,
        write: Callable[[Path], None],
        *,
        finished: bool = False,
    ) -> None:
        checked_file_name(name)
        check = self._get_undamaged if finished else self._check_running
        check(run_id)
        # The file has a new name each time, so that a row never points to content that it does not describe.
        path = self.folder(run_id) / f"{name}.{secrets.token_hex(4)}.{suffix}"
        try:
            write(path)
            size = path.stat().st_size
            values = [run_id, name, suffix, path.name, sha256_file(path), size, rows, now()]
            with self.transaction() as db:
                check(run_id)
                replaced = self.query(
                    "SELECT file FROM artifacts WHERE run_id = ? AND name = ?", [run_id, name]
                )
                db.execute(f"INSERT OR REPLACE INTO artifacts VALUES (?{', ?' * 7})", values)
                if finished:
                    self.seal(run_id)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise
            raise StoreError(f"The {name} of run {run_id} cannot be written: {error}") from error
        for row in replaced:
            (self.folder(run_id) / row["file"]).unlink(missing_ok=True)

    def _verified_file(self, run_id: str, name: str, suffix: str) -> Path:
        run = self._get(run_id)
        if self.runs_with_damaged_results(run.id):
            raise StoreError(damaged_results(run.id))
        rows = self.query(
            "SELECT file, sha256, bytes, created FROM artifacts WHERE run_id = ? AND name = ?"
            " AND format = ?",
            [run.id, name, suffix],
        )
        if not rows and name in (run.published or {}).get("left_out", ()):
            raise NotFoundError(
                f"The published run {run.name!r} ({run.id}) has no {name}, which its archive "
                "leaves out; repeat the run here to have it (puma runs show says how it was made)."
            )
        if not rows:
            raise NotFoundError(
                f"The {run.kind} run {run.name!r} ({run.id}) has no {suffix} file named {name!r}."
            )
        path, problem, advice = self._check(run.id, rows[0])
        if problem:
            raise StoreError(f"{problem}; {advice}.")
        return path

    def _check(
        self, run_id: str, row: Mapping[str, Any], *, rehash: bool = False
    ) -> tuple[Path, str | None, str]:
        """Return the path of a file, a problem (or None), and its remedy.

        The hash is compared when a process first reads the file, when the file has changed since,
        and always with `rehash`.
        """
        path = self.folder(run_id) / checked_file_name(row["file"])
        advice = "restore it from a backup or delete the run and redo it"
        try:
            stat = path.stat()
            if not os.access(path, os.R_OK):
                raise PermissionError
        except PermissionError:
            problem = f"The file {path} may not be read by the user who runs this"
            return path, problem, "change its owner or its rights"
        except OSError:
            return path, f"The file {path} is missing", advice
        if stat.st_size != row["bytes"]:
            problem = (
                f"The file {path} has {stat.st_size} bytes, not {row['bytes']}: it was changed"
            )
            return path, problem, advice
        version = (str(path), stat.st_size, stat.st_mtime_ns)
        if rehash or version not in _VERIFIED:
            if sha256_file(path) != row["sha256"]:
                return path, f"The content of {path} was changed since it was written", advice
            _VERIFIED.add(version)
        return path, None, advice

    def verify(self) -> list[str]:
        """Compare all files with their records; return one sentence for each problem."""
        problems = [
            f"The database {self.path} is damaged: {row['quick_check']}."
            for row in self.query("PRAGMA quick_check")
            if row["quick_check"] != "ok"
        ]
        if self.query("PRAGMA foreign_key_check"):
            problems.append(f"The database {self.path} has rows that belong to nothing.")
        for row in self.query("SELECT * FROM artifacts ORDER BY run_id"):
            try:
                _, problem, _ = self._check(row["run_id"], row, rehash=True)
            except StoreError as error:
                problem = str(error).removesuffix(".")
            if problem:
                problems.append(f"{problem} (run {row['run_id']}).")
        runs = self.runs()
        problems += [str(run.error) for run in runs if run.status == "damaged"]
        for run in runs:
            if run.status == "finished" and not self.results_are_intact(run.id):
                problems.append(damaged_results(run.id))
        known = {run.id for run in runs}
        for folder in sorted((self.root / "runs").glob("*")):
            if folder.name not in known:
                problems.append(
                    f"The folder {folder} holds a run that the database lacks; `puma doctor --rebuild` "
                    "adds it."
                    if (folder / RECORD).is_file()
                    else f"The folder {folder} holds files that the database does not know, and no "
                    f"{RECORD} that says what they are; look at them before you remove anything."
                )
        return problems

    def scrub(self) -> list[str]:
        """Check all that `verify` checks, and every page of the database, every record, and user metrics.

        A missing record of a finished run is written. Returns one sentence for each problem.
        """
        problems = [
            f"The database {self.path} is damaged: {row['integrity_check']}."
            for row in self.query("PRAGMA integrity_check")
            if row["integrity_check"] != "ok"
        ]
        problems += self.verify()
        for run in self.runs(status="finished"):
            problem = self._scrub_run(run.id)
            problems += [] if problem is None else [problem]
        return problems

    def _scrub_run(self, run_id: str) -> str | None:
        """Compare a run with its record and its metrics of users; return the problem, if any.

        A missing record is written again if the rows of the run are intact.
        """
        try:
            record = read_record(self.record_path(run_id))
            (row,) = self.query("SELECT checksum FROM runs WHERE id = ?", [run_id])
            if record["run"]["checksum"] != row["checksum"]:
                raise StoreError(
                    f"The record {self.record_path(run_id)} is not that of the run in the database."
                )
            if any(file["name"] == "user_metrics" for file in self.artifact_rows(run_id)):
                self._compare_user_metrics(run_id)
        except StoreError as error:
            if self.record_path(run_id).is_file() or self.read_only:
                return str(error)
            if not self.results_are_intact(run_id):
                return None
            try:
                with self.transaction():
                    self.seal(run_id)
            except StoreError as failure:
                return f"The run {run_id} has no record: {failure}"
        return None

    def _compare_user_metrics(self, run_id: str) -> None:
        """Raise StoreError if the metrics of users in the database are not those of their file."""
        stored = self.get_table(run_id, "user_metrics")
        names = ", ".join(f'"{name}"' for name in stored.columns)
        rows = self.query(
            f"SELECT {names} FROM user_metrics WHERE run_id = ? ORDER BY user_id", [run_id]
        )
        values = pd.DataFrame(rows, columns=stored.columns).set_index("user_id")
        file = stored.set_index("user_id").sort_index()
        is_equal = values.index.equals(file.index.astype(values.index.dtype)) and np.allclose(
            values.to_numpy(float), file.to_numpy(float), rtol=1e-6, equal_nan=True
        )
        if not is_equal:
            raise StoreError(
                f"The metrics of users of the run {run_id} in the database are not those of its file; "
                "restore the database from a backup, or delete the run and redo it."
            )
