"""Progress bars with an ETA, and Ctrl-C, which stops at a checkpoint."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from puma_engine.jobs.time_left import TimeLeft, as_dict
from puma_engine.training import distributed

LINE_SECONDS = 15.0
QUIET_SECONDS = 2.0


@contextmanager
def watched(
    title: str, *, quiet: bool = False
) -> Iterator[tuple[Callable[[Any], None], Callable[[], bool]]]:
    """Context manager: yield a progress callback and a cancel check.

    A terminal shows bars on standard error; otherwise a line is printed every LINE_SECONDS; quiet
    prints nothing. The first Ctrl-C stops the work at its next checkpoint, the second immediately.
    Output of libraries goes to standard error, since standard output is for results.
    """
    with (
        redirect_stdout(sys.stderr),
        _interruptible() as should_cancel,
        _log_lines(quiet=quiet),
    ):
        if quiet or not distributed.is_main_process():
            yield (lambda _report: None), should_cancel
        elif sys.stderr.isatty():
            with _bars(title) as show:
                yield show, should_cancel
        else:
            yield _lines(title), should_cancel


class _StandardError(logging.Handler):
    """Prints to the current standard error, which progress bars replace while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


@contextmanager
def _log_lines(*, quiet: bool) -> Iterator[None]:
    """Context manager: print log lines of the engine, such as the number of threads; quiet: only warnings."""
    logger, handler = logging.getLogger("puma_engine"), _StandardError()
    before = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    stop_requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop_requested.is_set
        return

    def handle(_number: int, _frame: Any) -> None:
        if stop_requested.is_set():
            raise KeyboardInterrupt
        stop_requested.set()
        print("\nStopping at a checkpoint; press Ctrl-C again to stop at once.", file=sys.stderr)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop_requested.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bars(title: str) -> Iterator[Callable[[Any], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn("[progress.percentage]{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        whole: Any = bars.add_task(title, total=None, note="")
        part: Any = None
        left = TimeLeft()

        def show(report: Any) -> None:
            nonlocal part
            task, overall = whole, getattr(report, "overall", None)
            left.add(as_dict(report))
            texts = [*note(report), time_left(left.seconds())]
            if overall is not None:
                bars.update(
                    whole,
                    total=1.0,
                    completed=overall,
                    note=texts.pop() or "estimating the time left",
                )
                if part is None:
                    part = bars.add_task(report.stage, total=None, note="")
                task = part
            bars.update(
                task,
                description=report.stage,
                total=report.total or None,
                completed=report.step,
                note=", ".join(text for text in texts if text),
            )

        yield show


def note(report: Any) -> list[str]:
    """Return loss, validation value and rate as texts."""
    parts = []
    if report.loss is not None:
        parts.append(f"loss {report.loss:.4f}")
    if report.validation is not None:
        parts.append(f"validation {report.validation:.4f}")
    if report.examples_per_second:
        parts.append(f"{report.examples_per_second:,.0f} examples/s")
    return parts


def time_left(seconds: tuple[float, float] | None) -> str:
    """Return a range of remaining seconds as text, such as 1:05 to 2:10 left; "" for none."""
    if seconds is None:
        return ""
    clocks = []
    for end in seconds:
        minutes, rest = divmod(max(0, round(end)), 60)
        hours, minutes = divmod(minutes, 60)
        clocks.append(f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}")
    return f"{' to '.join(dict.fromkeys(clocks))} left"


def _lines(title: str) -> Callable[[Any], None]:
    """Context manager: progress as lines, when a stage begins and every LINE_SECONDS.

    Work that takes less than QUIET_SECONDS prints nothing.
    """
    started, printed, left = time.monotonic(), 0.0, TimeLeft()
    stage: str | None = None

    def show(report: Any) -> None:
        nonlocal printed, stage
        now = time.monotonic()
        left.add(as_dict(report))
        due = report.stage != stage or now - printed >= LINE_SECONDS
        if now - started < QUIET_SECONDS or not due:
            return
        stage, printed = report.stage, now
        steps = f"{report.step}/{report.total}" if report.total else ""
        parts = [report.stage, steps, *note(report), time_left(left.seconds())]
        overall = getattr(report, "overall", None)
        if overall is not None:
            parts.insert(0, f"{100 * overall:.0f} %")
        print(f"{title}: " + ", ".join(part for part in parts if part), file=sys.stderr)

    return show
