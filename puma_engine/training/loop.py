"""The one training loop: zoo models, soft prompts and adapters all go through `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.config import PRECISIONS, TrainingConfig, stable_hash
from puma_engine.errors import Cancelled, ConfigError, TrainingError
from puma_engine.training import checkpoint, distributed
from puma_engine.training.batches import epoch_batches, process_share
from puma_engine.training.checkpoint import State
from puma_engine.training.step import Stepper

REPORT_SECONDS = 0.2
ASK_STEPS = 10


@dataclass(frozen=True)
class Progress:
    """How far a stage is; loss is the mean of an example since the last report."""

    stage: str
    epoch: int
    step: int
    total: int
    loss: float
    examples_per_second: float
    eta_seconds: float
    validation: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run did: one history row an epoch (train_loss, validation)."""

    history: list[dict[str, Any]]
    best_epoch: int
    best_validation: float
    steps: int
    examples: int
    seconds: float
    device: str
    precision: str


def resolve_device(device: str | None) -> str:
    """Return a usable device name: the given one, or a GPU if there is one, else the CPU."""
    if device in (None, "auto"):
        device = "cuda" if torch.cuda.is_available() and not distributed.cpu_requested() else "cpu"
        return distributed.local_device(device)
    try:
        kind = torch.device(str(device)).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            f"The device {device!r} is not here; use cpu, or cuda where there is a GPU."
        )
    return distributed.local_device(str(device))


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16; "auto" is bf16 on a GPU and fp32 on a CPU."""
    if precision not in PRECISIONS:
        raise ConfigError(f"There is no precision {precision!r}; choose {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 needs a GPU; use fp32 or bf16 on a CPU.")
    return precision


def train(
    module: nn.Module,
    n_examples: int,
    config: TrainingConfig,
    *,
    lengths: np.ndarray | None = None,
    validate: Callable[[], float] | None = None,
    keep_start: bool = False,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    stage: str = "training",
) -> TrainingResult:
    """Train the parameters of `module` that require gradients, and leave the best in it.

    module(rows) returns the fp32 sum of the losses of the examples numbered rows [b] (CPU).
    lengths [n_examples] sort batches by work. validate() is called after each epoch, the
    same on every process; lower is better, and without it the last epoch counts. With
    keep_start, what the module starts from stays (best_epoch -1) unless an epoch is better. With
    checkpoint_dir, a run that was killed continues where its last checkpoint was and ends
    with the same weights. Under `accelerate launch` each process works on its share of each
    batch, and gradients are those of one process. Raises Cancelled (after a checkpoint)
    TrainingError when the loss diverges, and CheckpointError.
    """
    run = _Run(module, n_examples, config, lengths, checkpoint_dir, stage, progress)
    run.resume()
    if keep_start and validate is not None:
        run.note_start(validate)
    state = run.state
    while state.epoch < config.epochs and not state.finished:
        batches = run.batches(state.epoch)
        for number in range(state.batch, len(batches)):
            run.step(batches[number])
            state.batch = number + 1
            if run.is_cancelled(should_cancel):
                run.save()
                raise Cancelled(f"Cancelled while {stage}, at step {state.step} of {run.total}.")
            run.report()
            run.save_if_due()
        run.end_epoch(validate)
        run.save()
    return run.result()


class _Run:
    """The parts of one run, so that `train` reads as the loop that it is."""

    def __init__(
        self,
        module: nn.Module,
        n_examples: int,
        config: TrainingConfig,
        lengths: np.ndarray | None,
        folder: Path | None,
        stage: str,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        from accelerate import Accelerator

        parameters = list(checkpoint.trained(module).values())
        device = parameters[0].device
        self.precision = resolve_precision(config.precision, device)
        # Accelerate keeps one process-wide state; a run must not inherit another's device.
        _forget_accelerate()
        # For a mixed precision it would put a method of the module into the module: a cycle, which
        # keeps the module's data in memory until a collection of all garbage. The stepper casts.
        self.accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu")
        self.bare, self.config, self.n = module, config, n_examples
        self.lengths, self.folder, self.stage, self.progress = lengths, folder, stage, progress
        steps = math.ceil(n_examples / config.batch_size)
        self.total = steps * config.epochs
        self.device = device
        prepared = self.accelerator.prepare(module)
        self.stepper = Stepper(
            module, prepared, parameters, config, self.accelerator, self.precision
        )
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self.since = torch.zeros((), device=device)
        self.since_count = 0
        self.started = self.reported = self.saved = time.monotonic()
        self.before = 0.0
        self.validation: float | None = None
        # In their order, by which an optimiser keeps its state.
        shapes = [[name, list(p.shape)] for name, p in checkpoint.trained(module).items()]
        facts = [config.to_dict() | {"checkpoint_seconds": 0}, n_examples, shapes]
        self.fingerprint = stable_hash(facts)

    def resume(self) -> None:
        if self.folder is None:
            return
        loaded = checkpoint.load(self.folder, self.fingerprint)
        if loaded is None:
            return
        self.state = loaded.state
        self.best = loaded.restore(self.bare, self.stepper.optimizer) or None
        self.before = loaded.state.seconds
        if self.accelerator.is_main_process:
            self.since += loaded.state.loss_sum
            self.since_count = loaded.state.loss_count
        if loaded.scaler is not None:
            self.stepper.scaler.load_state_dict(loaded.scaler)

    def note_start(self, validate: Callable[[], float]) -> None:
        """Take what is there before the first step as the best so far."""
        if self.state.step == 0:
            self.state.best_validation = self.agreed(float(validate()))
            self.best = checkpoint.snapshot(self.bare)

    def batches(self, epoch: int) -> list[np.ndarray]:
        config = self.config
        return epoch_batches(
            self.n, config.batch_size, seed=config.seed, epoch=epoch, lengths=self.lengths
        )

    def rate(self) -> float:
        warm = self.config.warmup * self.total
        step = self.state.step
        if step < warm:
            return self.config.learning_rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1.0, self.total - warm)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def step(self, batch: np.ndarray) -> None:
        processes = self.accelerator.num_processes
        share = process_share(batch, self.accelerator.process_index, processes)
        total = self.stepper(torch.from_numpy(share), len(batch), self.rate())
        self.since += total
        self.since_count += len(share)
        self.state.step += 1
        self.state.examples += len(batch)

    def report(self, *, now: bool = False, loss: float | None = None) -> None:
        clock = time.monotonic()
        if self.progress is None or not self.accelerator.is_main_process:
            return
        if not now and clock - self.reported < REPORT_SECONDS:
            return
        self.reported = clock
        spent = max(1e-9, self.before + clock - self.started)
        rate = self.state.examples / spent
        left = (self.total - self.state.step) * self.config.batch_size / max(rate, 1e-9)
        if loss is None:
            loss = float(self.since) / max(1, self.since_count)
        state = self.state
        self.progress(
            Progress(
                self.stage, state.epoch, state.step, self.total, loss, rate, left, self.validation
            )
        )

    def end_epoch(self, validate: Callable[[], float] | None) -> None:
        state = self.state
        totals = torch.stack(
            [self.since.double(), self.since.new_tensor(self.since_count).double()]
        )
        summed = self.accelerator.reduce(totals, reduction="sum")
        train_loss = float(summed[0] / summed[1].clamp(min=1))
        self.since.zero_()
        self.since_count = 0
        self.validation = None if validate is None else self.agreed(float(validate()))
        self.refuse_nan(train_loss)
        state.history.append(
            {"epoch": state.epoch, "train_loss": train_loss, "validation": self.validation}
        )
        better = self.validation is None or not self.validation >= state.best_validation
        if better:
            state.best_epoch = state.epoch
            state.best_validation = math.inf if self.validation is None else self.validation
            self.best = None if validate is None else checkpoint.snapshot(self.bare)
        waited = state.epoch - state.best_epoch
        state.finished = bool(self.config.patience) and waited >= self.config.patience
        state.epoch += 1
        state.batch = 0
        self.report(now=True, loss=train_loss)

    def agreed(self, value: float) -> float:
        """The mean over processes, so that all take the same decision after it."""
        mine = torch.tensor([value], dtype=torch.float64, device=self.since.device)
        return float(self.accelerator.reduce(mine, reduction="mean"))

    def is_cancelled(self, should_cancel: Callable[[], bool] | None) -> bool:
        """Whether somebody asked to stop; several processes ask each other now and then."""
        asked = should_cancel is not None and should_cancel()
        if self.accelerator.num_processes == 1:
            return asked
        return self.state.step % ASK_STEPS == 0 and self.agreed(float(asked)) > 0

    def refuse_nan(self, train_loss: float) -> None:
        """Stop a training that diverged; its numbers would spoil everything after it."""
        for name, value in (("loss", train_loss), ("validation value", self.validation)):
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"The {name} became {value} in epoch {self.state.epoch + 1} while {self.stage} "
                    f"in {self.precision}; lower the learning rate ({self.config.learning_rate:g})."
                )

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.config.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.folder is None or not self.accelerator.is_main_process:
            return
        self.state.seconds = self.before + self.saved - self.started
        self.state.loss_sum = float(self.since)
        self.state.loss_count = self.since_count
        scaler = self.stepper.scaler.state_dict() if self.stepper.scaler.is_enabled() else None
        checkpoint.save(
            self.folder,
            self.fingerprint,
            self.state,
            self.bare,
            self.stepper.optimizer,
            self.best,
            scaler,
        )

    def result(self) -> TrainingResult:
        if self.best is not None:
            with torch.no_grad():
                for name, parameter in checkpoint.trained(self.bare).items():
                    parameter.copy_(self.best[name])
        state = self.state
        return TrainingResult(
            state.history,
            state.best_epoch,
            state.best_validation,
            state.step,
            state.examples,
            self.before + time.monotonic() - self.started,
            str(self.device),
            self.precision,
        )


def _forget_accelerate() -> None:
    from accelerate.state import AcceleratorState, PartialState

    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    else:
        AcceleratorState._reset_state()
