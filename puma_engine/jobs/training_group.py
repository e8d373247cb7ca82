"""Runs that several processes of a cluster train together, through Ray Train and the one loop.

`TrainingGroup` is the actor that the driver talks to, as to a `NodeWorker`. It trains nothing
itself: it holds the inputs, has Ray Train start the processes, and takes checkpoints and files from
the first one. Each process has a scratch workspace of its own and works as under `accelerate
launch`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from puma_engine.errors import Cancelled, JobError, PumaError
from puma_engine.jobs.node_worker import (
    BLOCK,
    NodeWorker,
    error_of,
    last_line,
    node_info,
    refuse_other_software,
)
from puma_engine.store.records import checked_file_name

POLL_SECONDS = 0.5
# A cancelled group without a report for this time is still starting or was lost: it ends by itself.
SILENT_SECONDS = 30.0
# How long an error of another process waits for one of the first process, which says more about the run.
ALONE_SECONDS = 3.0
# How long Ray Train may take to end the processes in order, which frees what it has reserved for them.
END_SECONDS = 30.0
# A run that loses its node or a process more often fails, since it is likely the cause.
MAX_LOST = 3
# Handing checkpoints over takes at most this share of the first process's time.
CHECKPOINT_SHARE = 0.1


class TrainingGroup(NodeWorker):
    """Has a run trained by several processes, each with `cpus` CPUs and `gpus` GPUs.

    A process that is lost ends the others, too; all begin again at the last checkpoint, MAX_LOST times. An
    error that one of them foresaw, such as a full disk, ends the run.
    """

    def __init__(self, workers: int, cpus: int, gpus: int) -> None:
        super().__init__()
        self.workers, self.cpus, self.gpus = workers, cpus, gpus
        self._names: dict[int, str] = {}
        self._reserved: Any = None
        self._heard = float("-inf")
        self._outcome: dict[str, Any] | None = None
        # The error of a process other than the first, and when it came.
        self._failed: tuple[float, dict[str, Any]] | None = None
        self._failure = ""
        self._task: dict[str, Any] = {}
        # The checkpoint: the SHA-256 of each file by its name, and their paths by that.
        self._checkpoint_files: dict[str, str] = {}
        self._checkpoint_paths: dict[str, Path] = {}

    def missing_models(self, models: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the specs of all models: a process takes those from here that its node lacks."""
        return [model["spec"] for model in models]

    def register(self, rank: int, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take in a process, and return its task; None if it is to do nothing."""
        self._heard = time.monotonic()
        try:
            refuse_other_software(info["software"], info["name"])
        except JobError as error:
            self._outcome = {"error": str(error), "type": "JobError"}
            return None
        self._names[rank], self._reserved = info["name"], info["reserved"]
        self._report = {"stage": f"starting {self.workers} processes"}
        self._log.add(
            f"process {rank + 1} of {self.workers} is {info['pid']} on {info['name']} ({info['id']})"
        )
        return self._task | {"checkpoint": self._checkpoint_files}

    def status(self, seen: int) -> dict[str, Any]:
        """Return what that of a `NodeWorker` does, and what Ray Train has reserved for the processes."""
        return super().status(seen) | {"reserved": self._reserved}

    def receive(self, report: Mapping[str, Any] | None, lines: Sequence[str]) -> dict[str, bool]:
        """Take the first process's report and log; return whether the run was cancelled, and is over."""
        self._heard = time.monotonic()
        if report is not None:
            names = [self._names[rank] for rank in sorted(self._names)]
            self._report = {**report, "node": ", ".join(dict.fromkeys(names))}
        over = self.add_lines(lines)
        return {"cancelled": self._cancelled.is_set(), "over": over}

    def add_lines(self, lines: Sequence[str]) -> bool:
        """Add lines to the log of the run, and return whether it is over."""
        for line in lines:
            self._log.add(line)
        return self._outcome is not None

    def save_checkpoint(self, files: Mapping[str, str]) -> None:
        """Make these files, which were put here, the checkpoint: the SHA-256 by name."""
        folder = self.ws.work(self._run_id)
        # Link all files before the first rename: the present name of one may be the new name of another.
        links = {name: self._scratch.new_link(self._file(file)) for name, file in files.items()}
        for name, link in links.items():
            link.replace(folder / checked_file_name(name))
            # A rename onto a link to the same file leaves both names.
            link.unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name not in files:
                path.unlink()
        self._index_checkpoint(files)
        self.discard(list(files.values()))

    def finish(self, rank: int, outcome: Mapping[str, Any]) -> None:
        """Take how a process ended; see `NodeWorker.status`. The first one's files were put here.

        How the first ended is how the run did. So is an error of another, unless the first ends, too: it
        would wait for the other's gradients, for half an hour.
        """
        if rank == 0:
            self._outcome = self._outcome or dict(outcome)
        elif "error" in outcome and outcome["type"] != Cancelled.__name__ and not self._failed:
            text = (
                f"{outcome['error']} (process {rank + 1} of {self.workers}, on {self._names[rank]})"
            )
            self._failed = time.monotonic(), {**outcome, "error": text}

    def _file(self, name: str) -> Path:
        return self._checkpoint_paths.get(name) or super()._file(name)

    def _index_checkpoint(self, files: Mapping[str, str]) -> None:
        folder = self.ws.work(self._run_id)
        self._checkpoint_files = dict(files)
        self._checkpoint_paths = {file: folder / name for name, file in files.items()}

    def _compute(self, task: Mapping[str, Any]) -> list[tuple[str, str, int]]:
        self._place_checkpoint(task["checkpoint"])
        self._index_checkpoint(task["checkpoint"])
        self._task = dict(task)
        each = f"{self.cpus} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")
        self._report = {"stage": f"waiting for {self.workers} processes with {each} each"}
        training = threading.Thread(target=self._train, daemon=True)
        training.start()
        while training.is_alive() and self._outcome is None:
            silent = time.monotonic() - self._heard > SILENT_SECONDS
            if self._cancelled.is_set() and silent:
                raise Cancelled(f"Cancelled before training {task['name']}.")
            if self._failed and time.monotonic() - self._failed[0] > ALONE_SECONDS:
                self._outcome = self._outcome or self._failed[1]
            training.join(POLL_SECONDS)
        if self._outcome is None:
            raise JobError(
                f"Processes that trained {task['name']!r} failed or were lost {MAX_LOST + 1} times "
                f"({self._failure}); look at the memory of the nodes and at the log of the job, then run the "
                "command again, which goes on from the last checkpoint."
            )
        training.join(END_SECONDS)
        if "error" in self._outcome:
            raise error_of(self._outcome)
        return list(self._outcome["files"])

    def _train(self) -> None:
        """Let Ray Train start the processes, and wait until they have ended."""
        import ray

        try:
            from ray import train
            from ray.train.torch import TorchTrainer
        except ImportError as error:
            text = (
                f"Ray Train cannot be loaded on {socket.gethostname()} ({error}); run `pip install "
                "'puma-workbench[cluster]'` on all nodes."
            )
            self._outcome = {"error": text, "type": "JobError"}
            return
        resources = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        trainer = TorchTrainer(
            train_in_group,
            train_loop_config={"group": ray.get_runtime_context().current_actor, "gpus": self.gpus},
            scaling_config=train.ScalingConfig(
                num_workers=self.workers,
                use_gpu=self.gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=train.RunConfig(
                name=self._run_id,
                storage_path=str(self._scratch.folder / "train"),
                failure_config=train.FailureConfig(max_failures=MAX_LOST),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray raises many kinds
            self._failure = last_line(error)
            self._log.add(str(error))


def train_in_group(settings: Mapping[str, Any]) -> None:
    """Train as one process of a group; Ray Train calls this in each, within a process group of torch.

    settings: the actor of the group, and the GPUs of each process. Raises what was not foreseen,
    such as a lost connection to another process, so that Ray Train starts all again.
    """
    import ray

    group, rank = settings["group"], int(os.environ["RANK"])
    # Accelerate would take it for the device; the loop's is chosen by the local rank.
    os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    if not settings["gpus"]:
        os.environ["ACCELERATE_USE_CPU"] = "true"

    def call(method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(group, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PumaError):
                raise type(error.cause)(str(error.cause)) from None
            raise

    reserved = ray.util.get_current_placement_group()
    task = call("register", rank, node_info() | {"pid": os.getpid(), "reserved": reserved})
    if task is None:
        return
    try:
        outcome = _run_task(task, rank, call)
    except PumaError as error:
        outcome = {"error": str(error), "type": type(error).__name__}
    if outcome is not None:
        if outcome.get("unexpected"):
            raise RuntimeError(outcome["error"])
        call("finish", rank, outcome)


def _run_task(task: dict[str, Any], rank: int, call: Callable[..., Any]) -> dict[str, Any] | None:
    """Fetch what the node lacks, train, and return how that ended; None if the run is over before.

    Of a run that is over, the thread that trains may wait for another process; it ends with this one.
    """
    node = NodeWorker()
    missing = node.missing_models(task["models"])
    task["models"] = [model for model in task["models"] if model["spec"] in missing]
    owners = [*task["runs"], *task["models"], {"files": task["checkpoint"]}]
    needed = {file for owner in owners for file in owner["files"].values()}
    for file, size in call("file_sizes", node.missing_files(sorted(needed))).items():
        _copy(file, size, lambda *part: call("read_block", *part), node.write_block)
    node.start(task)
    if rank:
        return _watch(node, rank, call)
    outcome = _watch_main_process(node, call)
    if outcome is not None:
        _upload(node, outcome.get("files", []), call)
    return outcome


def _watch(node: NodeWorker, rank: int, call: Callable[..., Any]) -> dict[str, Any] | None:
    """Pass on what a process other than the first logs, until it ends or the run is over."""
    seen = 0
    while True:
        time.sleep(POLL_SECONDS)
        state = node.status(seen)
        seen, lines = state["lines"]
        over = call("add_lines", [f"process {rank + 1}: {line}" for line in lines])
        if state["ended"] is not None:
            return dict(state["ended"])
        if over:
            return None


def _watch_main_process(node: NodeWorker, call: Callable[..., Any]) -> dict[str, Any] | None:
    """Pass on what the first process reports and saves, until it ends or the run is over."""
    seen, handed_over, due = 0, "", 0.0
    while True:
        time.sleep(POLL_SECONDS)
        state = node.status(seen)
        seen, lines = state["lines"]
        outcome = state["ended"]
        new = state["checkpoint"] not in ("", handed_over)
        if new and ("error" in (outcome or {}) or time.monotonic() >= due):
            started = time.monotonic()
            files = node.checkpoint()
            if files is not None:
                _upload(node, files, call)
                call("save_checkpoint", {name: file for name, file, _ in files})
                node.discard([file for _, file, _ in files])
                handed_over = state["checkpoint"]
            due = time.monotonic() + (time.monotonic() - started) / CHECKPOINT_SHARE
        run = call("receive", state["report"], lines)
        if outcome is not None:
            return dict(outcome)
        if run["over"]:
            return None
        if run["cancelled"]:
            node.cancel()


def _upload(
    node: NodeWorker, files: Sequence[tuple[str, str, int]], call: Callable[..., Any]
) -> None:
    """Give files (name, SHA-256, bytes) to the group, as far as it lacks them."""
    lacking = set(call("missing_files", [file for _, file, _ in files]))
    for file, size in {file: size for _, file, size in files if file in lacking}.items():
        _copy(file, size, node.read_block, lambda *part: call("write_block", *part))


def _copy(name: str, size: int, read: Callable[..., bytes], write: Callable[..., Any]) -> None:
    """Copy a file by its SHA-256, block by block."""
    for start in range(0, max(size, 1), BLOCK):
        write(name, start, read(name, start, BLOCK), size)
