"""What all stages share: computing one run in the workspace, its progress and its execution."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from puma_engine.backbone.templates import get_template
from puma_engine.config import TrainingConfig
from puma_engine.errors import Cancelled, NotFoundError, PumaError, StoreError, TrainingError
from puma_engine.store import Run, Workspace
from puma_engine.store.records import now
from puma_engine.store.runs import preferred_runs
from puma_engine.training import distributed

if TYPE_CHECKING:
    from puma_engine.requests import Request

_log = logging.getLogger(__name__)
MAX_NAME_LENGTH = 150
# Seconds that a failed process waits for the first one, which fails a moment later if all fail alike.
FAILURE_SECONDS = 10.0
PROMPT_KINDS = ("prompts", "migration")
Reference: TypeAlias = Run | str


@dataclass
class StageResult:
    """The result of a stage's computation, which is stored in its run.

    device: where it was computed. cost and summary: stored in the run. save(run id) writes the
    artifacts; it is needed if several processes share the computation, since only the first may
    write. describe() returns more entries of the summary. It is called after the run's seconds were
    measured, since describing a result is not part of the work.
    """

    device: str = "cpu"
    cost: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    save: Callable[[str], None] | None = None
    describe: Callable[[], dict[str, Any]] | None = None


class Clock:
    """Seconds of computing, interrupted attempts included, loading of models excluded."""

    def __init__(self, folder: Path) -> None:
        self.before = 0.0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            record = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
            self.before = float(record["state"]["seconds"])
        self.started = time.perf_counter()

    def restart(self) -> None:
        """Start measuring again; called after the models are loaded."""
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started


Compute = Callable[[str, Path, Clock], StageResult]
RemoteCompute = Callable[[Workspace, Run], Run]


def run_stage(
    ws: Workspace,
    kind: str,
    *,
    name: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    compute: Compute,
    seed: int | None = None,
    data_parallel: bool = False,
    remote_compute: RemoteCompute | None = None,
) -> Run:
    """Return the finished run of this kind, config, inputs and seed; compute it if there is none.

    compute(run id, checkpoint folder, clock) does the work; remote_compute, if given, does it on a
    cluster (see `Execution.remote_compute`). If it fails or is cancelled, the run is marked, its
    checkpoints are kept, and running the stage again resumes it. Of several processes, the first
    computes; with data_parallel the others compute with it and write nothing. All return the same
    run. Raises what compute raises; StoreError or Cancelled if the first process failed.
    """
    several = distributed.world_size() > 1
    if several:
        # No process may look up the run before all have come here.
        distributed.broadcast("ready")
        if not distributed.is_main_process():
            return _follow(ws, compute)
    try:
        run = ws.begin(kind, name=name, config=config, inputs=inputs, seed=seed)
        if run.status != "finished":
            if several and data_parallel:
                distributed.broadcast({"compute": run.id})
            run = _compute(ws, run, compute, remote_compute)
    except PumaError as error:
        if several:
            distributed.broadcast({"error": str(error), "cancelled": isinstance(error, Cancelled)})
        raise
    if several:
        distributed.broadcast({"done": run.id})
    return run


def _follow(ws: Workspace, compute: Compute) -> Run:
    """In another process than the first: compute with it if needed, write nothing, and return its run."""
    message = distributed.broadcast(None)
    if "compute" in message:
        folder = ws.work(message["compute"])
        try:
            compute(message["compute"], folder, Clock(folder))
        except PumaError as error:
            # If the first process fails in the same way, it records the error; otherwise this error is raised.
            if not isinstance(error, Cancelled):
                _log.info("A process that trains with others failed: %s", error)
            _wait_for_failure()
            raise
        message = distributed.broadcast(None)
    if "error" in message:
        raise (Cancelled if message["cancelled"] else StoreError)(message["error"])
    return ws.run(message["done"])


def _wait_for_failure() -> None:
    """Wait for a message of the first process that it failed, too; only briefly, since it may be training."""

    def wait() -> None:
        # While it is training, its messages are others.
        with contextlib.suppress(Exception):
            distributed.broadcast(None)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(FAILURE_SECONDS)


def _compute(
    ws: Workspace, run: Run, compute: Compute, remote_compute: RemoteCompute | None
) -> Run:
    """Compute a run that was begun, and finish it or mark it as failed."""
    folder = ws.work(run.id)
    clock = Clock(folder)
    try:
        if remote_compute is not None:
            finished = remote_compute(ws, run)
        else:
            result = compute(run.id, folder, clock)
            if result.save is not None:
                result.save(run.id)
            seconds = clock.seconds
            if result.describe is not None:
                result.summary |= result.describe()
    except BaseException as problem:
        error = _plain(problem)
        with contextlib.suppress(OSError):
            folder.rmdir()  # fails on purpose if there is a checkpoint
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt | PumaError):
            reason = str(error) or "Interrupted."
        stopped = isinstance(error, KeyboardInterrupt | Cancelled)
        ws.fail(run.id, reason, interrupted=stopped)
        if error is problem:
            raise
        raise error from problem
    if remote_compute is None:
        finished = ws.finish(
            run.id,
            seconds=seconds,
            device=result.device,
            cost=result.cost,
            summary=result.summary,
        )
    shutil.rmtree(folder, ignore_errors=True)
    return finished


def _plain(error: BaseException) -> BaseException:
    """Return an exception; for a GPU without free memory, one with advice."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            f"The GPU has no memory left ({str(error).partition('. ')[0]}); use a smaller batch "
            "size or fewer processes, or --device cpu."
        )
    return error


def find(ws: Workspace, reference: Reference, *kinds: str) -> Run:
    """Return a finished run of one of the kinds by object, id, prefix or name.

    Raises NotFoundError; StoreError when the run is not finished or several have the name.
    """
    run = look_up(ws, reference, *kinds)
    if run.status == "damaged":
        raise StoreError(str(run.error))
    if run.status != "finished":
        raise StoreError(
            f"The {run.kind} run {run.name!r} ({run.id}) is {run.status}, not finished; run its "
            "command again to complete it."
        )
    return run


def look_up(ws: Workspace, reference: Reference, *kinds: str) -> Run:
    """Return a run like `find`, finished or not; of several, the preferred one (`preferred_runs`).

    Raises NotFoundError; StoreError when several match.
    """
    if isinstance(reference, Run):
        run = ws.run(reference.id)
    else:
        matches = ws.matches(reference)
        suitable = [match for match in matches if not kinds or match.kind in kinds]
        several = preferred_runs(suitable, reference)
        if len(several) > 1:
            ids = ", ".join(match.id for match in several)
            raise StoreError(
                f"{len(several)} runs match {reference!r} ({ids}); give an id instead."
            )
        run = several[0] if several else ws.run(reference)
    if kinds and run.kind not in kinds:
        raise NotFoundError(
            f"The run {run.name!r} ({run.id}) is of kind {run.kind}; this needs "
            f"{' or '.join(kinds)}."
        )
    return run


def settings_of(training: TrainingConfig) -> dict[str, Any]:
    """Return the settings that decide a training's result, for the config of its run."""
    values = training.to_dict()
    del values["checkpoint_seconds"]
    return values


def slug(*parts: str | float | None) -> str:
    """Join non-empty parts to a run name that needs no quotes in a shell."""
    words = [
        str(part).replace("/", "-").replace(" ", "-") for part in parts if part not in (None, "")
    ]
    return "-".join(words)[:MAX_NAME_LENGTH]


@dataclass(frozen=True)
class StageProgress:
    """A progress report: figures of a stage as in the training loop, and of all parts of a command.

    overall: the share of all parts that is done, in [0, 1]; None for a command with one part.
    unmeasured: the share of the remaining work whose duration was never measured, in [0, 1]. parts:
    of a command with several, each with its title, status (waiting, running, finished, or reused
    for a run that existed before) and seconds. eta_seconds, saved_step and saved_epoch: of this
    stage (see `puma_engine.training.loop.Progress`). node: the cluster node that computes.
    """

    stage: str
    epoch: int = 0
    step: int = 0
    total: int = 0
    loss: float | None = None
    examples_per_second: float | None = None
    eta_seconds: float | None = None
    validation: float | None = None
    saved_step: int = 0
    saved_epoch: int = 0
    overall: float | None = None
    unmeasured: float = 0.0
    parts: tuple[dict[str, Any], ...] = ()
    node: str | None = None


ProgressCallback = Callable[[Any], None]
CancelCheck = Callable[[], bool]


class RemoteExecutor(Protocol):
    """Computes runs outside of this process, such as on a cluster."""

    def compute(
        self, ws: Workspace, run: Run, command: str, request: Request, execution: Execution
    ) -> Run:
        """Compute a run that was begun, store it in the workspace as finished, and return it.

        command: the name of the request in `puma_engine.pipeline.EXECUTORS`.
        """


@dataclass(frozen=True)
class Execution:
    """The execution of a request: its device, and its callbacks for progress and cancelling.

    device: cpu, cuda, cuda:N, auto (spread over all GPUs) or None for the best available. remote:
    computes the runs instead of this process.
    """

    device: str | None = None
    progress: ProgressCallback | None = None
    should_cancel: CancelCheck | None = None
    remote: RemoteExecutor | None = None

    def remote_compute(self, command: str, request: Request) -> RemoteCompute | None:
        """Return a function that computes the run of a request elsewhere; None if it is computed here.

        request: with ids of runs, since a name may be another run there.
        """
        remote = self.remote
        if remote is None:
            return None
        if template := getattr(request, "template", None):
            # A template may be a file on this machine.
            request = replace(request, template=get_template(template).spec)  # type: ignore[call-arg]
        return lambda ws, run: remote.compute(ws, run, command, request, self)

    def announce(self, stage: str) -> None:
        """Report that a stage without steps of its own begins; raise Cancelled if it must not."""
        self.check_cancel(stage)
        if self.progress is not None:
            self.progress(StageProgress(stage))

    def check_cancel(self, stage: str) -> None:
        """Raise Cancelled if the work was cancelled."""
        if self.should_cancel is not None and self.should_cancel():
            raise Cancelled(f"Cancelled before {stage}.")

    def part(self, overall: OverallProgress, number: int) -> Execution:
        """Return the execution of one part of some work."""
        return replace(self, progress=overall.part(number))

    @property
    def callbacks(self) -> dict[str, Any]:
        """The callbacks as keyword arguments of a training."""
        return {"progress": self.progress, "should_cancel": self.should_cancel}


@dataclass
class Part:
    """A part of some work. weight: its expected duration relative to the others', best in seconds.

    measured: whether the weight comes from measurements. status and seconds: as in `StageProgress`.
    """

    title: str
    weight: float
    measured: bool = True
    status: str = "waiting"
    seconds: float | None = None
    done: float = 0.0


class OverallProgress:
    """Converts reports of consecutive parts to reports about all of them.

    parts: in order, or only their expected relative durations. A part whose run existed does not
    count, so that the share done grows with the work that is done now.
    """

    def __init__(
        self,
        parts: Sequence[Part | float],
        progress: ProgressCallback | None,
    ) -> None:
        self.parts = [part if isinstance(part, Part) else Part("", part) for part in parts]
        self.progress = progress

    def part(self, number: int) -> ProgressCallback | None:
        """Return the callback of one part."""
        if self.progress is None:
            return None
        part = self.parts[number]

        def report(inner: Any) -> None:
            share = getattr(inner, "overall", None)
            if share is None:
                share = inner.step / inner.total if inner.total else 0.0
            # A part may report several stages, each with steps of its own.
            part.done = max(part.done, min(share, 1.0))
            self._report(inner)

        return report

    def do(
        self, number: int, execution: Execution, work: Callable[[Execution], Run | list[Run]]
    ) -> Any:
        """Do a part, report its start and end, and return its run or runs."""
        part, started, begun_at = self.parts[number], time.monotonic(), now()
        execution.check_cancel(part.title)
        part.status = "running"
        self._report(StageProgress(part.title))
        result = work(execution.part(self, number))
        runs = result if isinstance(result, list) else [result]
        if all(run.finished is not None and run.finished < begun_at for run in runs):
            self.skip(number)
        else:
            part.seconds = time.monotonic() - started
            part.status, part.done = "finished", 1.0
        self._report(StageProgress(part.title))
        return result

    def skip(self, number: int) -> None:
        """Record that a part took no time because its run existed."""
        self.parts[number].status, self.parts[number].done = "reused", 1.0

    def _report(self, inner: Any) -> None:
        if self.progress is None:
            return
        counted = [part for part in self.parts if part.status != "reused"]
        total = sum(part.weight for part in counted)
        remaining = [(part, part.weight * (1.0 - part.done)) for part in counted]
        remaining_weight = sum(weight for _, weight in remaining)
        unmeasured_weight = sum(weight for part, weight in remaining if not part.measured)
        names = [item.name for item in fields(StageProgress)]
        values = {name: getattr(inner, name) for name in names if hasattr(inner, name)}
        values |= {
            "overall": 1.0 - remaining_weight / total if total else 1.0,
            "unmeasured": unmeasured_weight / remaining_weight if remaining_weight else 0.0,
            "parts": tuple(
                {"title": part.title, "status": part.status, "seconds": part.seconds}
                for part in self.parts
                if part.title
            ),
        }
        self.progress(StageProgress(**values))
