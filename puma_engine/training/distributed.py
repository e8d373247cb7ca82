"""Several processes of one machine that train as one, as `accelerate launch` or torchrun start.

All run the same commands. The first one writes the workspace; the others take part in its
trainings and otherwise wait for what it says.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

# A waiting process must outlast whatever the first one does alone.
PATIENCE = timedelta(days=30)


def count() -> int:
    """Return how many processes work together; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Return whether this process is the one that writes and reports."""
    return count() == 1 or _number("RANK", 0) == 0


def local_device(device: str) -> str:
    """Return the GPU of this process, where several share a machine."""
    return f"cuda:{_number('LOCAL_RANK', 0)}" if count() > 1 and device != "cpu" else device


def cpu_requested() -> bool:
    """Return whether the launcher was told to leave GPUs alone."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return default


def shutdown() -> None:
    """Take no more part in common work: threads that outlive it may abort the process at its end."""
    if count() == 1:
        return
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def broadcast(value: Any) -> Any:
    """Return the first process's value (JSON) in every process; all must call this."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast as broadcast_tensor

    cpu = cpu_requested() or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    text = json.dumps(value).encode() if is_main_process() else b""
    length = broadcast_tensor(torch.tensor([len(text)], device=state.device))
    data = torch.zeros(int(length), dtype=torch.uint8, device=state.device)
    if is_main_process():
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    return json.loads(bytes(broadcast_tensor(data).cpu().tolist()))
