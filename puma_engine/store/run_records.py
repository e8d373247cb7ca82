"""The record of a finished run beside its files, and its checksums.

runs/<run id>/run.json has the database rows of a finished run. A lost or damaged database is
rebuilt from these records.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from puma_engine.config import stable_hash
from puma_engine.errors import StoreError
from puma_engine.files import atomic_write, parse_json, read_json, write_json
from puma_engine.store.database import WorkspaceDatabase
from puma_engine.store.records import KINDS

RECORD = "run.json"
FORMAT = 1
# Columns of a finished run that never change and are covered by its checksum. Name and note may change.
SEALED = (
    *("id", "kind", "status", "config", "seed", "versions", "device", "created", "started"),
    *("finished", "seconds", "cost", "summary"),
)
ARTIFACT_COLUMNS = ("name", "format", "file", "sha256", "bytes", "rows", "created")
METRIC_COLUMNS = ("method", "split", "metric", "value", "low", "high", "n")

# Database, run and checksum of runs whose rows this process has compared with their checksum.
_WHOLE: set[tuple[str, str, str]] = set()


def row_checksum(row: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the checksum of a run's row in the database and of its inputs."""
    return _checksum([[row[name] for name in SEALED], sorted(inputs.items())])


def results_checksum(
    artifacts: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]
) -> str:
    """Return the checksum of the rows of a run's files and of its pooled metrics."""
    files = sorted([row[name] for name in ARTIFACT_COLUMNS] for row in artifacts)
    return _checksum([files, [[row[name] for name in METRIC_COLUMNS] for row in metrics]])


def _checksum(values: Any) -> str:
    # In Python the text of a float determines it exactly.
    return hashlib.sha256(repr(values).encode()).hexdigest()[:32]


def damaged_results(run_id: str) -> str:
    """Return the error sentence for a run whose rows of files or metrics changed."""
    return (
        f"The rows of the run {run_id} in the database are damaged (its files or metrics); `puma "
        "doctor --rebuild` restores them from the record beside its files."
    )


class RunRecords(WorkspaceDatabase):
    """The part of a workspace that writes and reads the records of runs."""

    def record_path(self, run_id: str) -> Path:
        """Return the file of a run's record."""
        return self.folder(run_id) / RECORD

    def inputs_of(self, run_id: str) -> dict[str, str]:
        """Return the inputs of a run by role."""
        rows = self.query("SELECT role, input_id FROM run_inputs WHERE run_id = ?", [run_id])
        return {row["role"]: row["input_id"] for row in rows}

    def artifact_rows(self, run_id: str) -> list[dict[str, Any]]:
        """Return the rows of a run's files."""
        columns = ", ".join(ARTIFACT_COLUMNS)
        return self.query(
            f"SELECT {columns} FROM artifacts WHERE run_id = ? ORDER BY name", [run_id]
        )

    def metric_rows(self, run_id: str) -> list[dict[str, Any]]:
        """Return the rows of a run's pooled metrics."""
        columns = ", ".join(METRIC_COLUMNS)
        return self.query(f"SELECT {columns} FROM metrics WHERE run_id = ? ORDER BY id", [run_id])

    def results_are_intact(self, run_id: str) -> bool:
        """Return whether the rows of a run's files and metrics match their checksum."""
        rows = self.query("SELECT results_checksum FROM runs WHERE id = ?", [run_id])
        stored = rows[0]["results_checksum"] if rows else None
        if stored is None:
            return True
        return bool(
            stored == results_checksum(self.artifact_rows(run_id), self.metric_rows(run_id))
        )

    def runs_with_damaged_results(self, run_id: str | None = None) -> list[str]:
        """Return the ids of runs with damaged rows of files or metrics, among all runs or of one.

        A process compares each run with its checksum once.
        """
        chosen = "results_checksum NOT NULL" + (" AND id = ?" if run_id else "")
        sql = f"SELECT id, results_checksum FROM runs WHERE {chosen}"
        damaged = []
        for row in self.query(sql, [run_id] if run_id else []):
            sealed = (str(self.path), row["id"], row["results_checksum"])
            if sealed in _WHOLE:
                continue
            if self.results_are_intact(row["id"]):
                _WHOLE.add(sealed)
            else:
                damaged.append(row["id"])
        return damaged

    def seal(self, run_id: str) -> None:
        """Store the checksums of a finished run, and its record beside its files.

        Called in the transaction that finishes a run or changes its files.
        """
        (row,) = self.query("SELECT * FROM runs WHERE id = ?", [run_id])
        inputs, files = self.inputs_of(run_id), self.artifact_rows(run_id)
        metrics = self.metric_rows(run_id)
        sums = [row_checksum(row, inputs), results_checksum(files, metrics)]
        self.db.execute(
            "UPDATE runs SET checksum = ?, results_checksum = ? WHERE id = ?", [*sums, run_id]
        )
        row |= {"checksum": sums[0], "results_checksum": sums[1]}
        record: dict[str, Any] = {"format": FORMAT, "run": row, "inputs": inputs}
        record |= {"artifacts": files, "metrics": metrics}
        if not any(file["name"] == "user_metrics" for file in files):
            record["user_metrics"] = self.query(
                "SELECT * FROM user_metrics WHERE run_id = ? ORDER BY user_id", [run_id]
            )
        path = self.record_path(run_id)
        before = path.read_bytes() if path.is_file() else None
        self.on_rollback(lambda: _restore_record(path, before))
        write_json(path, record)


def _restore_record(path: Path, before: bytes | None) -> None:
    """Restore the earlier content of a record; remove it if that fails, since `scrub` writes it anew."""
    with suppress(StoreError):
        if before is not None:
            atomic_write(path, lambda temporary: temporary.write_bytes(before))
            return
    with suppress(OSError):
        path.unlink()


def read_record(path: Path) -> dict[str, Any]:
    """Read a run's record and check it against its checksums and its id.

    Raises StoreError for a record that is damaged, or was made by a newer version.
    """
    advice = "restore it from a backup"
    record = read_json(path, advice)
    if record.get("format") != FORMAT:
        raise StoreError(
            f"The record {path} has the format {record.get('format')}, this version reads {FORMAT}; "
            "update this program."
        )
    try:
        row, inputs = record["run"], record["inputs"]
        content = {"kind": row["kind"], "config": parse_json(row["config"]), "inputs": inputs}
        key = stable_hash(content if row["seed"] is None else content | {"seed": row["seed"]})
        intact = (
            row["id"] == key == path.parent.name
            and row["kind"] in KINDS
            and row["checksum"] == row_checksum(row, inputs)
            and row["results_checksum"] == results_checksum(record["artifacts"], record["metrics"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise StoreError(f"The record {path} was changed since it was written; {advice}.")
    return record
