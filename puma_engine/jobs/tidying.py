"""Removing what a workspace no longer needs: old jobs and logs, leftovers of killed processes."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from puma_engine.jobs import queue
from puma_engine.jobs.processes import age
from puma_engine.store import Workspace, locks
from puma_engine.store.records import RUN_ID
from puma_engine.store.workspace import ITEM_CACHE

ACTIVE = ("queued", "running", "interrupted")
UPLOADS = "uploads"
DAYS = 90.0
DAY = 86_400.0
# Younger leftovers may belong to a process that is at work.
LEFTOVER_SECONDS = 3600.0
PROCESS_LOGS = ("worker.log", "cluster.log", "whatif.log", "whatif.1.log")


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is no longer needed. path: inside of the workspace; why: in words."""

    path: Path
    bytes: int
    why: str


def leftovers(ws: Workspace, *, days: float = DAYS) -> list[Leftover]:
    """Return what `tidy` would remove. days: how long ended jobs, with log and upload, are kept."""
    reasons: dict[Path, str] = {}
    items = queue.jobs(ws)
    recent = {item.id: item for item in items if not _is_old(item, days)}
    for log in (ws.root / "logs").glob("*.log"):
        if log.name in PROCESS_LOGS:
            if _seconds_since_change(log) > days * DAY:
                reasons[log] = f"it was not written to for {days:g} days"
        elif log.stem not in recent:
            reasons[log] = "its job is gone or old"
    reasons |= dict.fromkeys(_unneeded_uploads(ws, recent.values()), "no job needs this upload")
    runs = {run.id: run for run in ws.runs()}
    for kind, why in (("work", "checkpoints of no unfinished run"), ("locks", "lock of no run")):
        for path in (ws.root / kind).glob("*"):
            run_id = path.name.removesuffix(".lock")
            if not RUN_ID.fullmatch(run_id) or locks.is_held(ws.lock(run_id)):
                continue
            if run_id not in runs or (kind == "work" and runs[run_id].status == "finished"):
                reasons[path] = why
    for run in runs.values():
        # What a damaged database does not list may be a result that a rebuild restores.
        if run.status == "finished" and ws.results_are_intact(run.id):
            for file in ws.unrecorded_files(run.id):
                if not file.name.startswith("."):
                    reasons[file] = f"it belongs to no result of the run {run.name}"
    for temporary in ws.root.rglob(".*.tmp"):
        if _seconds_since_change(temporary) > LEFTOVER_SECONDS:
            reasons[temporary] = "left by a process that was killed"
    models = {str(run.config.get("fingerprint")) for run in ws.runs("backbone", "finished")}
    for folder in (ws.root / ITEM_CACHE).glob("*"):
        if folder.name.partition("-")[0] not in models:
            reasons[folder] = "items that a model read which is no longer here"
            continue
        for item in folder.glob("*/*"):
            # Also those of former versions and precisions, which nothing reads any more.
            if item.name[0] != "." and _seconds_since_change(item) > days * DAY:
                reasons[item] = f"an item that no run read for {days:g} days"
    inside = [path for path in reasons if not any(parent in reasons for parent in path.parents)]
    return [Leftover(path, _size(path), reasons[path]) for path in sorted(inside)]


def tidy(ws: Workspace, *, days: float = DAYS) -> list[Leftover]:
    """Remove leftovers and jobs that ended more than `days` ago, and compact the database.

    Runs, their files and checkpoints of unfinished runs stay. Returns what was removed. Raises
    StoreError.
    """
    ws.check_writable()
    removed = leftovers(ws, days=days)
    old_jobs = [item.id for item in queue.jobs(ws) if _is_old(item, days)]
    gone = [
        row["path"]
        for row in ws.query("SELECT path FROM file_hashes")
        if not Path(row["path"]).is_file()
    ]
    with ws.transaction() as db:
        db.conn.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in old_jobs])
        db.conn.executemany("DELETE FROM file_hashes WHERE path = ?", [(path,) for path in gone])
    for leftover in removed:
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path, ignore_errors=True)
        else:
            leftover.path.unlink(missing_ok=True)
    ws.compact()
    return removed


def remove_uploads(ws: Workspace, *, older_than: float = LEFTOVER_SECONDS) -> None:
    """Remove the uploads that no unfinished job needs and that did not change for `older_than` seconds."""
    for upload in _unneeded_uploads(ws, queue.jobs(ws), older_than):
        shutil.rmtree(upload, ignore_errors=True)


def _unneeded_uploads(
    ws: Workspace, recent: Iterable[queue.Job], older_than: float = LEFTOVER_SECONDS
) -> list[Path]:
    """Return the uploads that none of these jobs needs; the job of a younger one may be queued next."""
    needed = {
        Path(str(item.args.get(name))).parent.parent.name
        for item in recent
        for name in ("path", "items_path")
        if item.status != "finished" and item.args.get(name)
    }
    return [
        upload
        for upload in (ws.root / UPLOADS).glob("*")
        if upload.name not in needed and _seconds_since_change(upload) > older_than
    ]


def _is_old(item: queue.Job, days: float) -> bool:
    return item.status not in ACTIVE and age(item.finished or item.created) > days * DAY


def _seconds_since_change(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
