"""Progress and cancelling: one stage's reports, and the estimate for work of several parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from puma_engine.errors import Cancelled


@dataclass(frozen=True)
class StageProgress:
    """One report: the figures of a stage, as the training loop gives them, and those of all parts.

    overall: the share of all parts that is done, in [0, 1]; overall_eta: seconds. Both are None
    where a command has one part. eta_seconds: of this stage.
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
    """Report that a stage without steps begins."""
    if progress is not None:
        progress(StageProgress(stage))


def check_cancel(should_cancel: CancelCheck | None, stage: str) -> None:
    """Raise Cancelled if the work was cancelled."""
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

    def part(self, overall: OverallProgress, number: int) -> Execution:
        """Return the execution of one part of some work."""
        return replace(self, progress=overall.part(number))

    @property
    def callbacks(self) -> dict[str, Any]:
        """The callbacks as keyword arguments of a training."""
        return {"progress": self.progress, "should_cancel": self.should_cancel}


class OverallProgress:
    """Turns the reports of consecutive parts into reports about all of them.

    weights: the expected relative duration of each part, best in seconds. The time left is
    estimated from the speed so far.
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
            overall, eta = self._estimate(number, share)
            figures = {name: getattr(inner, name) for name in _STAGE_FIGURES}
            progress(StageProgress(**figures, overall=overall, overall_eta=eta))

        return report

    def skip(self, number: int) -> None:
        """Record that a part took no time because its run existed."""
        self.skipped += self.weights[number]

    def _estimate(self, number: int, share: float) -> tuple[float, float]:
        total = sum(self.weights)
        done = sum(self.weights[:number]) + self.weights[number] * share
        worked = done - self.skipped
        spent = self.clock() - self.started
        # Until 15 % is done the speed is unknown: take the weights as seconds.
        factor = spent / worked if worked > 0.15 * total else 1.0
        return done / total, (total - done) * factor


_STAGE_FIGURES = (
    "stage",
    "epoch",
    "step",
    "total",
    "loss",
    "examples_per_second",
    "eta_seconds",
    "validation",
)
