"""What every stage shares: one run in the workspace, begun, done and finished or failed."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from puma_engine.config import TrainingConfig
from puma_engine.errors import Cancelled, NotFoundError, PumaError, StoreError
from puma_engine.store import Run, Workspace
from puma_engine.training import distributed

LONGEST_NAME = 150
PROMPT_KINDS = ("prompts", "migration")
Reference: TypeAlias = Run | str


@dataclass
class Outcome:
    """What a stage reports when it is done."""

    device: str = "cpu"
    cost: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    keep: Callable[[str], None] | None = None  # writes the artifacts of the run with this id


class Clock:
    """Seconds of work, interrupted attempts included, loading of models excluded."""

    def __init__(self, folder: Path) -> None:
        self.before = _spent(folder)
        self.started = time.perf_counter()

    def restart(self) -> None:
        """Forget the time since the start; called when the models are loaded."""
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started


Work = Callable[[str, Path, Clock], Outcome]


def run_stage(
    ws: Workspace,
    kind: str,
    *,
    name: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    work: Work,
    seed: int | None = None,
    together: bool = False,
) -> Run:
    """Return the finished run that answers this question, doing the work if there is none.

    work(run id, checkpoint folder, clock) writes the artifacts, or leaves that to its
    outcome's keep. When it fails or is cancelled the run is marked, its checkpoints stay, and
    asking again resumes it. Of several processes the first does it all; the others do the
    work too if it is done together, writing nothing, and return the run that came out.
    """

    def begin() -> Run:
        return ws.begin(kind, name=name, config=config, inputs=inputs, seed=seed)

    if distributed.world_size() == 1:
        run = begin()
        return run if run.status == "finished" else _do(ws, run, work)
    # Nobody may look for the run before all have come this far.
    distributed.broadcast("ready")
    return (_lead if distributed.is_main_process() else _follow)(ws, begin, work, together)


def _lead(ws: Workspace, begin: Callable[[], Run], work: Work, together: bool) -> Run:
    """Do a stage as the first of several processes, and tell the others how it goes."""
    try:
        run = begin()
        if run.status != "finished":
            if together:
                distributed.broadcast({"work": run.id})
            run = _do(ws, run, work)
    except PumaError as error:
        distributed.broadcast({"error": str(error), "cancelled": isinstance(error, Cancelled)})
        raise
    distributed.broadcast({"done": run.id})
    return run


def _follow(ws: Workspace, _begin: Callable[[], Run], work: Work, _together: bool) -> Run:
    """Take part in what the first process does, and write nothing."""
    said = distributed.broadcast(None)
    if "work" in said:
        folder = ws.work(said["work"])
        try:
            work(said["work"], folder, Clock(folder))
        except PumaError:
            # The same happened to the first process, which says what becomes of it.
            distributed.broadcast(None)
            raise
        said = distributed.broadcast(None)
    if "error" in said:
        raise (Cancelled if said["cancelled"] else StoreError)(said["error"])
    return ws.run(said["done"])


def _do(ws: Workspace, run: Run, work: Work) -> Run:
    """Work on a run that was begun, and finish it."""
    folder = ws.work(run.id)
    clock = Clock(folder)
    try:
        outcome = work(run.id, folder, clock)
        if outcome.keep is not None:
            outcome.keep(run.id)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Cancelled)
        with contextlib.suppress(OSError):
            folder.rmdir()  # only where no checkpoint was left
        ws.fail(run.id, _reason(error), interrupted=stopped)
        raise
    done = ws.finish(
        run.id,
        seconds=clock.seconds,
        device=outcome.device,
        cost=outcome.cost,
        summary=outcome.summary,
    )
    shutil.rmtree(folder, ignore_errors=True)
    return done


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | PumaError):
        return str(error) or "Interrupted."
    return f"{type(error).__name__}: {error}"


def _spent(folder: Path) -> float:
    """Seconds that an interrupted training recorded in its checkpoint."""
    try:
        record = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        return float(record["state"]["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def find(ws: Workspace, reference: Reference, *kinds: str) -> Run:
    """Return a finished run by object, id, prefix or name, checked to be of one of the kinds.

    Raises NotFoundError, or StoreError when the run is not finished.
    """
    run = ws.run(reference.id) if isinstance(reference, Run) else _look_up(ws, reference, kinds)
    if kinds and run.kind not in kinds:
        raise NotFoundError(
            f"The run {run.name!r} ({run.id}) is of kind {run.kind}; this needs "
            f"{' or '.join(kinds)}."
        )
    if run.status != "finished":
        raise StoreError(
            f"The {run.kind} run {run.name!r} ({run.id}) is {run.status}, not finished; run its "
            "command again to complete it."
        )
    return run


def _look_up(ws: Workspace, text: str, kinds: tuple[str, ...]) -> Run:
    named = [run for kind in kinds for run in ws.runs(kind=kind) if run.name == text]
    finished = [run for run in named if run.status == "finished"] or named
    if len(finished) > 1:
        ids = ", ".join(run.id for run in finished)
        raise StoreError(f"{len(finished)} runs are named {text!r} ({ids}); give an id instead.")
    return finished[0] if finished else ws.run(text)


def settings_of(training: TrainingConfig) -> dict[str, Any]:
    """Return what of a training's settings decides its result, for the run's key."""
    values = training.to_dict()
    del values["checkpoint_seconds"]
    return values


def slug(*parts: str | float | None) -> str:
    """Join parts to a run name that needs no quotes in a shell."""
    words = [
        str(part).replace("/", "-").replace(" ", "-") for part in parts if part not in (None, "")
    ]
    return "-".join(words)[:LONGEST_NAME]
