"""Data-parallel processes on one machine, as `accelerate launch` or torchrun start them.

All run the same command. The main process (rank 0) writes the workspace; the others take part in
its trainings and otherwise wait for its broadcasts.
"""

import json
import os
from datetime import timedelta
from typing import Any

# A process must wait longer than anything that the main process does alone.
TIMEOUT = timedelta(days=30)


def world_size() -> int:
    """Return the number of processes that train together; 1 without a launcher."""
    return max(1, _environment_int("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Return whether this process is rank 0, which writes and reports."""
    return world_size() == 1 or _environment_int("RANK", 0) == 0


def local_device(device: str) -> str:
    """Return the GPU of this process, where several share a machine."""
    if world_size() == 1 or device == "cpu":
        return device
    return f"cuda:{_environment_int('LOCAL_RANK', 0)}"


def cpu_requested() -> bool:
    """Return whether the launcher was started with CPUs only (ACCELERATE_USE_CPU)."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def _environment_int(name: str, default: int) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return default


def shutdown() -> None:
    """Leave the process group: its threads may otherwise abort the process when it exits."""
    if world_size() == 1:
        return
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def broadcast(value: Any) -> Any:
    """Return the main process's value (anything JSON) in every process; all must call this."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast as broadcast_tensor

    cpu = cpu_requested() or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=TIMEOUT)
    text = json.dumps(value).encode() if is_main_process() else b""
    length = broadcast_tensor(torch.tensor([len(text)], device=state.device))
    data = torch.zeros(int(length), dtype=torch.uint8, device=state.device)
    if is_main_process():
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    return json.loads(bytes(broadcast_tensor(data).cpu().tolist()))
