"""Runs computed on a Ray cluster: this process holds the workspace, nodes hold scratch copies.

For each run this process sends an actor what the run is made from, looks at it twice a second, brings
checkpoints back, and in the end takes the run's files, checks their hashes and commits the run.
Ray is imported when a cluster is asked for, and not before.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

from puma_engine.backbone.gguf_model import find_parts
from puma_engine.backbone.packages import local_path
from puma_engine.errors import ConfigError, JobError, PumaError, StoreError
from puma_engine.files import atomic_write, parse_json, sha256_file
from puma_engine.jobs.cluster_nodes import record_nodes
from puma_engine.jobs.node_worker import (
    BLOCK,
    CHECKPOINT,
    NodeWorker,
    error_of,
    last_line,
    refuse_other_software,
)
from puma_engine.jobs.training_group import MAX_LOST, TrainingGroup
from puma_engine.pipeline import EXECUTORS
from puma_engine.pipeline.backbones import check_backbone, fingerprint, model_files
from puma_engine.pipeline.stage import CancelCheck, Execution, ProgressCallback, StageProgress
from puma_engine.requests import CLUSTER_REQUESTS, TRAINED, Request
from puma_engine.store import Run, Workspace
from puma_engine.store.archives import add_run
from puma_engine.store.records import checked_file_name
from puma_engine.store.run_records import RECORD, read_record

RAY = "ray"
INSTALL = "pip install 'puma-workbench[cluster]'"
CPUS = "PUMA_CLUSTER_CPUS"
WORKERS = "PUMA_CLUSTER_WORKERS"
DEVICES = (None, "auto", "cpu", "cuda")
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0
# Messages that are under way at once; with their size this bounds a transfer's room in the object store.
UNDER_WAY = 4
# Bringing checkpoints back takes at most this share of the time.
CHECKPOINT_SHARE = 0.1

_log = logging.getLogger("puma_engine.jobs")


class NodeLost(JobError):
    """The node that computed a run, or its process, is gone."""


@dataclass
class Node:
    """An actor on a node. name: the node's host name; id: that of Ray; gpus: how many the actor has.

    computing: whether a run was begun there that has not ended yet. reserved: the placement group of a
    training group's processes.
    """

    actor: Any
    name: str
    id: str
    gpus: int
    computing: bool = False
    reserved: Any = None

    @property
    def device(self) -> str | None:
        """The device as commands take it."""
        return None if self.gpus else "cpu"


@dataclass(frozen=True)
class Starting:
    """An actor that was asked for. info: a reference to what it says of its node; see `node_info`."""

    actor: Any
    info: Any


class Cluster:
    """A connection to a Ray cluster that computes runs; several threads may use it at once.

    address: "ray" for the cluster that RAY_ADDRESS names, else for the one of this machine;
    ray://HOST:PORT of a Ray client server; or HOST:PORT of a head node. device: cpu, cuda (one GPU
    a run), auto (all GPUs of a node a run), or None: one GPU where the cluster has some. workers:
    processes that train one run together, each with the CPUs of a run and at most one GPU (default:
    PUMA_CLUSTER_WORKERS, or 1). Raises JobError, ConfigError.
    """

    def __init__(
        self, address: str, *, device: str | None = None, workers: int | None = None
    ) -> None:
        if device not in DEVICES:
            raise ConfigError(
                f"On a cluster Ray chooses the GPU, so the device is cpu, cuda or auto, not {device!r}."
            )
        self.cpus = _whole_number(CPUS, "CPUs")
        self.workers = _whole_number(WORKERS, "processes") if workers is None else workers
        if self.workers < 1:
            raise ConfigError(
                f"{self.workers} processes cannot train; give a number of workers, 1 or more."
            )
        if self.workers > 1 and device == "auto":
            raise ConfigError(
                "The layers of a model are spread over the GPUs of one process, and each of several has one; "
                "leave out --device auto or --workers."
            )
        self.address = address
        self._own = connect(address)
        import ray

        self._ray = ray
        self.gpus = self._gpus_of_a_run(device)
        self._idle: list[Node] = []
        self._guard = threading.Lock()
        # A lock is dropped when no thread computes the run or waits for it any more.
        self._at_work: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and the connection if this object made it."""
        self.end_idle()
        if self._own:
            self._ray.shutdown()

    def end_idle(self) -> None:
        """End the actors that compute nothing now, which hold their CPUs and scratch folders."""
        with self._guard:
            idle, self._idle = self._idle, []
        for node in idle:
            self.end(node)

    def capacity(self, gpus: int | None = None) -> int:
        """Return how many processes the cluster can compute with at once now, at least 1.

        gpus: of each (default: as of a run).
        """
        have, gpus = self._ray.cluster_resources(), self.gpus if gpus is None else gpus
        by_cpu = int(have.get("CPU", 0)) // self.cpus
        return max(1, min(by_cpu, int(have.get("GPU", 0)) // gpus) if gpus else by_cpu)

    def run(
        self,
        ws: Workspace,
        command: str,
        arguments: Mapping[str, Any],
        *,
        progress: ProgressCallback | None = None,
        should_cancel: CancelCheck | None = None,
    ) -> Any:
        """Execute a command of `requests.CLUSTER_REQUESTS` and return its run or runs."""
        request = CLUSTER_REQUESTS[command].from_dict(arguments)
        return EXECUTORS[command](ws, request, Execution(None, progress, should_cancel, self))

    def compute(
        self, ws: Workspace, run: Run, command: str, request: Request, execution: Execution
    ) -> Run:
        """Compute a run that was begun on a node, and commit it here; see `stage.RemoteExecutor`.

        Trainings are shared by `workers` processes, which may be on several nodes. A lost node is
        replaced, and the run goes on from the last checkpoint that was brought back. Raises what
        the computation raises there, Cancelled, and JobError.
        """
        record_nodes(ws, self.address, self._ray.nodes())
        with self._guard:
            lock = self._at_work.setdefault(run.id, threading.Lock())
        with lock:
            for lost in range(MAX_LOST + 1):
                current = ws.run(run.id)
                if current.status == "finished":
                    return current
                try:
                    grouped = self.workers > 1 and command in TRAINED
                    with self._group() if grouped else self._node(execution) as node:
                        return RemoteRun(self, node, ws, run, command, request, execution).compute()
                except NodeLost as error:
                    if lost == MAX_LOST:
                        raise JobError(
                            f"The node of {run.name!r} was lost {lost + 1} times ({error}); look at the "
                            "memory of the nodes, then run the command again, which goes on from the last "
                            "checkpoint."
                        ) from error
                    _log.warning("%s was lost (%s); it goes on elsewhere", run.name, error)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _node(self, execution: Execution) -> Iterator[Node]:
        """Lend an actor to a run; one whose work did not end in order is ended itself."""
        node = self._take_idle() or self._wait_for_node(execution)
        try:
            yield node
        except BaseException as error:
            in_order = isinstance(error, PumaError) and not isinstance(error, NodeLost)
            if in_order and not node.computing:
                self._give_back(node)
            else:
                self.end(node)
            raise
        self._give_back(node)

    @contextlib.contextmanager
    def _group(self) -> Iterator[Node]:
        """Lend an actor that has a run trained by several processes, and end it and them afterwards."""
        starting = self.begin(TrainingGroup, self.workers, self.cpus, self.gpus, cpus=0, gpus=0)
        try:
            # It reserves no CPU, so that it starts at once.
            node = replace(self.ready(starting), gpus=self.gpus)
            try:
                yield node
            finally:
                if node.reserved is not None:
                    # Where the actor was lost, Ray Train would keep it until this process ends.
                    self._ray.util.remove_placement_group(node.reserved)
        finally:
            self.end(starting)

    def _take_idle(self) -> Node | None:
        with self._guard:
            return self._idle.pop() if self._idle else None

    def _wait_for_node(self, execution: Execution) -> Node:
        """Return a new actor, or one that another thread gave back while there was no room for it."""
        starting = self.begin(NodeWorker)
        try:
            while self.first_ready([starting.info]) is None:
                if (node := self._take_idle()) is not None:
                    self.end(starting)
                    return node
                self.wait_for_room(execution)
        except BaseException:
            self.end(starting)
            raise
        return self.ready(starting)

    def _give_back(self, node: Node) -> None:
        with self._guard:
            self._idle.append(node)

    def end(self, node: Node | Starting) -> None:
        """End the actor of a node."""
        self.kill(node.actor)

    def kill(self, actor: Any) -> None:
        """End an actor."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def begin(
        self, kind: type, *arguments: Any, cpus: int | None = None, gpus: int | None = None
    ) -> Starting:
        """Ask for an actor; it starts where and when there is room.

        kind: a class with a method `info` that returns `node_info`. cpus, gpus: what it takes
        (default: what a run does).
        """
        options = {
            "num_cpus": self.cpus if cpus is None else cpus,
            "num_gpus": self.gpus if gpus is None else gpus,
            "max_restarts": 0,
        }
        actor: Any = self._ray.remote(kind).options(**options).remote(*arguments)
        return Starting(actor, actor.info.remote())

    def ready(self, starting: Starting) -> Node:
        """Return an actor that runs. Raises NodeLost; JobError for other versions there."""
        try:
            info = self.get(starting.info)
            refuse_other_software(info["software"], info["name"])
        except BaseException:
            self.end(starting)
            raise
        return Node(starting.actor, info["name"], info["id"], self.gpus)

    def wait_for_room(self, execution: Execution) -> None:
        """Say that work waits for a node. Raises Cancelled."""
        needed = f"{self.cpus} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")
        execution.announce(f"waiting for a node with {needed}")

    def put(self, value: Any) -> Any:
        """Return a reference to a value that is put in the object store."""
        return self._ray.put(value)

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Call a method of an actor and return what it returns.

        Raises the method's PumaError; NodeLost where the actor is gone, JobError for other failures.
        """
        return self.get(getattr(actor, method).remote(*arguments))

    def first_ready(self, refs: Sequence[Any]) -> Any:
        """Return one of some objects that is there, or None if none comes within POLL_SECONDS."""
        ready, _ = self._ray.wait(list(refs), timeout=POLL_SECONDS)
        return ready[0] if ready else None

    def get(self, ref: Any) -> Any:
        """Return the value of an object of the cluster; errors as `call`."""
        lost = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except lost.RayTaskError as error:
            if isinstance(error.cause, PumaError):
                raise type(error.cause)(str(error.cause)) from None
            raise JobError(f"A node failed: {last_line(error)}") from error
        except (lost.RayActorError, lost.NodeDiedError, lost.ObjectLostError) as error:
            raise NodeLost(last_line(error)) from error
        except lost.RayError as error:
            raise JobError(
                f"The cluster failed: {last_line(error)}; look at `ray status` on its head node."
            ) from error

    def _gpus_of_a_run(self, device: str | None) -> int:
        if device == "cpu":
            return 0
        each = [int(node["Resources"].get("GPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        if device == "cuda" and not any(each):
            raise ConfigError("The cluster has no GPU; leave out --device, or give --device cpu.")
        return max(each) if device == "auto" else min(1, max(each))


class RemoteRun:
    """One run on one node: its inputs there, its checkpoints and its files back here."""

    def __init__(
        self,
        cluster: Cluster,
        node: Node,
        ws: Workspace,
        run: Run,
        command: str,
        request: Request,
        execution: Execution,
    ) -> None:
        self.cluster, self.node, self.ws, self.run = cluster, node, ws, run
        self.command, self.request, self.execution = command, request, execution
        self.saved = _saved_at(ws.work(run.id))

    def compute(self) -> Run:
        """Send the inputs, wait for the run, and commit it. Raises what the computation raises."""
        self._announce(f"sending inputs to {self.node.name}")
        task = self._task()
        self.node.computing = True
        self._call("start", task)
        seen, brought, due, cancelled = 0, "", 0.0, False
        while True:
            state = self._call("status", seen)
            seen, lines = state["lines"]
            self.node.reserved = state.get("reserved")
            for line in lines:
                _log.info("%s: %s", self.node.name, line)
            outcome = state["ended"]
            new = state["checkpoint"] not in ("", brought)
            if new and ("error" in (outcome or {}) or time.monotonic() >= due):
                started = time.monotonic()
                if self._bring_checkpoint():
                    brought = state["checkpoint"]
                now = time.monotonic()
                due = now + (now - started) / CHECKPOINT_SHARE
            if outcome is not None:
                self.node.computing = False
                break
            self._report_progress(state["report"])
            if not cancelled and self._is_cancelled():
                cancelled = True
                self._call("cancel")
            time.sleep(POLL_SECONDS)
        if "error" in outcome:
            raise error_of(outcome)
        return self._commit(outcome["files"])

    def _call(self, method: str, *arguments: Any) -> Any:
        return self.cluster.call(self.node.actor, method, *arguments)

    def _is_cancelled(self) -> bool:
        should_cancel = self.execution.should_cancel
        return should_cancel is not None and should_cancel()

    def _announce(self, stage: str) -> None:
        self.execution.check_cancel(stage)
        self._report_progress({"stage": stage})

    def _report_progress(self, report: dict[str, Any] | None) -> None:
        if report is None or self.execution.progress is None:
            return
        known = {item.name for item in fields(StageProgress)}
        values = {name: value for name, value in report.items() if name in known}
        # After the loss of a node, the driver's checkpoint counts, not that of the lost node.
        step, epoch = self.saved
        progress = StageProgress(**values)
        self.execution.progress(
            replace(
                progress,
                node=progress.node or self.node.name,
                saved_step=step,
                saved_epoch=epoch,
            )
        )

    def _task(self) -> dict[str, Any]:
        """Send the files that the node lacks, and return what it is to do."""
        files: dict[str, Path] = {}
        runs = []
        with_files = _inputs_with_files(self.ws, self.run)
        for step in reversed(self.ws.lineage(self.run.id)):
            if step.id == self.run.id:
                continue
            names = {}
            for row in self.ws.artifact_rows(step.id) if step.id in with_files else []:
                names[row["file"]] = row["sha256"]
                files[row["sha256"]] = self.ws.folder(step.id) / row["file"]
            record = self.ws.record_path(step.id).read_text(encoding="utf-8")
            runs.append({"id": step.id, "record": record, "files": names})
        models = self._models()
        for model in models:
            files |= model.pop("paths")
        checkpoint = {}
        for file in self.ws.work(self.run.id).iterdir():
            if file.is_file() and file.name[0] != ".":
                checkpoint[file.name] = sha256_file(file)
                files[checkpoint[file.name]] = file
        self._send(files)
        by_name = replace(self.request, name=self.run.name)  # type: ignore[call-arg]
        return {
            "run_id": self.run.id,
            "kind": self.run.kind,
            "name": self.run.name,
            "config": self.run.config,
            "inputs": self.run.inputs,
            "seed": self.run.seed,
            "command": self.command,
            "request": by_name.to_dict(),
            "device": self.node.device,
            "runs": runs,
            "models": models,
            "checkpoint": checkpoint,
        }

    def _models(self) -> list[dict[str, Any]]:
        """Return the models that the node lacks, with the paths of their files by SHA-256.

        A hub model is not sent: the node fetches its commit from the hub, or from a shared cache.
        """
        models = {}
        for run_id in _models_of(self.ws, self.run):
            model = check_backbone(self.ws, run_id)
            spec, revision = model.config["spec"], model.config["revision"]
            paths = model_files(spec)
            if paths is not None:
                current = fingerprint(self.ws, spec, revision)
                models[spec] = {"spec": spec, "revision": revision, "fingerprint": current}
        missing = self._call("missing_models", list(models.values())) if models else []
        for spec in missing:
            paths, parts = model_files(spec) or [], find_parts(local_path(spec))
            hashes = {path.name: self.ws.file_hash(path) for path in paths}
            models[spec] |= {
                "files": hashes,
                "only": parts[0].name if parts else None,
                "paths": {hashes[path.name]: path for path in paths},
            }
        return [models[spec] for spec in missing]

    def _send(self, files: dict[str, Path]) -> None:
        under_way: deque[Any] = deque()
        for name in self._call("missing_files", list(files)):
            size, start = files[name].stat().st_size, 0
            with files[name].open("rb") as file:
                while True:
                    block = file.read(BLOCK)
                    under_way.append(self.node.actor.write_block.remote(name, start, block, size))
                    start += len(block)
                    if len(under_way) >= UNDER_WAY:
                        self.cluster.get(under_way.popleft())
                        self.execution.check_cancel(self.run.name)
                    if start >= size or not block:
                        break
        for ref in under_way:
            self.cluster.get(ref)

    def _fetch(self, name: str, size: int, target: Path) -> None:
        """Read a file of the node to a path, and check its hash. Raises StoreError."""
        starts = deque(range(0, size, BLOCK))
        under_way: deque[Any] = deque()
        try:
            with target.open("wb") as out:
                while starts or under_way:
                    while starts and len(under_way) < UNDER_WAY:
                        read = self.node.actor.read_block.remote(name, starts.popleft(), BLOCK)
                        under_way.append(read)
                    out.write(self.cluster.get(under_way.popleft()))
        except OSError as error:
            raise StoreError(
                f"The file {target} cannot be written ({error.strerror}); make room on the disk of the "
                "workspace, then run the command again."
            ) from error
        if sha256_file(target) != name:
            raise StoreError(
                f"A file of {self.run.name!r} arrived damaged from {self.node.name} (its hash differs); "
                "run the command again."
            )

    def _bring_checkpoint(self) -> bool:
        """Bring the node's checkpoint here, its record last; False if it is incomplete or changed meanwhile."""
        offered = self._call("checkpoint")
        if offered is None:
            return False
        folder = self.ws.work(self.run.id)
        for name, file, size in sorted(offered, key=lambda item: item[0] == CHECKPOINT):
            path = folder / checked_file_name(name)
            if not path.exists() or sha256_file(path) != file:
                atomic_write(path, functools.partial(self._fetch, file, size))
        names = {name for name, *_ in offered}
        for path in folder.iterdir():
            if path.is_file() and path.name not in names:
                path.unlink()
        self._call("discard", [file for _, file, _ in offered])
        self.saved = _saved_at(folder)
        return True

    def _commit(self, files: Sequence[tuple[str, str, int]]) -> Run:
        """Take the files of the finished run, check them, and add the run in one transaction."""
        staging = self.ws.root / f".cluster.{secrets.token_hex(4)}.tmp"
        folder = staging / self.run.id
        folder.mkdir(parents=True, mode=0o700)
        try:
            for name, file, size in files:
                self._fetch(file, size, folder / checked_file_name(name))
            record = read_record(folder / RECORD)
            recorded = {row["file"]: row["sha256"] for row in record["artifacts"]}
            received = {name: file for name, file, _ in files if name != RECORD}
            if recorded != received or record["run"]["status"] != "finished":
                raise StoreError(
                    f"The run {self.run.name!r} did not come back whole from {self.node.name}; run the "
                    "command again."
                )
            add_run(self.ws, staging, self.run.id, record)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return self.ws.run(self.run.id)


def connect(address: str) -> bool:
    """Connect this process to a cluster; return whether it was not connected before.

    Raises JobError where Ray is missing, the cluster cannot be reached, or it has another version.
    """
    try:
        import ray
    except ImportError:
        raise JobError(
            f"Work on a cluster needs the package ray, which is not installed; run `{INSTALL}`."
        ) from None
    if ray.is_initialized():
        return False
    resolved = (os.environ.get("RAY_ADDRESS") or "auto") if address == RAY else address
    if resolved != "auto":
        _check_reachable(resolved)
    on_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=resolved, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises many kinds, some of its own
        where = "of this machine" if resolved == "auto" else resolved
        raise JobError(
            f"The Ray cluster {where} cannot be used ({last_line(error)}); start one with `ray start "
            "--head`, name another with --on ray://HOST:10001 or RAY_ADDRESS, or, if it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
        ) from error
    finally:
        if on_main:
            # Ray takes SIGTERM, which stops a job at its next checkpoint.
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return True


def _check_reachable(address: str) -> None:
    """Raise JobError unless something listens at an address; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise JobError(
            f"Nothing answers at {address} ({error}); check that the Ray cluster runs, and that this machine "
            "reaches that port."
        ) from error


def _whole_number(variable: str, unit: str) -> int:
    """Return what an environment variable counts, or 1. Raises ConfigError."""
    text = os.environ.get(variable, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"{variable} is {text!r}; it must be a whole number of {unit}, 1 or more."
        )
    return int(text)


def _inputs_with_files(ws: Workspace, run: Run) -> set[str]:
    """Return the runs whose files a computation reads: its inputs, and the data and users of those."""
    chosen = set(run.inputs.values())
    for run_id in tuple(chosen):
        for input_id in ws.run(run_id).inputs.values():
            if ws.run(input_id).kind in ("dataset", "selection"):
                chosen.add(input_id)
    return chosen


def _models_of(ws: Workspace, run: Run) -> list[str]:
    """Return the backbones that a computation loads."""
    inputs = [ws.run(run_id) for run_id in run.inputs.values()]
    added = [item.id for item in inputs if item.kind == "backbone"]
    if added and "from_predictions" not in run.config:
        return added
    read_by = [item.inputs["backbone"] for item in inputs if "backbone" in item.inputs]
    return list(dict.fromkeys(added + read_by))


def _saved_at(folder: Path) -> tuple[int, int]:
    """Return the step and epoch of the checkpoint in a folder; 0 and 0 without one."""
    try:
        state = parse_json((folder / CHECKPOINT).read_text(encoding="utf-8"))["state"]
        return int(state["step"]), int(state["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
