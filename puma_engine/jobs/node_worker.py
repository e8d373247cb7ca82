"""The part of a cluster's work that is done on a node: one run at a time, in a scratch workspace.

Nothing here opens the user's workspace. Files come in by their SHA-256, and go out the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import socket
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from puma_engine import errors
from puma_engine.errors import JobError, PumaError, StoreError
from puma_engine.files import make_folder, sha256_file
from puma_engine.jobs.time_left import as_dict
from puma_engine.store import Workspace, scratch
from puma_engine.store.rebuilding import restore_run
from puma_engine.store.records import checked_file_name, checked_run_id
from puma_engine.store.run_records import RECORD, read_record
from puma_engine.training import distributed
from puma_engine.version import __version__

PACKAGES = ("torch", "transformers", "ray")
# The record of a checkpoint, which names its other file and is written after it.
CHECKPOINT = "checkpoint.json"
MAX_LINES = 1000
# Bytes of a message with a part of a file.
BLOCK = 8 << 20


def software() -> dict[str, str]:
    """Return the versions that driver and nodes must share. Loads no package."""
    # CPU and GPU builds of a package differ in what follows the plus sign.
    versions = {name: metadata.version(name).partition("+")[0] for name in PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, "puma": __version__} | versions


def error_of(outcome: Mapping[str, Any]) -> PumaError:
    """Return the error that ended some work on a node, as the command raises it here."""
    kind = getattr(errors, outcome["type"], JobError)
    return (kind if issubclass(kind, PumaError) else JobError)(outcome["error"])


def node_info() -> dict[str, Any]:
    """Return the versions of a node's software, its name, and the id that Ray gave it; asked there."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return {"software": software(), "name": socket.gethostname(), "id": node}


def refuse_other_software(
    node_software: dict[str, str], node: str, own_software: dict[str, str] | None = None
) -> None:
    """Raise JobError if a node's versions differ from those of the driver (default: this process)."""
    own_software = own_software or software()
    differing = [
        f"{name} {node_software.get(name)} there and {version} here"
        for name, version in own_software.items()
        if node_software.get(name) != version
    ]
    if differing:
        raise JobError(
            f"The node {node} has other versions than this machine ({', '.join(differing)}), so results "
            "could differ; install the same on both."
        )


def last_line(error: BaseException) -> str:
    """Return the line of an error of Ray that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


class NodeWorker:
    """Computes runs on one node, one after the other; an actor of `puma_engine.jobs.cluster`.

    Every method returns soon: `start` begins the work in a thread, and `status` says how far it is.
    """

    def __init__(self) -> None:
        self._scratch = _Scratch()
        self.ws = Workspace.open(self._scratch.folder / "workspace", create=True)
        self._cancelled = threading.Event()
        self._log = _Lines()
        logger = logging.getLogger("puma_engine")
        logger.addHandler(self._log)
        logger.setLevel(logging.INFO)
        self._report: dict[str, Any] | None = None
        self._run_id = ""
        self._ended: dict[str, Any] | None = None
        self._placed: list[tuple[str, int, int]] | None = None

    def info(self) -> dict[str, Any]:
        """Return what this node is; see `node_info`."""
        return node_info()

    def missing_files(self, hashes: Sequence[str]) -> list[str]:
        """Return those of some files that are not here, by their SHA-256."""
        return [name for name in hashes if not self._file(name).exists()]

    def missing_models(self, models: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the specs of models whose files are not here, or differ."""
        from puma_engine.pipeline.backbones import fingerprint

        missing = []
        for model in models:
            try:
                actual = fingerprint(self.ws, model["spec"], model["revision"])
            except PumaError:
                actual = None
            if actual != model["fingerprint"]:
                missing.append(model["spec"])
        return missing

    def write_block(self, name: str, start: int, data: bytes, size: int) -> None:
        """Take bytes of a file from an offset; the last ones complete it. Raises StoreError."""
        file = self._scratch.file(name)
        part = file.with_name(f".{name}.part")
        try:
            with part.open("r+b" if start else "wb") as out:
                out.seek(start)
                out.write(data)
        except OSError as error:
            raise StoreError(
                f"The scratch folder {file.parent} of {socket.gethostname()} cannot be written "
                f"({error.strerror}); make room there, or name another with {scratch.VARIABLE}."
            ) from error
        if start + len(data) == size:
            if sha256_file(part) != name:
                raise StoreError(
                    f"A file arrived damaged at {socket.gethostname()} (its hash differs); run the "
                    "command again."
                )
            part.replace(file)

    def read_block(self, name: str, start: int, count: int) -> bytes:
        """Return bytes of a file that is here."""
        with self._file(name).open("rb") as file:
            file.seek(start)
            return file.read(count)

    def file_sizes(self, hashes: Sequence[str]) -> dict[str, int]:
        """Return the bytes of files that are here."""
        return {name: self._file(name).stat().st_size for name in hashes}

    def discard(self, hashes: Sequence[str]) -> None:
        """Remove files that are not needed any more."""
        for name in hashes:
            self._scratch.file(name).unlink(missing_ok=True)

    def start(self, task: Mapping[str, Any]) -> None:
        """Begin to compute a run; see `puma_engine.jobs.cluster.RemoteRun` for the task."""
        self._cancelled.clear()
        self._report, self._ended, self._placed = None, None, None
        self._run_id = checked_run_id(task["run_id"])
        threading.Thread(target=self._work, args=(task,), daemon=True).start()

    def cancel(self) -> None:
        """Ask the run to stop at its next checkpoint."""
        self._cancelled.set()

    def status(self, seen: int) -> dict[str, Any]:
        """Return the last report, log lines from number `seen` on, the checkpoint, and the end.

        checkpoint: a text that changes with the files of the checkpoint; "" without a new one.
        ended: None while the work goes on; then "files" of the run (name, SHA-256, bytes), or
        "error" and "type", with "unexpected" where it is no PumaError.
        """
        return {
            "report": self._report,
            "lines": self._log.since(seen),
            "checkpoint": self._new_checkpoint(),
            "ended": self._ended,
        }

    def checkpoint(self) -> list[tuple[str, str, int]] | None:
        """Return the files of the checkpoint, to be read; None if they changed meanwhile or lack the record.

        Files without a record are those of a first checkpoint that is being written, or of one that is
        being removed.
        """
        before = self._checkpoint_state()
        if all(name != CHECKPOINT for name, *_ in before):
            return None
        try:
            files = [self._snapshot(self.ws.work(self._run_id) / name) for name, *_ in before]
        except FileNotFoundError:
            return None
        return files if before == self._checkpoint_state() else None

    def _file(self, name: str) -> Path:
        """Return the place of a file by its SHA-256, there or not."""
        return self._scratch.file(name)

    def _new_checkpoint(self) -> str:
        # Until the task's own files are in place, the folder holds those of an earlier task.
        state = self._checkpoint_state()
        return "" if self._placed in (None, state) else str(state)

    def _checkpoint_state(self) -> list[tuple[str, int, int]]:
        folder, state = self.ws.root / "work" / self._run_id, []
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(folder.iterdir()):
                if file.name[0] != "." and file.is_file():
                    stat = file.stat()
                    state.append((file.name, stat.st_ino, stat.st_mtime_ns))
        return state

    def _snapshot(self, file: Path) -> tuple[str, str, int]:
        """Keep a file as it is now, so that it can be read by its hash."""
        link = self._scratch.new_link(file)
        name, size = sha256_file(link), link.stat().st_size
        link.replace(self._scratch.file(name))
        # A rename onto a link to the same file leaves both names.
        link.unlink(missing_ok=True)
        return file.name, name, size

    def _work(self, task: Mapping[str, Any]) -> None:
        try:
            self._ended = {"files": self._compute(task)}
        except PumaError as error:
            self._ended = {"error": str(error), "type": type(error).__name__}
        except BaseException as error:  # the driver must learn of every error
            self._log.add(traceback.format_exc())
            text = f"{type(error).__name__}: {error} (on the node {socket.gethostname()})"
            self._ended = {"error": text, "type": "JobError", "unexpected": True}

    def _compute(self, task: Mapping[str, Any]) -> list[tuple[str, str, int]]:
        """Compute the run of a task in the scratch workspace, and return its files.

        Of several processes that train together, those that do not write it return none.
        """
        from puma_engine.pipeline import EXECUTORS, Execution
        from puma_engine.requests import CLUSTER_REQUESTS

        for record in task["runs"]:
            self._add_input(record["id"], record["record"], record["files"])
        self._place_models(task["models"])
        # The unfinished run says which of two requests is meant, where an earlier version made it.
        begun = self.ws.begin(
            task["kind"],
            name=task["name"],
            config=task["config"],
            inputs=task["inputs"],
            seed=task["seed"],
        )
        if begun.id != self._run_id:
            raise JobError(
                f"The node {socket.gethostname()} makes the run {begun.id} of this request, not "
                f"{self._run_id}; install the same version of this program everywhere."
            )
        self._place_checkpoint(task["checkpoint"])
        request = CLUSTER_REQUESTS[task["command"]].from_dict(task["request"])
        execution = Execution(task["device"], self._take_report, self._cancelled.is_set)
        run = EXECUTORS[task["command"]](self.ws, request, execution)
        if run.id != self._run_id:
            raise JobError(
                f"The node {socket.gethostname()} made the run {run.id}, not {self._run_id}; install "
                "the same version of this program everywhere."
            )
        if not distributed.is_main_process():
            return []
        folder = self.ws.folder(self._run_id)
        names = [RECORD, *(row["file"] for row in self.ws.artifact_rows(self._run_id))]
        return [self._snapshot(folder / name) for name in names]

    def _place_checkpoint(self, files: Mapping[str, str]) -> None:
        """Make the checkpoint of the run these files, by their name and SHA-256."""
        folder = self.ws.work(self._run_id)
        shutil.rmtree(folder)
        folder.mkdir()
        for name, file in files.items():
            self._link(file, folder / checked_file_name(name))
        self._placed = self._checkpoint_state()

    def _take_report(self, progress: Any) -> None:
        self._report = as_dict(progress)

    def _add_input(self, run_id: str, record: str, files: Mapping[str, str]) -> None:
        folder = self.ws.folder(checked_run_id(run_id))
        make_folder(folder)
        for name, file in files.items():
            self._link(file, folder / checked_file_name(name))
        if not (folder / RECORD).exists():
            (folder / RECORD).write_text(record, encoding="utf-8")
            restore_run(self.ws, read_record(folder / RECORD))

    def _place_models(self, models: Sequence[Mapping[str, Any]]) -> None:
        from puma_engine.backbone.packages import RELOCATED

        for model in models:
            folder = self._scratch.folder / "models" / checked_file_name(model["fingerprint"])
            folder.mkdir(parents=True, exist_ok=True)
            for name, file in model["files"].items():
                self._link(file, folder / Path(name).name)
            only = model["only"]
            RELOCATED[model["spec"]] = folder if only is None else folder / Path(only).name

    def _link(self, name: str, target: Path) -> None:
        if not target.exists():
            os.link(self._scratch.file(name), target)


class _Scratch:
    """Files by their SHA-256 in a folder of this process's own on the node's disk."""

    def __init__(self) -> None:
        self.folder = scratch.scratch_folder()
        (self.folder / "files").mkdir()

    def file(self, name: str) -> Path:
        """Return the place of a file by its SHA-256."""
        if len(name) != 64 or set(name) - set("0123456789abcdef"):
            raise JobError(f"{name!r:.80} is no SHA-256 of a file.")
        return self.folder / "files" / name

    def new_link(self, file: Path) -> Path:
        """Return a new name of a file, which stays when its own name goes."""
        link = self.folder / "files" / f".{hashlib.sha256(os.urandom(16)).hexdigest()[:16]}"
        os.link(file, link)
        return link


class _Lines(logging.Handler):
    """Keeps what the engine logs, for the log of the job."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: list[str] = []
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.getMessage())

    def add(self, text: str) -> None:
        self._lines += text.splitlines()
        surplus = len(self._lines) - MAX_LINES
        if surplus > 0:
            del self._lines[:surplus]
            self._dropped += surplus

    def since(self, seen: int) -> tuple[int, list[str]]:
        """Return how many lines there were, and those from number `seen` on that are still kept."""
        first = max(0, seen - self._dropped)
        return self._dropped + len(self._lines), self._lines[first:]
