"""This machine and process: memory of devices, and what else runs, without loading torch."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENDLESS = 1 << 62
SMI_SECONDS = 10.0
CPUINFO = Path("/proc/cpuinfo")


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep the garbage collector away.

    Many small lists at once would start it again and again, for nothing; during the capture of
    a CUDA graph it could free another graph, which is forbidden then.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True)
class DeviceMemory:
    """A device and its memory in bytes. device: cpu or cuda:N, as commands take them."""

    device: str
    name: str
    total: int
    free: int


class CpuContention:
    """How many of the machine's cores other processes take, from when this was made on."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.before = self._seconds()

    def cores(self) -> float:
        """Return the mean number of cores that others kept busy, 0 or more."""
        wall = max(time.perf_counter() - self.began, 1e-9)
        return max(0.0, (self._seconds() - self.before) / wall)

    @staticmethod
    def _seconds() -> float:
        """Seconds in which cores worked, for all processes but this one."""
        import psutil

        total, own = psutil.cpu_times(), os.times()
        waited = total.idle + getattr(total, "iowait", 0.0)
        # The time of guests is among that of users.
        guests = getattr(total, "guest", 0.0) + getattr(total, "guest_nice", 0.0)
        return float(sum(total) - waited - guests - own.user - own.system)


def device_memory() -> list[DeviceMemory]:
    """Return the memory of this machine: the CPU's, then that of each NVIDIA GPU."""
    import psutil

    total = min(int(psutil.virtual_memory().total), container_limit())
    return [DeviceMemory("cpu", "Main memory", total, host_free()), *_gpus()]


def has_fast_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU multiplies bf16 in hardware, so that frozen models pay off in it."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line[:5] == "flags" for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def host_free() -> int:
    """Return the free main memory in bytes, within a container's limit if there is one."""
    import psutil

    return min(int(psutil.virtual_memory().available), _container_free())


def container_limit() -> int:
    """Return a container's memory limit in bytes (cgroup v2); endless where there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return ENDLESS if limit == "max" else int(limit)
    except (OSError, ValueError):
        return ENDLESS


def _container_free() -> int:
    limit = container_limit()
    if limit == ENDLESS:
        return ENDLESS
    folder = Path("/sys/fs/cgroup")
    try:
        used = int((folder / "memory.current").read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return ENDLESS
    # File pages that can be dropped count as used.
    return limit - used + int(facts.get("inactive_file", 0))


def _gpus() -> list[DeviceMemory]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> list[DeviceMemory]:
    """Read the lines of nvidia-smi: index, name, total MiB, free MiB; others are left out."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and all(parts[place].isdigit() for place in (0, 2, 3)):
            total, free = int(parts[2]) << 20, int(parts[3]) << 20
            found.append(DeviceMemory(f"cuda:{parts[0]}", parts[1], total, free))
    return found
