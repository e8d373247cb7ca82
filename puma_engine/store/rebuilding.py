"""Rebuild the database of a workspace from the records of its runs."""

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.store import locks
from puma_engine.store.database import DATABASE
from puma_engine.store.run_records import (
    ARTIFACT_COLUMNS,
    METRIC_COLUMNS,
    RECORD,
    SEALED,
    read_record,
)
from puma_engine.store.workspace import Workspace, locate

_OTHERS = ("name", "note", "error", "checksum", "results_checksum")


@dataclass
class RebuildResult:
    """The result of `rebuild`: ids of restored runs, problems, and the path of the old database.

    set_aside: the new path of a database that could not be read, or None.
    """

    restored: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    set_aside: Path | None = None


def rebuild(path: Path | str | None = None) -> RebuildResult:
    """Restore the rows of finished runs in a workspace's database from runs/<id>/run.json.

    A missing or unreadable database is created anew; in a working one, only missing and damaged
    runs are restored. Jobs and unfinished runs are not restored. Raises NotFoundError without any
    record, StoreError while a process works on a run.
    """
    root = locate(path)
    records = sorted((root / "runs").glob(f"*/{RECORD}"))
    if not records and not (root / DATABASE).is_file():
        raise NotFoundError(f"There are no runs with a record ({RECORD}) at {root}.")
    if any(locks.is_held(lock) for lock in (root / "locks").glob("*.lock")):
        raise StoreError(f"A process works on a run of {root}; wait for it to end, or cancel it.")
    result = RebuildResult()
    if not _is_intact(root / DATABASE):
        result.set_aside = _set_aside(root / DATABASE)
    ws = Workspace(root)
    ws.update_schema()
    waiting: dict[str, dict[str, Any]] = {}
    for file in records:
        try:
            record = read_record(file)
        except StoreError as error:
            result.problems.append(str(error))
            continue
        run_id = record["run"]["id"]
        healthy = {run.id for run in ws.runs(status="finished")}
        if run_id not in healthy or not ws.results_are_intact(run_id):
            waiting[run_id] = record
    known: set[str] = set()
    while waiting:
        known = {run.id for run in ws.runs(status="finished")}
        ready = [i for i, record in waiting.items() if set(record["inputs"].values()) <= known]
        if not ready:
            break
        for run_id in ready:
            restore_run(ws, waiting.pop(run_id))
            result.restored.append(run_id)
    for run_id, record in waiting.items():
        lost = sorted(set(record["inputs"].values()) - known)
        result.problems.append(
            f"The run {run_id} ({record['run']['name']}) was made from {', '.join(lost)}, which has no "
            "record; restore that one from a backup."
        )
    for run_id in result.restored:
        try:
            restore_user_metrics(ws, run_id)
        except StoreError as error:
            result.problems.append(str(error))
    ws.close()
    return result


def _is_intact(database: Path) -> bool:
    if not database.is_file() or not database.stat().st_size:
        return False
    try:
        connection = sqlite3.connect(database)
        try:
            (answer,) = connection.execute("PRAGMA quick_check").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"The database {database} cannot be read now ({error}); close what uses it and try again."
        ) from error
    except sqlite3.DatabaseError:
        return False
    return bool(answer == "ok")


def _set_aside(database: Path) -> Path | None:
    """Rename a database and its log in the same folder; return the new name."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = database.with_name(f"{database.name}.damaged-{stamp}")
    moved = None
    for suffix in ("", "-wal", "-shm"):
        file = database.with_name(database.name + suffix)
        if file.is_file():
            file.rename(target.with_name(target.name + suffix))
            moved = target
    return moved


def restore_run(ws: Workspace, record: dict[str, Any]) -> None:
    """Write the rows of a run from its record, in one transaction."""
    row, run_id = record["run"], record["run"]["id"]
    known = set(ws.db.table("user_metrics").columns_dict)
    lines = record.get("user_metrics", [])
    if any(not set(line) <= known or line.get("run_id") != run_id for line in lines):
        # The checksums do not cover these rows. Their keys become names of columns, so they are checked.
        raise StoreError(
            f"The record of the run {run_id} has metrics of users that are unknown here."
        )
    columns = [*SEALED, *_OTHERS]
    with ws.transaction() as db:
        db.execute(
            f"INSERT INTO runs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            " ON CONFLICT (id) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in columns if name != "id"),
            [row.get(name) for name in columns],
        )
        for table, names, rows in (
            ("run_inputs", ("role", "input_id"), _pairs(record["inputs"])),
            ("artifacts", ARTIFACT_COLUMNS, record["artifacts"]),
            ("metrics", METRIC_COLUMNS, record["metrics"]),
        ):
            db.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
            db.conn.executemany(
                f"INSERT INTO {table} (run_id, {', '.join(names)}) VALUES (?{', ?' * len(names)})",
                ([run_id, *(line[name] for name in names)] for line in rows),
            )
        for line in lines:
            db.execute(
                f"INSERT OR REPLACE INTO user_metrics ({', '.join(line)})"
                f" VALUES ({', '.join('?' * len(line))})",
                list(line.values()),
            )
        ws.fill_details(ws.run(run_id))


def _pairs(inputs: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "input_id": run_id} for role, run_id in inputs.items()]


def restore_user_metrics(ws: Workspace, run_id: str) -> None:
    """Read the metrics of each user from the file of an evaluation, if it has one."""
    if not any(file["name"] == "user_metrics" for file in ws.artifact_rows(run_id)):
        return
    frame = ws.get_table(run_id, "user_metrics")
    with ws.transaction():
        ws.write_user_metrics(run_id, frame)
