"""Checkpoints of a training: written atomically, verified when read, and resumed exactly."""

import json
import math
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.errors import CheckpointError, StoreError
from puma_engine.files import load_tensors, save_tensors, sha256_file, write_json

TENSORS = "checkpoint-{step}-{token}.safetensors"
RECORD = "checkpoint.json"
# The version of a checkpoint's content; others are refused.
FORMAT = 2


@dataclass
class TrainingState:
    """Everything besides tensors that the next step of a training depends on. Field names are stored.

    epoch and batch: the next ones; step, examples, seconds: so far; loss_sum and loss_count: of
    this epoch so far; best_epoch: -1 for the initial parameters; finished: stopped early.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    examples: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    best_epoch: int = -1
    best_validation: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    def end_epoch(self, train_loss: float, validation: float | None, patience: int) -> bool:
        """Record an epoch that ended, and return whether it is the best so far.

        Lower validation values are better; without one the last epoch is the best. The training is
        finished after `patience` epochs without an improvement (0: never).
        """
        self.history.append(
            {"epoch": self.epoch, "train_loss": train_loss, "validation": validation}
        )
        is_best = validation is None or not validation >= self.best_validation
        if is_best:
            self.best_epoch = self.epoch
            self.best_validation = math.inf if validation is None else validation
        self.finished = bool(patience) and self.epoch - self.best_epoch >= patience
        self.epoch += 1
        self.batch = 0
        return is_best


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def copy_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the trainable parameters, by name."""
    return {name: p.detach().clone() for name, p in trainable_parameters(module).items()}


def save(
    folder: Path,
    fingerprint: str,
    state: TrainingState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor] | None,
    scaler: dict[str, Any] | None = None,
    average: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint: first its tensors, last the record that names them.

    fingerprint: of settings and data, compared when it is read; best: the best parameters so far;
    scaler: the state of a gradient scaler (fp16); average: moving averages of the parameters.
    """
    arrays = {f"now/{name}": p.detach() for name, p in trainable_parameters(module).items()}
    arrays |= {f"best/{name}": p for name, p in (best or {}).items()}
    arrays |= {f"average/{name}": p for name, p in (average or {}).items()}
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            arrays[f"optimizer/{number}/{key}"] = torch.as_tensor(value)
    arrays["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        arrays["random/cuda"] = torch.cuda.get_rng_state()
    # The file has a new name each time, since one step may be saved twice (the last of an epoch), and the
    # old record names the old file until it is replaced.
    path = folder / TENSORS.format(step=state.step, token=secrets.token_hex(4))
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
class Checkpoint:
    """A checkpoint that was read."""

    state: TrainingState
    arrays: dict[str, np.ndarray]
    scaler: dict[str, Any] | None

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Restore parameters, optimiser and random numbers; return the best parameters so far."""
        parameters = trainable_parameters(module)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._tensor(f"now/{name}", parameter))
        state: dict[int, dict[str, Tensor]] = {}
        # An optimiser numbers parameters by its groups, in another order than the module's.
        numbered = [p for group in optimizer.param_groups for p in group["params"]]
        for number, parameter in enumerate(numbered):
            prefix = f"optimizer/{number}/"
            keys = [key for key in self.arrays if key.startswith(prefix)]
            if keys:
                state[number] = {key[len(prefix) :]: self._tensor(key, parameter) for key in keys}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(self._tensor("random/cpu"))
        if "random/cuda" in self.arrays and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._tensor("random/cuda"))
        return self.copies("best", module)

    def copies(self, kind: str, module: nn.Module) -> dict[str, Tensor]:
        """Return the stored copies of a module's parameters, by name: kind is best or average."""
        return {
            name: self._tensor(f"{kind}/{name}", parameter).to(parameter.device)
            for name, parameter in trainable_parameters(module).items()
            if f"{kind}/{name}" in self.arrays
        }

    def _tensor(self, name: str, like: Tensor | None = None) -> Tensor:
        """Return an array, in the shape of `like` if the sizes match: scalars are stored as [1]."""
        tensor = torch.from_numpy(np.array(self.arrays[name]))
        if like is None or tensor.numel() != like.numel():
            return tensor
        return tensor.reshape(like.shape)


def load(folder: Path, fingerprint: str) -> Checkpoint | None:
    """Read a folder's checkpoint; None if there is none.

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
        state = TrainingState(**record["state"])
        if record["fingerprint"] != fingerprint:
            raise CheckpointError(
                f"The checkpoint in {folder} belongs to a run with other settings or data; {advice}."
            )
        if sha256_file(path) != record["sha256"]:
            raise CheckpointError(f"The checkpoint {path} is damaged (its hash differs); {advice}.")
        arrays, _ = load_tensors(path)
    except (ValueError, KeyError, TypeError, OSError, RecursionError, StoreError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"The checkpoint in {folder} is damaged ({error}); {advice}."
        ) from error
    return Checkpoint(state, arrays, record["scaler"])


def clear(folder: Path) -> None:
    """Remove a finished run's checkpoint."""
    (folder / RECORD).unlink(missing_ok=True)
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink(missing_ok=True)
