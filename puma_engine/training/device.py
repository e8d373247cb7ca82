"""Devices, their memory and precisions; importing this module does not load torch."""

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
from typing import TYPE_CHECKING, NamedTuple

from puma_engine.config import PRECISIONS
from puma_engine.errors import ConfigError
from puma_engine.training import distributed

if TYPE_CHECKING:
    import torch

NO_LIMIT = 1 << 62
SMI_SECONDS = 10.0
CPUINFO = Path("/proc/cpuinfo")
# Frozen models with at least so many parameters are read in bf16 on a CPU that has it in hardware.
BF16_PARAMETERS = 100_000_000


class Dtype(NamedTuple):
    """A precision: its name in torch, and the bytes of a number."""

    torch_name: str
    bytes: int


# All precisions, by the names that settings, options and cards use.
DTYPES = {"fp32": Dtype("float32", 4), "bf16": Dtype("bfloat16", 2), "fp16": Dtype("float16", 2)}


def torch_dtype(precision: str) -> torch.dtype:
    """Return the torch dtype of fp32, bf16 or fp16."""
    import torch

    return getattr(torch, DTYPES[precision].torch_name)


def resolve_device(device: str | None) -> str:
    """Return a usable device name: the given one, or a GPU if there is one, else the CPU.

    Raises ConfigError for a device that this machine does not have.
    """
    import torch

    if device in (None, "auto"):
        device = "cuda" if torch.cuda.is_available() and not distributed.cpu_requested() else "cpu"
        return distributed.local_device(device)
    try:
        kind = torch.device(str(device)).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            f"The device {device!r} is not available; use cpu, or cuda where there is a GPU."
        )
    return distributed.local_device(str(device))


def resolve_precision(precision: str, device: torch.device, parameters: int = 0) -> str:
    """Return fp32, bf16 or fp16; "auto" is bf16 on a GPU and fp32 on a CPU.

    parameters: of a frozen model; large ones are bf16, too, on a CPU that has it in hardware.
    Raises ConfigError for an unknown precision, and for fp16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"There is no precision {precision!r}; choose {', '.join(PRECISIONS)}.")
    if precision == "auto":
        in_half = device.type == "cuda" or is_bf16_on_cpu(parameters)
        return "bf16" if in_half else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 needs a GPU; use fp32 or bf16 on a CPU.")
    return precision


def is_bf16_on_cpu(parameters: int) -> bool:
    """Return whether a frozen model with this number of parameters is bf16 on this CPU by default."""
    return parameters >= BF16_PARAMETERS and has_fast_bf16()


def free_bytes(device: torch.device | None) -> int:
    """Return the free memory of a device in bytes, or of all GPUs together for None.

    Memory that PyTorch has reserved in this process for later tensors counts as free.
    """
    import torch

    if device is None:
        devices = (torch.device("cuda", n) for n in range(torch.cuda.device_count()))
        return sum(free_bytes(gpu) for gpu in devices)
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    return free_host_memory()


@contextmanager
def gc_paused() -> Iterator[None]:
    """Context manager: switch the garbage collector off.

    Building many small lists would start it again and again. During the capture of a CUDA graph it
    could free another graph, which is an error.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class DeviceMemory:
    """A device and its memory in bytes. device: cpu or cuda:N, as commands take them."""

    device: str
    name: str
    total: int
    free: int


class CpuContention:
    """Measures how many cores other processes use, from the moment that it is created."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.start_seconds = self._seconds()

    def cores(self) -> float:
        """Return the mean number of cores that other processes used, 0 or more."""
        wall = max(time.perf_counter() - self.start, 1e-9)
        return max(0.0, (self._seconds() - self.start_seconds) / wall)

    @staticmethod
    def _seconds() -> float:
        """Return the processor seconds of all processes but this one."""
        import psutil

        total, this = psutil.cpu_times(), os.times()
        waited = total.idle + getattr(total, "iowait", 0.0)
        # User time includes that of guests (virtual machines).
        guests = getattr(total, "guest", 0.0) + getattr(total, "guest_nice", 0.0)
        return float(sum(total) - waited - guests - this.user - this.system)


def device_memory() -> list[DeviceMemory]:
    """Return the memory of this machine: the CPU's, then that of each NVIDIA GPU."""
    import psutil

    total = min(int(psutil.virtual_memory().total), container_limit())
    cpu = DeviceMemory("cpu", "Main memory", total, free_host_memory())
    program = shutil.which("nvidia-smi")
    if program is None:
        return [cpu]
    query = ["--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return [cpu]
    return [cpu, *parse_gpus(result.stdout)]


def has_fast_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU multiplies bf16 in hardware, which makes frozen models in bf16 faster."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line[:5] == "flags" for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def free_host_memory() -> int:
    """Return the free main memory in bytes, within a container's limit if there is one."""
    import psutil

    available, limit = int(psutil.virtual_memory().available), container_limit()
    if limit == NO_LIMIT:
        return available
    folder = Path("/sys/fs/cgroup")
    try:
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        statistics = dict(line.split() for line in lines)
    except (OSError, ValueError):
        return available
    # Cached file pages count as used, but the kernel drops them on demand.
    return min(available, limit - used + int(statistics.get("inactive_file", 0)))


def container_limit() -> int:
    """Return a container's memory limit in bytes (cgroup v2); NO_LIMIT where there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return NO_LIMIT if limit == "max" else int(limit)
    except (OSError, ValueError):
        return NO_LIMIT


def parse_gpus(text: str) -> list[DeviceMemory]:
    """Parse lines of nvidia-smi (index, name, total MiB, free MiB); skip malformed ones."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and all(parts[column].isdigit() for column in (0, 2, 3)):
            total, free = int(parts[2]) << 20, int(parts[3]) << 20
            gpus.append(DeviceMemory(f"cuda:{parts[0]}", parts[1], total, free))
    return gpus
