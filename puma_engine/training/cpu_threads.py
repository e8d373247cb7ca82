"""Choose the number of CPU threads from the cores that are free.

Threads wait for the slowest one: on cores that other processes use, two threads were 7 to 10 times
slower than one. The number follows from the cores that this process may use, a container's limit
and the load of other processes. OMP_NUM_THREADS overrides it.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
CGROUP = Path("/sys/fs/cgroup")
# Seconds of measuring the load of other processes, and for which a choice holds.
SAMPLE_SECONDS = 0.3
# Below this load, in cores, what others used in the last minute, such as an installation, has ended.
IDLE_CORES = 0.1
HOLD_SECONDS = 60.0
# Load of others, in cores, that a choice ignores.
SLACK = 0.25

_log = logging.getLogger("puma_engine.device")
_chosen: tuple[float, ThreadChoice] | None = None


@dataclass(frozen=True)
class ThreadChoice:
    """A number of threads, and why."""

    threads: int
    reason: str


def use_free_threads() -> ThreadChoice:
    """Let torch use as many threads as cores are free, and log the choice.

    A choice holds for HOLD_SECONDS, so that short stages do not measure each time.
    """
    global _chosen
    import torch

    if _chosen is not None and time.monotonic() - _chosen[0] < HOLD_SECONDS:
        return _chosen[1]
    max_threads = _torch_threads()
    variable = next((name for name in VARIABLES if os.environ.get(name)), None)
    if variable is not None:
        choice = ThreadChoice(torch.get_num_threads(), f"{variable} is set")
    else:
        choice = choose_threads(max_threads, cpu_quota(), cores_used_by_others(SAMPLE_SECONDS))
        torch.set_num_threads(choice.threads)
    if _chosen is None or _chosen[1].threads != choice.threads:
        _log.info("CPU: %d %s (%s).", choice.threads, _word(choice.threads), choice.reason)
    _chosen = (time.monotonic(), choice)
    return choice


def choose_threads(cores: int, quota: float | None, busy: float) -> ThreadChoice:
    """Return the number of threads to use on `cores` cores; busy: cores that other processes use."""
    limit = cores if quota is None else min(float(cores), quota)
    threads = max(1, min(cores, math.floor(limit - busy + SLACK)))
    reason = f"{cores} cores may be used"
    if quota is not None and quota < cores:
        reason += f", a limit allows {quota:.1f}"
    return ThreadChoice(threads, f"{reason}, others use {busy:.1f}")


def allowed_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_used_by_others(seconds: float) -> float:
    """Return the load of other processes, in cores, on the cores that this process may use.

    The load is measured for `seconds`. If it is above 0 and this process may use all cores, the
    mean load of the last minute without this process counts, where that is larger.
    """
    import psutil

    allowed = allowed_cores()
    used = _busy_seconds(allowed)
    started = time.perf_counter()
    time.sleep(seconds)
    now = max(0.0, (_busy_seconds(allowed) - used) / (time.perf_counter() - started))
    if len(allowed) < (os.cpu_count() or 1):
        return now
    times, age = os.times(), time.time() - psutil.Process().create_time()
    own_cores = min(len(allowed), (times.user + times.system) / max(age, 1.0))
    return used_cores(now, os.getloadavg()[0] - own_cores)


def used_cores(now: float, last_minute: float) -> float:
    """Return how many cores count as used, from the load now and the mean load of the last minute."""
    return now if now < IDLE_CORES else max(now, last_minute)


def _busy_seconds(allowed: list[int]) -> float:
    """Return the processor seconds of all processes but this one on some cores."""
    import psutil

    per_core = psutil.cpu_times(percpu=True)
    busy = 0.0
    for number in allowed:
        if number < len(per_core):
            core = per_core[number]
            busy += core.user + core.system + getattr(core, "nice", 0.0)
    own_times = os.times()
    return busy - own_times.user - own_times.system


def cpu_quota(root: Path = CGROUP) -> float | None:
    """Return the cores that a container may use on average (cgroup v2 or v1), or None."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


@functools.cache
def _torch_threads() -> int:
    """Torch's default number of threads: the physical cores that it may use."""
    import torch

    return min(torch.get_num_threads(), len(allowed_cores()))


def _word(threads: int) -> str:
    return "thread" if threads == 1 else "threads"
