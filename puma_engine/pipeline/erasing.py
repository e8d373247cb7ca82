"""Erasing one user from a workspace."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.datasets import Dataset, item_profiles, statistics
from puma_engine.errors import DataError, NotFoundError, StoreError
from puma_engine.files import TensorFile, read_json, write_json, write_text
from puma_engine.pipeline import importing_data
from puma_engine.pipeline.anchors import ARTIFACT as ANCHORS
from puma_engine.pipeline.stored_prompts import VECTORS
from puma_engine.store import Run, Workspace, locks
from puma_engine.store.database import DATABASE
from puma_engine.store.records import now, to_json

USER = "user_id"
ERASED = "[erased]"
# Tables of a data set that are computed from all of its rows.
ITEM_PROFILES = "item-profiles"
# Folder of a workspace with the plans of unfinished erasures.
PLANS = "erasing"
# Columns of the database with texts that may hold a user's id.
TEXT_COLUMNS = (
    ("runs", "error"),
    ("runs", "note"),
    ("jobs", "error"),
    ("jobs", "args"),
    ("jobs", "title"),
)


@dataclass
class Erased:
    """The report of an erasure.

    runs: names of the runs with the user in files or metrics, and these files. rows: number of
    removed rows. trained_on: runs whose adapter or head was trained on the user; these weights are
    not changed. uploads, logs: files that were removed or changed. left: unchanged files with the
    id in text, and files of no known run with the user or that cannot be read.
    """

    runs: dict[str, list[str]] = field(default_factory=dict)
    rows: int = 0
    trained_on: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass
class _Plan:
    """The plan of an erasure, stored in a file until it is completed.

    A repeated erasure reads it, since files that were changed before a failure no longer show that
    they contained the user. began: time of the start. held: number of the user's rows by run id and
    file, 0 for metrics in the database. Other fields as in `Erased`.
    """

    began: str
    reason: str | None
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    trained_on: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    def with_earlier(self, earlier: _Plan) -> _Plan:
        """Return the plan of a repeated erasure: the findings of the earlier one and the current ones."""

        def both(name: str) -> list[str]:
            return list(dict.fromkeys(getattr(earlier, name) + getattr(self, name)))

        runs = dict.fromkeys([*earlier.held, *self.held])
        return _Plan(
            earlier.began,
            earlier.reason if self.reason is None else self.reason,
            {run: earlier.held.get(run, {}) | self.held.get(run, {}) for run in runs},
            *map(both, ("trained_on", "uploads", "logs")),
        )


def erase_user(
    ws: Workspace, user: str, *, dry_run: bool = False, reason: str | None = None
) -> Erased:
    """Remove a user's rows from every run, and the id from jobs, logs and database pages.

    Runs keep their ids, and pooled metrics their values. Checkpoints of unfinished runs and uploads
    are removed, since they may hold the user. The audit table gets a line with the time, the counts
    and the reason, without the id. dry_run: change nothing. Repeated after a failure, it completes
    the erasure and returns the report of the whole. Raises NotFoundError if the user is not found;
    StoreError while jobs or runs are active, or if a file or the plan of an unfinished erasure is
    damaged.
    """
    finished = ws.runs(status="finished")
    plan = _plan(ws, finished, user, reason)
    file = _plan_file(ws, user)
    if file.is_file():
        plan = plan.with_earlier(_read_plan(file))
    if not (plan.held or plan.logs or file.is_file()):
        raise NotFoundError(f"No run and no log of {ws.root} holds the user {user!r}.")
    erased = Erased(
        {
            f"{run.name} ({run.id})": sorted(plan.held[run.id])
            for run in finished
            if run.id in plan.held
        },
        sum(rows for files in plan.held.values() for rows in files.values()),
        plan.trained_on,
        plan.uploads,
        plan.logs,
    )
    if dry_run:
        return erased
    ws.check_writable()
    if ws.query("SELECT 1 FROM jobs WHERE status IN ('queued', 'running', 'interrupted')") or any(
        locks.is_held(lock) for lock in (ws.root / "locks").glob("*.lock")
    ):
        raise StoreError(
            "Jobs are queued or running; cancel them, or wait for them to end, and try again."
        )
    damaged = ws.runs(status="damaged")
    damaged += [run for run in finished if not ws.results_are_intact(run.id)]
    if damaged:
        # Erasing rewrites records from the database, and would copy damaged rows into them.
        raise StoreError(
            f"The run {damaged[0].name} ({damaged[0].id}) is damaged in the database; run "
            "`puma doctor --rebuild` first, and then erase the user."
        )
    write_json(file, asdict(plan))
    for run in finished:
        _erase_from_run(ws, run, user, plan.held.get(run.id, {}))
        for leftover in ws.unrecorded_files(run.id):
            leftover.unlink(missing_ok=True)
    _erase_from_database(ws, user)
    for run in ws.runs():
        if run.status != "finished":
            shutil.rmtree(ws.folder(run.id), ignore_errors=True)
    # No process is at work, so these are checkpoints of interrupted runs, and of finished ones after a kill.
    for folder in (ws.root / "work").glob("*"):
        shutil.rmtree(folder, ignore_errors=True)
    for upload in erased.uploads:
        shutil.rmtree(upload, ignore_errors=True)
    for log in map(Path, erased.logs):
        if log.is_file():
            write_text(log, _remove_id(log.read_text(encoding="utf-8", errors="replace"), user))
    importing_data.forget_datasets()
    detail = {"runs": len(erased.runs), "rows": erased.rows, "reason": plan.reason}
    with ws.transaction() as db:
        db.execute("DELETE FROM audit WHERE time = ? AND action = 'erase user'", [plan.began])
        db.execute(
            "INSERT INTO audit (time, action, detail) VALUES (?, 'erase user', ?)",
            [plan.began, to_json(detail, "audit line")],
        )
    ws.compact()
    file.unlink()
    erased.left = [str(path) for path in _other_files(ws) if _mentions(path, user)]
    erased.left += [str(path) for path in _unknown_files(ws) if _may_hold(path, user)]
    return erased


def unfinished_erasures(ws: Workspace) -> list[str]:
    """Return a sentence about each erasure that failed or was killed, and was not repeated since."""
    sentences = []
    for file in sorted((ws.root / PLANS).glob("*.json")):
        try:
            began = _read_plan(file).began
        except StoreError as error:
            sentences.append(str(error))
        else:
            sentences.append(f"The erasure of a user that began at {began} did not end; repeat it.")
    return sentences


def _read_plan(file: Path) -> _Plan:
    """Read the plan of an unfinished erasure. Raises StoreError if it is damaged."""
    remedy = (
        "delete it and erase the user again: what still holds the user is removed, and the result "
        "names only that"
    )
    content = read_json(file, remedy)

    def texts(name: str) -> bool:
        value = content.get(name)
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    def rows(files: Any) -> bool:
        return isinstance(files, dict) and all(type(count) is int for count in files.values())

    held = content.get("held")
    is_complete = (
        set(content) == {item.name for item in fields(_Plan)}
        and isinstance(content["began"], str)
        and isinstance(content["reason"], str | None)
        and all(map(texts, ("trained_on", "uploads", "logs")))
        and isinstance(held, dict)
        and all(map(rows, held.values()))
    )
    if not is_complete:
        raise StoreError(
            f"The file {file}, which says what an unfinished erasure has to do, is damaged; {remedy}."
        )
    return _Plan(**content)


def _plan(ws: Workspace, finished: list[Run], user: str, reason: str | None) -> _Plan:
    """Find everything about a user in the workspace; return the plan of the erasure."""
    plan = _Plan(now(), reason)
    for run in finished:
        files = {name: rows for name, _, rows in _files_with_user(ws, run, user)}
        if ws.query("SELECT 1 FROM user_metrics WHERE run_id = ? AND user_id = ?", [run.id, user]):
            files["metrics in the database"] = 0
        if files:
            plan.held[run.id] = files
        if _was_trained_on(ws, run, user):
            plan.trained_on.append(f"{run.name} ({run.id})")
    plan.uploads = [str(path) for path in (ws.root / "uploads").glob("*")]
    plan.logs = [str(path) for path in (ws.root / "logs").glob("*.log") if _mentions(path, user)]
    return plan


def _plan_file(ws: Workspace, user: str) -> Path:
    """Return the file of a user's plan; its name does not reveal the id."""
    return ws.root / PLANS / f"{hashlib.sha256(user.encode()).hexdigest()[:32]}.json"


def _files_with_user(ws: Workspace, run: Run, user: str) -> Iterator[tuple[str, str, int]]:
    """Yield name, format and number of rows of each file of a run with the user."""
    for row in ws.artifacts(run.id):
        path = ws.folder(run.id) / row["file"]
        if rows := _rows_of(path, row["format"], user):
            yield row["name"], row["format"], rows


def _rows_of(path: Path, kind: str, user: str) -> int:
    """Return the number of rows of a user in a table or a file of tensors."""
    if kind != "parquet":
        return int(user in (_ids(path) or ()))
    if USER not in pq.read_schema(path).names:
        return 0
    return len(pq.read_table(path, columns=[USER], filters=[(USER, "=", user)]))


def _ids(path: Path) -> list[str] | None:
    meta = TensorFile(path).meta
    return meta.get("ids") if isinstance(meta, dict) else None


def _was_trained_on(ws: Workspace, run: Run, user: str) -> bool:
    """Return whether a run's adapter or head was trained on a user's rows."""
    if run.config.get("role") == VECTORS and "imported" in run.config:
        return False
    if run.kind == "prompts":
        return any(name == "prompts" for name, *_ in _files_with_user(ws, run, user))
    if run.kind != "migration":
        return False
    if chosen := run.inputs.get("selection"):
        frame = ws.get_table(chosen, "selection", where={USER: [user]})
        return bool(frame["selected"].any())
    sources = [ws.run(i) for role, i in run.inputs.items() if role.startswith("source_")]
    return any(
        name == "prompts" for source in sources for name, *_ in _files_with_user(ws, source, user)
    )


def _erase_from_run(ws: Workspace, run: Run, user: str, held: Iterable[str]) -> None:
    """Remove a user from the files and the summary of a finished run.

    held: names of the files that contained the user when the erasure began. Derived files are
    computed again, also if these were rewritten before a failure.
    """
    for name, kind, _ in list(_files_with_user(ws, run, user)):
        if kind == "parquet":
            frame = ws.get_table(run.id, name)
            ws.rewrite_table(run.id, name, frame[frame[USER].astype(str) != user])
            continue
        arrays, ids, meta = ws.get_tensors(run.id, name)
        keep = np.array(ids) != user
        kept_arrays = {
            key: value[keep] if _has_row_per_user(key, value, len(keep)) else value
            for key, value in arrays.items()
        }
        ws.rewrite_tensors(run.id, name, kept_arrays, np.array(ids)[keep].tolist(), meta)
    summary: dict[str, Any] = dict(run.summary)
    if "selection" in held:
        chosen = ws.get_table(run.id, "selection", columns=["selected"])["selected"]
        summary |= {"users": len(chosen), "selected": int(chosen.sum())}
    if "prompts" in held:
        summary["users"] = len(ws.open_tensors(run.id, "prompts").meta["ids"])
    if ANCHORS in held:
        summary["users"] = len(ws.open_tensors(run.id, ANCHORS).meta["ids"])
    if run.kind == "dataset" and held:
        dataset = Dataset(
            summary["dataset"],
            summary["task"],
            ws.get_table(run.id, "interactions"),
            ws.get_table(run.id, "items"),
            summary["report"],
        )
        if any(row["name"] == ITEM_PROFILES for row in ws.artifacts(run.id)):
            ws.rewrite_table(run.id, ITEM_PROFILES, item_profiles(dataset))
        # The hash is kept, since it identifies the imported content.
        summary |= importing_data.describe_dataset(dataset) | {
            "content_hash": run.summary["content_hash"],
            "statistics": statistics(dataset),
        }
    cleaned = _without_id(summary, user)
    if cleaned != run.summary:
        ws.rewrite_summary(run.id, cleaned)


def _has_row_per_user(name: str, array: np.ndarray, users: int) -> bool:
    return bool(array.ndim) and len(array) == users and not name.startswith("head.")


def _erase_from_database(ws: Workspace, user: str) -> None:
    """Remove a user's metrics, and the id from texts of runs and jobs."""
    with ws.transaction() as db:
        with_metrics = ws.query(
            "SELECT DISTINCT run_id FROM user_metrics WHERE user_id = ?", [user]
        )
        changed = {row["run_id"] for row in with_metrics}
        db.execute("DELETE FROM user_metrics WHERE user_id = ?", [user])
        for table, column in TEXT_COLUMNS:
            for row in ws.query(f"SELECT id, {column} AS text FROM {table}"):
                text = row["text"] or ""
                cleaned = _remove_id(text, user)
                if cleaned == text:
                    continue
                db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", [cleaned, row["id"]])
                if table == "runs":
                    changed.add(row["id"])
        # Records beside the files hold the same texts.
        for row in ws.query("SELECT id FROM runs WHERE status = 'finished'"):
            if row["id"] in changed:
                ws.seal(row["id"])


def _is_distinct(user: str) -> bool:
    """Return whether an id is unlikely to occur as another number or word, unlike "12"."""
    return len(user) >= 6 or not user.isalnum()


def _pattern(user: str) -> re.Pattern[str]:
    """Return a regular expression for an id in text: in quotes, or also bare if it is distinct."""
    quoted = "|".join(re.escape(mark + user + mark) for mark in "'\"`")
    bare = rf"|(?<![\w-]){re.escape(user)}(?![\w-])" if _is_distinct(user) else ""
    return re.compile(quoted + bare)


def _remove_id(text: str, user: str) -> str:
    return _pattern(user).sub(ERASED, text)


def _without_id(value: Any, user: str) -> Any:
    """Return a JSON value without the id in its texts."""
    if isinstance(value, dict):
        return {
            _remove_id(key, user): ERASED
            if key in (USER, "user") and item == user
            else _without_id(item, user)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_id(item, user) for item in value]
    return _remove_id(value, user) if isinstance(value, str) else value


def _mentions(path: Path, user: str) -> bool:
    return bool(_pattern(user).search(path.read_text(encoding="utf-8", errors="replace")))


def _other_files(ws: Workspace) -> Iterator[Path]:
    """Yield files of a workspace that belong to no run: reports of studies, former databases."""
    for path in sorted(ws.root.rglob("*")):
        top = path.relative_to(ws.root).parts[0]
        inside = top in ("runs", "work", "locks", "logs", "whatif", "cache") or top.startswith(
            "puma.lock"
        )
        former = top.startswith(f"{DATABASE}.damaged")
        if path.is_file() and not inside and (former or not top.startswith(DATABASE)):
            yield path


def _unknown_files(ws: Workspace) -> Iterator[Path]:
    """Yield files in folders of runs that are not in the database, such as after a lost database."""
    known = {run.id for run in ws.runs()}
    for path in sorted((ws.root / "runs").rglob("*")):
        if path.is_file() and path.relative_to(ws.root / "runs").parts[0] not in known:
            yield path


def _may_hold(path: Path, user: str) -> bool:
    """Return whether a file contains a user, or cannot be read."""
    kind = path.suffix.removeprefix(".")
    if kind not in ("parquet", "safetensors"):
        return _mentions(path, user)
    try:
        return _rows_of(path, kind, user) > 0
    except (StoreError, DataError, pa.ArrowException, OSError, ValueError):
        return True
