"""Checkpoints of the paper's published code: user embeddings and perhaps a rating head."""

from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.errors import DataError

TABLE = "user_embedding.weight"
HEAD_SHAPES = {0: (32, 5), 2: (12, 32), 4: (1, 12)}


def published_prompts(path: Path, state: Any) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
    """Return user vectors [n, d] and the 5-32-12-1 head, or None, of a loaded checkpoint.

    The head is recognised by its shapes. It reads raw logits, while ours reads log-probabilities of
    the answers; so it can only initialise a training. Raises DataError.
    """
    tensors = _flat(state)
    tables = [name for name in tensors if name == TABLE or name.endswith("." + TABLE)]
    if len(tables) != 1:
        shown = ", ".join(list(tensors)[:8]) or "no tensors"
        raise DataError(
            f"The checkpoint {path} has {len(tables)} tensors named {TABLE}; it needs one (it has "
            f"{shown})."
        )
    vectors = _array(tensors[tables[0]])
    for name in tensors:
        if not name.endswith("0.weight"):
            continue
        stem = name.removesuffix("0.weight")
        named = {number: f"{stem}{number}" for number in HEAD_SHAPES}
        if all(
            f"{layer}.bias" in tensors
            and tuple(getattr(tensors.get(f"{layer}.weight"), "shape", ())) == HEAD_SHAPES[number]
            for number, layer in named.items()
        ):
            return vectors, {
                f"layers.{number}.{part}": _array(tensors[f"{layer}.{part}"])
                for number, layer in named.items()
                for part in ("weight", "bias")
            }
    return vectors, None


def _flat(state: Any) -> dict[str, Any]:
    """Return the tensors of a state dict, which may be nested under a name such as "model"."""
    import torch

    tensors: dict[str, Any] = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor):
            tensors[str(name)] = value
        elif isinstance(value, dict):
            tensors = _flat(value) | tensors
    return tensors


def _array(tensor: Any) -> np.ndarray:
    """Return the values of a tensor. Raises DataError if it repeats values without storing them.

    Such a tensor is small in the file, whatever its shape, and would be expanded here.
    """
    import torch

    declared = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or declared > tensor.untyped_storage().nbytes():
        raise DataError(
            f"A tensor of the checkpoint declares {declared:,} bytes and stores fewer; save it with all of "
            "its values."
        )
    array: np.ndarray = tensor.detach().float().numpy()
    return array
