"""Archives of finished runs: one file from which another workspace adds them with their ids.

An archive is a zip file. manifest.json names the run that the archive is about, and the SHA-256 and the
bytes of every other member. runs/<run id>/ holds a run's record (run.json) and its files, as a
workspace does.
"""

import hashlib
import json
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puma_engine.datasets.reading.parquet_files import expanded_bytes, refuse_bomb
from puma_engine.errors import StoreError
from puma_engine.files import (
    atomic_write,
    make_folder,
    parse_json,
    sha256_file,
    sync,
    sync_tree,
)
from puma_engine.store import locks
from puma_engine.store.rebuilding import restore_run, restore_user_metrics
from puma_engine.store.records import checked_file_name, checked_name, checked_run_id
from puma_engine.store.run_records import RECORD, read_record
from puma_engine.store.workspace import Workspace

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST = 16 << 20
# An unpacked archive may take this share of the free disk, since a small file may unpack to a large one.
DISK_SHARE = 0.5
ADVICE = "get the archive again from where it was published"
# All members have this time, so that the same runs give an identical file.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass
class AddedRuns:
    """What `add_archive` did: the run that the archive is about, runs that were added, runs that were there."""

    subject: str
    added: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)


def write_archive(ws: Workspace, main_run: str, path: Path) -> None:
    """Write all finished runs of a workspace to an archive, atomically. main_run: the run that it is about."""
    members = {}
    for run in reversed(ws.runs(status="finished")):
        for name in [RECORD, *(row["file"] for row in ws.artifact_rows(run.id))]:
            members[f"runs/{run.id}/{name}"] = ws.folder(run.id) / name
    described = {
        name: {"sha256": sha256_file(file), "bytes": file.stat().st_size}
        for name, file in members.items()
    }
    manifest = {"format": FORMAT, "subject": main_run, "members": described}

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr(_member(MANIFEST), json.dumps(manifest, indent=1))
            for name, file in members.items():
                archive.writestr(_member(name), file.read_bytes())

    atomic_write(path, write)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def main_run_of(path: Path) -> str:
    """Return the id of the run that an archive is about. Raises StoreError if it is none."""
    with _open_archive(path) as archive:
        return _manifest(path, archive)[0]


def runs_of(path: Path) -> set[str]:
    """Return the ids of the runs in an archive. Raises StoreError if it is none."""
    with _open_archive(path) as archive:
        return {name.split("/")[1] for name in _manifest(path, archive)[1]}


def add_archive(
    ws: Workspace, path: Path, *, max_bytes: int, required: str | None = None
) -> AddedRuns:
    """Add the runs of an archive to a workspace as finished runs, and return their ids.

    Runs that are finished here are not changed. max_bytes: largest size of the unpacked archive.
    required: a key of a JSON object that the summary of every run must have. Everything is checked
    before anything is added. Raises StoreError for a file that is no archive, is damaged, too large
    or does not fit on the disk, and if a process works on one of its runs.
    """
    ws.check_writable()
    staging = ws.root / f".archive.{secrets.token_hex(4)}.tmp"
    staging.mkdir(mode=0o700)
    try:
        main_run, records = _unpack(path, staging, max_bytes)
        for run_id, record in records.items():
            if required and not _has_object(record, required):
                raise StoreError(
                    f"The run {run_id} of {path} is not marked as {required}; {ADVICE}."
                )
            if locks.is_held(ws.lock(run_id)):
                raise StoreError(
                    f"A process works on the run {run_id}, which {path} holds, too; wait for it to end."
                )
        result = AddedRuns(main_run)
        finished = {run.id for run in ws.runs(status="finished")}
        for run_id, record in records.items():
            if run_id in finished:
                result.present.append(run_id)
                continue
            add_run(ws, staging, run_id, record)
            result.added.append(run_id)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return result


def _has_object(record: dict[str, Any], key: str) -> bool:
    summary = parse_json(record["run"]["summary"] or "{}")
    return isinstance(summary, dict) and isinstance(summary.get(key), dict)


def add_run(ws: Workspace, staging: Path, run_id: str, record: dict[str, Any]) -> None:
    """Move a checked run from staging/<run id>/ into a workspace, as a finished run.

    This process's lock on it is released. Raises StoreError if another process holds it.
    """
    if not locks.acquire(ws.lock(run_id)):
        raise StoreError(f"A process works on the run {run_id}; wait for it to end.")
    try:
        folder = ws.folder(run_id)
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder.parent)
        sync_tree(staging / run_id)
        # After a kill between these two, adding the archive again completes the run.
        (staging / run_id).rename(folder)
        sync(folder.parent)
        restore_run(ws, record)
        restore_user_metrics(ws, run_id)
    finally:
        locks.release(ws.lock(run_id))


def _unpack(path: Path, staging: Path, max_bytes: int) -> tuple[str, dict[str, dict[str, Any]]]:
    """Unpack an archive to staging/<run id>/ and check it; return the run that it is about, and all records.

    The records come inputs first.
    """
    files: dict[str, set[str]] = {}
    with _open_archive(path) as archive:
        main_run, members = _manifest(path, archive)
        need = sum(info.file_size for info in archive.infolist())
        if need > max_bytes:
            raise StoreError(
                f"The archive {path} unpacks to {_mib(need)} MiB, more than the {_mib(max_bytes)} allowed; "
                f"allow more (--max-mib) if it comes from somebody you trust, or {ADVICE}."
            )
        free = shutil.disk_usage(staging).free
        if need > DISK_SHARE * free:
            raise StoreError(
                f"The archive {path} unpacks to {need:,} bytes, more than half of the {free:,} that are "
                "free; make room, or get the archive again if it should be small."
            )
        for name, expected in members.items():
            run_id, file = _place(path, name)
            files.setdefault(run_id, set()).add(file)
            (staging / run_id).mkdir(exist_ok=True, mode=0o700)
            _extract(archive, name, expected, staging / run_id / file)
            if file.endswith(".parquet"):
                # A repeated text is small in a file, but large in memory when a page shows it.
                refuse_bomb(staging / run_id / file, expanded_bytes(staging / run_id / file))
    records: dict[str, dict[str, Any]] = {}
    for run_id, names in files.items():
        record = read_record(staging / run_id / RECORD)
        checked_name(record["run"]["name"])
        recorded = {checked_file_name(row["file"]): row["sha256"] for row in record["artifacts"]}
        listed = {
            name: members[f"runs/{run_id}/{name}"]["sha256"] for name in names if name != RECORD
        }
        if recorded != listed or record["run"]["status"] != "finished":
            raise StoreError(f"The run {run_id} of {path} is not whole; {ADVICE}.")
        records[run_id] = record
    return main_run, _inputs_first(path, main_run, records)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f}"


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise StoreError(
            f"There is no archive {path}; give a file that `puma publish` wrote."
        ) from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise StoreError(f"The archive {path} cannot be read ({error}); {ADVICE}.") from error


def _manifest(path: Path, archive: zipfile.ZipFile) -> tuple[str, dict[str, Any]]:
    names = archive.namelist()
    if MANIFEST not in names or archive.getinfo(MANIFEST).file_size > MAX_MANIFEST:
        raise StoreError(
            f"The file {path} is not an archive of runs; give one that `puma publish` wrote."
        )
    try:
        manifest = parse_json(archive.read(MANIFEST))
        kind, members = manifest["format"], manifest["members"]
        main_run = checked_run_id(manifest["subject"])
        sizes = {name: (int(row["bytes"]), str(row["sha256"])) for name, row in members.items()}
    except (ValueError, KeyError, TypeError, AttributeError, StoreError):
        raise StoreError(f"The manifest of {path} is damaged; {ADVICE}.") from None
    if kind != FORMAT:
        raise StoreError(
            f"The archive {path} has the format {kind}, this version reads {FORMAT}; update this program."
        )
    stored = {info.filename: info.file_size for info in archive.infolist()}
    if len(names) != len(stored) or stored != {MANIFEST: stored[MANIFEST]} | {
        name: size for name, (size, _) in sizes.items()
    }:
        raise StoreError(f"The members of {path} are not those of its manifest; {ADVICE}.")
    return main_run, members


def _place(path: Path, name: str) -> tuple[str, str]:
    """Return the run id and file name of a member. Raises StoreError for another member."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "runs":
        raise StoreError(
            f"The archive {path} holds {name!r}, which is not a file of a run; {ADVICE}."
        )
    return checked_run_id(parts[1]), checked_file_name(parts[2])


def _extract(archive: zipfile.ZipFile, name: str, expected: dict[str, Any], target: Path) -> None:
    digest = hashlib.sha256()
    with archive.open(name) as source, target.open("wb") as file:
        while block := source.read(1 << 20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != expected["sha256"]:
        raise StoreError(f"The content of {name} in {archive.filename} was changed; {ADVICE}.")


def _inputs_first(
    path: Path, main_run: str, records: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    ordered: dict[str, dict[str, Any]] = {}
    while len(ordered) < len(records):
        ready = {
            run_id: record
            for run_id, record in records.items()
            if run_id not in ordered and set(record["inputs"].values()) <= set(ordered)
        }
        if not ready:
            raise StoreError(f"The archive {path} lacks runs that others were made from; {ADVICE}.")
        ordered |= ready
    if main_run not in ordered:
        raise StoreError(f"The archive {path} lacks the run that it is about; {ADVICE}.")
    return ordered
