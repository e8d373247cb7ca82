"""Progress of work with several parts: what runs now, and how long all of it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from puma_engine.errors import Cancelled


@dataclass(frozen=True)
class StageProgress:
    """One report: the stage's own figures, as the training loop gives them, and the whole's.

    overall is the share of all parts that is done, in [0, 1]; overall_eta is in seconds.
    Both are None where a command has one part only.
    """

    stage: str
    epoch: int = 0
    step: int = 0
    total: int = 0
    loss: float | None = None
    examples_per_second: float | None = None
    eta_seconds: float | None = None
    validation: float | None = None
    overall: float | None = None
    overall_eta: float | None = None


ProgressCallback = Callable[[Any], None]
CancelCheck = Callable[[], bool]


def announce(progress: ProgressCallback | None, stage: str) -> None:
    """Report that a stage without steps of its own has begun."""
    if progress is not None:
        progress(StageProgress(stage))


def check_cancel(should_cancel: CancelCheck | None, stage: str) -> None:
    """Raise Cancelled if somebody asked to stop."""
    if should_cancel is not None and should_cancel():
        raise Cancelled(f"Cancelled before {stage}.")


@dataclass(frozen=True)
class Execution:
    """How a request is executed: on which device, who gets progress, and who may cancel it.

    device: cpu, cuda, cuda:N, auto (spread over all GPUs) or None for the best available.
    """

    device: str | None = None
    progress: ProgressCallback | None = None
    should_cancel: CancelCheck | None = None

    def announce(self, stage: str) -> None:
        """Report that a stage without steps of its own begins; raise Cancelled if it must not."""
        check_cancel(self.should_cancel, stage)
        announce(self.progress, stage)

    def part(self, overall: Overall, number: int) -> Execution:
        """Return the execution of one part of some work."""
        return replace(self, progress=overall.part(number))

    @property
    def callbacks(self) -> dict[str, Any]:
        """The callbacks as keyword arguments of a training."""
        return {"progress": self.progress, "should_cancel": self.should_cancel}


class Overall:
    """Turns the reports of parts, one after another, into reports about the whole.

    weights: the expected relative duration of each part. The estimate of what is left
    follows the speed of what is done.
    """

    def __init__(
        self,
        weights: Sequence[float],
        progress: ProgressCallback | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.weights = list(weights)
        self.progress = progress
        self.clock = clock
        self.started = clock()
        self.skipped = 0.0

    def part(self, number: int) -> ProgressCallback | None:
        """Return the callback of one part."""
        if self.progress is None:
            return None
        progress = self.progress

        def report(inner: Any) -> None:
            share = inner.step / inner.total if inner.total else 0.0
            whole, left = self._whole(number, share)
            own = {name: getattr(inner, name) for name in _OWN}
            progress(StageProgress(**own, overall=whole, overall_eta=left))

        return report

    def skip(self, number: int) -> None:
        """Say that a part took no time because its run existed."""
        self.skipped += self.weights[number]

    def _whole(self, number: int, share: float) -> tuple[float, float]:
        total = sum(self.weights)
        done = sum(self.weights[:number]) + self.weights[number] * share
        worked = done - self.skipped
        spent = self.clock() - self.started
        # Before much is done the speed is unknown: trust the weights as seconds.
        factor = spent / worked if worked > 0.15 * total else 1.0
        return done / total, (total - done) * factor


_OWN = (
    "stage",
    "epoch",
    "step",
    "total",
    "loss",
    "examples_per_second",
    "eta_seconds",
    "validation",
)
