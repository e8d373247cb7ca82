"""Run the cells of a study in order of their dependencies, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from puma_engine import pipeline
from puma_engine.errors import Cancelled, PumaError, StudyError
from puma_engine.pipeline.stage_progress import CancelCheck, ProgressCallback, StageProgress
from puma_engine.store import Workspace
from puma_engine.studies.cells import LENT, Cell

WITHOUT_DEVICE = ("import_dataset",)
TRAINED = ("fit_prompts", "migrate", "refine")


@dataclass
class Outcome:
    """Runs by cell, failures by cell, and the cells that were not tried."""

    runs: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def run_cells(
    ws: Workspace,
    cells: Sequence[Cell],
    *,
    processes: int = 1,
    minutes: float | None = None,
    device: str | None = None,
    precision: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
    keep: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Do every cell that is not done; what exists in the workspace is not done again.

    minutes: begin no cell later than this. precision: of every training. A cell that fails keeps those from running that
    need it, and no others. keep is called with what is known now and then. Raises Cancelled.
    """
    todo = {cell.name: cell for cell in cells}
    if len(todo) < len(cells):
        raise StudyError("Two cells of the study have the same name; each needs its own.")
    outcome, begun, kept = Outcome(), time.monotonic(), time.monotonic()
    _add_backbones(ws, cells, device)
    with _workers(ws.root, processes, device, should_cancel) as submit:
        busy: dict[Future[str], str] = {}
        while todo or busy:
            late = minutes is not None and time.monotonic() - begun > 60 * minutes
            if should_cancel is not None and should_cancel():
                raise Cancelled("The study was cancelled; what is done is kept.")
            for cell in [] if late else _ready(todo, outcome):
                if len(busy) >= processes:
                    break
                arguments = _arguments(ws, cell, outcome.runs, precision)
                busy[submit(cell, arguments)] = cell.name
                del todo[cell.name]
            if not busy:
                break
            for done in wait(busy, return_when=FIRST_COMPLETED, timeout=1.0).done:
                _note(outcome, busy.pop(done), done)
                _tell(progress, len(outcome.runs), len(cells), begun)
            if keep is not None and time.monotonic() - kept > 20:
                keep(outcome)
                kept = time.monotonic()
    outcome.missing = list(todo)
    return outcome


def _add_backbones(ws: Workspace, cells: Sequence[Cell], device: str | None) -> None:
    """Processes that start together must not add the same backbone."""
    settings = [cell.settings for cell in cells]
    for spec in {one[name] for one in settings for name in ("backbone", "target") if name in one}:
        pipeline.add_backbone(ws, spec, device=device)


def _ready(todo: dict[str, Cell], outcome: Outcome) -> list[Cell]:
    return [cell for cell in todo.values() if all(name in outcome.runs for name in cell.waits_for)]


def _note(outcome: Outcome, name: str, done: Future[str]) -> None:
    try:
        outcome.runs[name] = done.result()
    except Cancelled:
        raise
    except PumaError as error:
        outcome.failed[name] = str(error)


def _tell(progress: ProgressCallback | None, done: int, total: int, begun: float) -> None:
    if progress is not None:
        left = (time.monotonic() - begun) / max(done, 1) * (total - done)
        share = done / total
        progress(StageProgress("cells", 0, done, total, overall=share, overall_eta=left))


def _arguments(
    ws: Workspace, cell: Cell, runs: dict[str, str], precision: str | None
) -> dict[str, Any]:
    """What a cell's stage is called with: settings, lent settings, and the runs it needs."""
    found: dict[str, Any] = {}
    if cell.like is not None:
        config = ws.run(runs[cell.like]).config
        found |= {part: config[part] for part in LENT if part in config}
    found |= cell.settings
    if precision is not None and cell.stage in TRAINED:
        found["training"] = found.get("training", {}) | {"precision": precision}
    for argument, needed in cell.needs.items():
        one = isinstance(needed, str)
        found[argument] = runs[str(needed)] if one else [runs[name] for name in needed]
    return found


@contextmanager
def _workers(
    root: Path, processes: int, device: str | None, should_cancel: CancelCheck | None
) -> Iterator[Callable[[Cell, dict[str, Any]], Future[str]]]:
    """Something that does cells: this process, or a pool of others."""
    if processes == 1:

        def here(cell: Cell, arguments: dict[str, Any]) -> Future[str]:
            done: Future[str] = Future()
            try:
                done.set_result(do_cell(root, cell.stage, arguments, device, should_cancel))
            except Exception as error:  # told by the future, as a pool does
                done.set_exception(error)
            return done

        yield here
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    stop, begun = context.Event(), context.Value("i", 0)
    given = (os.getpid(), stop, begun, _gpus(device))
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=given)
    try:
        yield lambda cell, arguments: pool.submit(do_cell, root, cell.stage, arguments, device)
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


_is_over: CancelCheck | None = None


def _gpus(device: str | None) -> list[str]:
    """Names of the GPUs that processes take by turns; none if a device is named, or one is all."""
    import torch

    if device not in (None, "auto", "cuda") or torch.cuda.device_count() < 2:
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


def _begin(parent: int, stop: Any, begun: Any, gpus: list[str]) -> None:
    """Give a worker process its GPU, make it stop when told to, and end with its parent."""
    global _is_over
    if gpus:
        with begun.get_lock():
            turn, begun.value = begun.value, begun.value + 1
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[turn % len(gpus)]

    def is_over() -> bool:
        if os.getppid() != parent:
            # Nobody waits for this cell; its checkpoint is whole at any moment.
            os._exit(1)
        return bool(stop.is_set())

    _is_over = is_over


def do_cell(
    root: Path,
    stage: str,
    arguments: dict[str, Any],
    device: str | None,
    should_cancel: CancelCheck | None = None,
) -> str:
    """Do one cell in this process; return the id of its run."""
    ws = Workspace.open(root)
    if stage == "best":
        return _best(ws, **arguments)
    if stage not in WITHOUT_DEVICE:
        arguments = arguments | {"device": device}
    return str(
        getattr(pipeline, stage)(ws, should_cancel=should_cancel or _is_over, **arguments).id
    )


def _best(ws: Workspace, candidates: Sequence[str], of: str | None = None, each: int = 1) -> str:
    """The run whose training found the lowest validation value, the first of equal ones.

    each: so many runs that follow each other are one candidate, whose mean counts and whose
    first run is it. of: not that run itself, but the run that it had as this input.
    """
    values = [float(ws.run(run).summary["best_validation"]) for run in candidates]
    means = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    best = candidates[each * means.index(min(means))]
    return best if of is None else ws.run(best).inputs[of]


def lend(cells: Sequence[Cell], settings: dict[str, dict[str, Any]]) -> list[Cell]:
    """Return the cells with chosen settings put in, without the candidates that chose them.

    settings: of a report, by the cell that was the best of its candidates: training, prompt and
    adapter. Choices that the report does not have are made anew.
    """
    chosen = [cell for cell in cells if cell.stage == "best" and cell.name in settings]
    tried = {name for cell in chosen for name in cell.needs["candidates"]}
    gone = tried | {cell.name for cell in chosen}
    kept = [_with(cell, settings) for cell in cells if cell.name not in gone]
    return _without(kept, {name for cell in cells if cell.name in gone for name in cell.waits_for})


def _without(cells: Sequence[Cell], idle: set[str]) -> list[Cell]:
    """Leave out cells of `idle` that nothing needs any more, and what only they needed."""
    needed = {name for cell in cells for name in cell.waits_for}
    gone = [cell for cell in cells if cell.name in idle - needed and not cell.facts]
    if not gone:
        return list(cells)
    names = {cell.name for cell in gone}
    kept = [cell for cell in cells if cell.name not in names]
    return _without(kept, {name for cell in gone for name in cell.waits_for})


def _with(cell: Cell, settings: dict[str, dict[str, Any]]) -> Cell:
    if cell.like not in settings:
        return cell
    own = settings[cell.like]
    lent = {part: own[part] for part in LENT if own.get(part) is not None}
    return replace(cell, like=None, settings=lent | cell.settings)
