"""Checkpoints of a training run: written whole, checked when read, resumed exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.errors import CheckpointError, StoreError
from puma_engine.files import load_tensors, save_tensors, sha256_file, write_json

TENSORS = "checkpoint-{step}.safetensors"
RECORD = "checkpoint.json"
# Of what is in a checkpoint; one of another format is refused.
FORMAT = 2


@dataclass
class State:
    """Where a run is: all that its next step depends on, besides the tensors."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    examples: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    best_epoch: int = -1
    best_validation: float = float("inf")
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy the trained parameters."""
    return {name: p.detach().clone() for name, p in trained(module).items()}


def save(
    folder: Path,
    fingerprint: str,
    state: State,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor] | None,
    scaler: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; the record that names it is renamed into place last."""
    arrays = {f"now/{name}": p.detach() for name, p in trained(module).items()}
    arrays |= {f"best/{name}": p for name, p in (best or {}).items()}
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            arrays[f"optimizer/{number}/{key}"] = torch.as_tensor(value)
    arrays["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        arrays["random/cuda"] = torch.cuda.get_rng_state()
    path = folder / TENSORS.format(step=state.step)
    save_tensors(path, {name: value.cpu().numpy() for name, value in arrays.items()})
    record = {
        "format": FORMAT,
        "file": path.name,
        "sha256": sha256_file(path),
        "fingerprint": fingerprint,
        "state": asdict(state),
        "scaler": scaler,
    }
    write_json(folder / RECORD, record)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as it was read."""

    state: State
    arrays: dict[str, np.ndarray]
    scaler: dict[str, Any] | None

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Put everything back where it was; returns the best weights so far."""
        parameters = trained(module)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._tensor(f"now/{name}", parameter))
        state: dict[int, dict[str, Tensor]] = {}
        # An optimiser numbers parameters by its groups, in another order than the module's.
        numbered = [one for group in optimizer.param_groups for one in group["params"]]
        for number, parameter in enumerate(numbered):
            prefix = f"optimizer/{number}/"
            keys = [key for key in self.arrays if key.startswith(prefix)]
            if keys:
                state[number] = {key[len(prefix) :]: self._tensor(key, parameter) for key in keys}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(self._tensor("random/cpu"))
        if "random/cuda" in self.arrays and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._tensor("random/cuda"))
        return {
            name: self._tensor(f"best/{name}", parameter).to(parameter.device)
            for name, parameter in parameters.items()
            if f"best/{name}" in self.arrays
        }

    def _tensor(self, name: str, like: Tensor | None = None) -> Tensor:
        """One array; as large as `like`, in its shape, since the file has no numbers without axes."""
        found = torch.from_numpy(np.array(self.arrays[name]))
        if like is None or found.numel() != like.numel():
            return found
        return found.reshape(like.shape)


def load(folder: Path, fingerprint: str) -> Loaded | None:
    """Read a folder's checkpoint, None if there is none.

    Raises CheckpointError if it is damaged or was made with other settings or data.
    """
    record_path = folder / RECORD
    if not record_path.is_file():
        return None
    advice = f"remove the folder {folder} to start over"
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record.get("format") != FORMAT:
            raise CheckpointError(
                f"The checkpoint in {folder} was written by another version of PUMA; {advice}."
            )
        path = folder / Path(record["file"]).name
        state = State(**record["state"])
        if record["fingerprint"] != fingerprint:
            raise CheckpointError(
                f"The checkpoint in {folder} belongs to a run with other settings or data; {advice}."
            )
        if sha256_file(path) != record["sha256"]:
            raise CheckpointError(f"The checkpoint {path} is damaged (its hash differs); {advice}.")
        arrays, _ = load_tensors(path)
    except (ValueError, KeyError, TypeError, OSError, StoreError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"The checkpoint in {folder} is damaged ({error}); {advice}."
        ) from error
    return Loaded(state, arrays, record["scaler"])


def clear(folder: Path) -> None:
    """Remove a finished run's checkpoint."""
    (folder / RECORD).unlink(missing_ok=True)
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink(missing_ok=True)
