"""What a model's weights will take, from shapes alone, and whether a device has room."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import torch

from puma_engine.backbone.hub import Shapes
from puma_engine.errors import BackboneError
from puma_engine.training.device import host_free

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
FP8 = "fp8"
# Bytes a parameter: 4-bit blocks of 64 carry one fp32 scale, 8-bit rows one each. In fp8 there
# is a copy for the gradient.
QUANTISED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0, FP8: 2.0}
QUANTISE = tuple(QUANTISED)
TIGHT = 0.85
LONGEST_HEADER = 100 << 20


def local_shapes(folder: Path) -> Shapes:
    """Return the shape of every tensor in a folder's safetensors, from their headers alone."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [folder / str(name) for name in sorted(names)]
    else:
        whole = folder / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    return {name: shape for file in files for name, shape in _header(file).items()}


def _header(file: Path) -> Shapes:
    try:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(size))
        return {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
    except FileNotFoundError:
        raise BackboneError(
            f"The model's index names {file.name}, which is not in {file.parent}; download the model "
            "again."
        ) from None
    except (OSError, ValueError, struct.error, KeyError, TypeError) as error:
        raise BackboneError(
            f"The file {file} is no whole safetensors file ({error}); download the model again."
        ) from error


def weight_bytes(shapes: Shapes, precision: str, quantise: str | None = None) -> int:
    """Return the bytes of a model's weights once they are loaded.

    Quantisation makes the matrices of the layers small; embeddings, the output head and
    vectors keep `precision`.
    """
    total = 0.0
    for name, shape in shapes.items():
        small = quantise is not None and len(shape) == 2 and not _kept_whole(name)
        total += math.prod(shape) * (QUANTISED[str(quantise)] if small else BYTES[precision])
    return int(total)


def _kept_whole(name: str) -> bool:
    return any(part in name for part in ("embed", "lm_head", "wte", "wpe"))


def free_bytes(device: torch.device | None) -> int:
    """Return the free memory of a device, or of all GPUs together for None.

    What this process holds for tensors to come counts as free.
    """
    if device is None:
        devices = (torch.device("cuda", n) for n in range(torch.cuda.device_count()))
        return sum(free_bytes(one) for one in devices)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return host_free()


def check_room(spec: str, need: int, free: int, place: str) -> None:
    """Raise BackboneError if weights of `need` bytes cannot fit into `free` bytes."""
    if need > free:
        raise BackboneError(
            f"The weights of {spec} take {gib(need)}, but {place} has {gib(free)} free; free some, "
            "choose a lower precision, --quantise 4bit, or --device spread on several GPUs."
        )


def tight(need: int, free: int) -> bool:
    """Whether weights leave little for keys, values and activations."""
    return need > TIGHT * free


def gib(count: float) -> str:
    """Return bytes as people read them, in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
