"""Run the cells of a study in order of their dependencies, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine import pipeline
from puma_engine.errors import Cancelled, PumaError, StudyError
from puma_engine.jobs.dispatch import open_cluster
from puma_engine.pipeline.stage import CancelCheck, ProgressCallback, StageProgress
from puma_engine.requests import CLUSTER_REQUESTS, TRAINED
from puma_engine.store import Workspace
from puma_engine.studies.cells import TUNED_SETTINGS, Cell
from puma_engine.training.cpu_threads import allowed_cores

if TYPE_CHECKING:
    from puma_engine.jobs.cluster import Cluster

WITHOUT_DEVICE = ("import_dataset", "vectors_from_baseline")
SAVE_SECONDS = 20


@dataclass
class Outcome:
    """The outcome of a study: run ids by cell, errors of failed cells, and cells that were not started."""

    runs: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def reuse_settings(cells: Sequence[Cell], settings: dict[str, dict[str, Any]]) -> list[Cell]:
    """Return the cells with settings of an earlier report, without the candidates that chose them.

    settings: training, prompt and adapter settings by the name of the "best" cell that chose them,
    as in a report. Cells of other choices are unchanged.
    """
    chosen = {cell.name: cell for cell in cells if cell.stage == "best" and cell.name in settings}
    dropped = {name for cell in chosen.values() for name in cell.inputs["candidates"]} | set(chosen)
    remaining = []
    for cell in cells:
        if cell.settings_from in settings:
            earlier = settings[cell.settings_from]
            tuned = {
                part: earlier[part] for part in TUNED_SETTINGS if earlier.get(part) is not None
            }
            cell = replace(cell, settings_from=None, settings=tuned | cell.settings)
        if cell.name not in dropped:
            remaining.append(cell)
    # Cells that only dropped cells need are dropped, too, unless they are scored.
    unused = {name for cell in cells if cell.name in dropped for name in cell.dependencies}
    while True:
        needed = {name for cell in remaining for name in cell.dependencies}
        idle = [cell for cell in remaining if cell.name in unused - needed and not cell.labels]
        if not idle:
            return remaining
        remaining = [cell for cell in remaining if cell not in idle]
        unused = {name for cell in idle for name in cell.dependencies}


def run_cells(
    ws: Workspace,
    cells: Sequence[Cell],
    *,
    processes: int | None = None,
    minutes: float | None = None,
    device: str | None = None,
    on: str | None = None,
    workers: int | None = None,
    precision: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
    save: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run every cell; a run that the workspace has already is not made again.

    A failed cell only stops the cells that depend on it. processes: number of cells that run at the
    same time (default: 1, or as many as the cluster has room for). minutes: start no cell after
    this time. device, precision: of all stages and trainings; None: the default. on: the cluster
    that computes the cells; workers: processes there that train one cell together (see
    `puma_engine.jobs.dispatch`). progress: called after each cell. should_cancel: asked before each
    cell and within the stages. save: called with the outcome so far about every 20 seconds. Raises
    StudyError where two cells have the same name; Cancelled where should_cancel returned true
    (finished runs stay in the workspace).
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise StudyError("Two cells of the study have the same name; give each its own.")
    stop_at = None if minutes is None else time.monotonic() + 60 * minutes
    cluster = open_cluster(on, device, workers)
    with cluster or nullcontext():
        # Backbones are added first, so that parallel cells do not add the same one.
        names = ("backbone", "target")
        specs = {cell.settings[name] for cell in cells for name in names if name in cell.settings}
        for spec in specs:
            pipeline.add_backbone(ws, spec, device=None if cluster else device)
        if cluster is None:
            processes = processes or 1
            pool = _workers(ws.root, processes, device, should_cancel)
        else:
            processes = processes or max(1, cluster.capacity() // cluster.workers)
            pool = _threads(ws, cluster, processes, should_cancel)
        with pool as submit:

            def start(cell: Cell, runs: dict[str, str]) -> Future[str]:
                return submit(cell, _arguments(ws, cell, runs, precision))

            return _run_in_order(cells, start, processes, stop_at, should_cancel, progress, save)


def _run_in_order(
    cells: Sequence[Cell],
    start: Callable[[Cell, dict[str, str]], Future[str]],
    max_running: int,
    stop_at: float | None,
    should_cancel: CancelCheck | None,
    progress: ProgressCallback | None,
    save: Callable[[Outcome], None] | None,
) -> Outcome:
    """Start each cell when its dependencies are finished, and collect the outcome.

    start: starts a cell, given the run ids of finished cells. stop_at: no cell starts after this
    time, of `time.monotonic`.
    """
    waiting = {cell.name: cell for cell in cells}
    outcome, saved = Outcome(), time.monotonic()
    running: dict[Future[str], str] = {}
    while waiting or running:
        if should_cancel is not None and should_cancel():
            raise Cancelled("The study was cancelled; finished runs stay in the workspace.")
        late = stop_at is not None and time.monotonic() > stop_at
        for cell in [] if late else list(waiting.values()):
            if len(running) >= max_running:
                break
            if all(name in outcome.runs for name in cell.dependencies):
                running[start(cell, outcome.runs)] = cell.name
                del waiting[cell.name]
        if not running:
            break
        for future in wait(running, return_when=FIRST_COMPLETED, timeout=1.0).done:
            name = running.pop(future)
            try:
                outcome.runs[name] = future.result()
            except Cancelled:
                raise
            except PumaError as error:
                outcome.failed[name] = str(error)
            if progress is not None:
                done, total = len(outcome.runs), len(cells)
                progress(StageProgress("cells", 0, done, total, overall=done / total))
        if save is not None and time.monotonic() - saved > SAVE_SECONDS:
            save(outcome)
            saved = time.monotonic()
    outcome.missing = list(waiting)
    return outcome


def _arguments(
    ws: Workspace, cell: Cell, runs: dict[str, str], precision: str | None
) -> dict[str, Any]:
    """Return the arguments of a cell's stage: its settings and input runs."""
    arguments: dict[str, Any] = {}
    if cell.settings_from is not None:
        config = ws.run(runs[cell.settings_from]).config
        arguments |= {part: config[part] for part in TUNED_SETTINGS if part in config}
    arguments |= cell.settings
    if precision is not None and cell.stage in TRAINED:
        arguments["training"] = arguments.get("training", {}) | {"precision": precision}
    for argument, names in cell.inputs.items():
        arguments[argument] = runs[names] if isinstance(names, str) else [runs[n] for n in names]
    return arguments


@contextmanager
def _workers(
    root: Path, processes: int, device: str | None, should_cancel: CancelCheck | None
) -> Iterator[Callable[[Cell, dict[str, Any]], Future[str]]]:
    """Context manager: a function that runs a cell in this process or in a pool of processes."""
    if processes == 1:

        def run_here(cell: Cell, arguments: dict[str, Any]) -> Future[str]:
            future: Future[str] = Future()
            try:
                future.set_result(run_cell(root, cell.stage, arguments, device, should_cancel))
            except Exception as error:  # the future raises it, as with a pool
                future.set_exception(error)
            return future

        yield run_here
        return
    threads = max(1, len(allowed_cores()) // processes)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = before or str(threads)
    context = multiprocessing.get_context("spawn")
    stop, started = context.Event(), context.Value("i", 0)
    arguments = (os.getpid(), stop, started, _gpus(device))
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_start_worker, initargs=arguments
    )
    try:
        with _ending(pool, stop):
            yield lambda cell, arguments: pool.submit(run_cell, root, cell.stage, arguments, device)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _threads(
    ws: Workspace, cluster: Cluster, count: int, should_cancel: CancelCheck | None
) -> Iterator[Callable[[Cell, dict[str, Any]], Future[str]]]:
    """Context manager: a function that runs a cell on a cluster; a thread waits for each cell."""
    stop = threading.Event()

    def stopped() -> bool:
        return stop.is_set() or (should_cancel is not None and should_cancel())

    def run_there(stage: str, arguments: dict[str, Any]) -> str:
        if stage == "best":
            return _best(ws, **arguments)
        if stage in CLUSTER_REQUESTS:
            return str(cluster.run(ws, stage, arguments, should_cancel=stopped).id)
        return str(getattr(pipeline, stage)(ws, should_cancel=stopped, **arguments).id)

    pool = ThreadPoolExecutor(count)
    with _ending(pool, stop):
        yield lambda cell, arguments: pool.submit(run_there, cell.stage, arguments)


@contextmanager
def _ending(pool: Executor, stop: Any) -> Iterator[None]:
    """Context manager: end a pool; after an error, set the event `stop` so that running cells stop."""
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gpus(device: str | None) -> list[str]:
    """Return the GPUs to distribute over processes; none if a device is named or there is only one."""
    import torch

    if device not in (None, "auto", "cuda") or torch.cuda.device_count() < 2:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]


_worker_should_cancel: CancelCheck | None = None


def _start_worker(parent: int, stop: Any, started: Any, gpus: list[str]) -> None:
    """Set up a worker process: its GPU, and that it stops with the study and ends with its parent."""
    global _worker_should_cancel
    if gpus:
        with started.get_lock():
            number, started.value = started.value, started.value + 1
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]

    def should_cancel() -> bool:
        if os.getppid() != parent:
            # No process waits for this cell, and its checkpoint is complete at any time.
            os._exit(1)
        return bool(stop.is_set())

    _worker_should_cancel = should_cancel


def run_cell(
    root: Path,
    stage: str,
    arguments: dict[str, Any],
    device: str | None,
    should_cancel: CancelCheck | None = None,
) -> str:
    """Run one cell in this process and return its run id."""
    ws = Workspace.open(root)
    if stage == "best":
        return _best(ws, **arguments)
    if stage not in WITHOUT_DEVICE:
        arguments = arguments | {"device": device}
    check = should_cancel or _worker_should_cancel
    return str(getattr(pipeline, stage)(ws, should_cancel=check, **arguments).id)


def _best(
    ws: Workspace,
    candidates: Sequence[str],
    take_input: str | None = None,
    runs_per_candidate: int = 1,
) -> str:
    """Return the id of the run with the lowest validation value, the first of equal ones.

    candidates: run ids. take_input: return this input of the run instead. runs_per_candidate:
    number of consecutive runs of one candidate; their mean is compared, and the first of them is
    returned.
    """
    values = [float(ws.run(run).summary["best_validation"]) for run in candidates]
    step = runs_per_candidate
    totals = [sum(values[start : start + step]) for start in range(0, len(values), step)]
    best = candidates[step * totals.index(min(totals))]
    return best if take_input is None else ws.run(best).inputs[take_input]
