"""The training loop of zoo models, soft prompts and adapters."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from puma_engine.config import TrainingConfig, stable_hash
from puma_engine.errors import Cancelled, TrainingError
from puma_engine.training import checkpoint
from puma_engine.training.averaging import MovingAverage
from puma_engine.training.checkpoint import TrainingState
from puma_engine.training.device import resolve_precision
from puma_engine.training.step import TrainingStep

REPORT_SECONDS = 0.2
# Several processes agree on cancelling and on a checkpoint once in so many steps.
SYNC_STEPS = 10
# Batches in a window that is sorted by length.
WINDOW = 50


@dataclass(frozen=True)
class Progress:
    """How far a stage is. loss: mean of an example in this epoch so far.

    saved_step, saved_epoch: of the last checkpoint, where a stopped run resumes; 0 without one.
    """

    stage: str
    epoch: int
    step: int
    total: int
    loss: float
    examples_per_second: float
    eta_seconds: float
    validation: float | None = None
    saved_step: int = 0
    saved_epoch: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training. history: one row for each epoch, with train_loss and validation."""

    history: list[dict[str, Any]]
    best_epoch: int
    best_validation: float
    steps: int
    examples: int
    seconds: float
    device: str
    precision: str


def train(
    module: nn.Module,
    n_examples: int,
    config: TrainingConfig,
    *,
    lengths: np.ndarray | None = None,
    validate: Callable[[], float] | None = None,
    include_start: bool = False,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    stage: str = "training",
) -> TrainingResult:
    """Train the parameters of `module` that require gradients, and leave the best in it.

    module(rows) returns the fp32 sum of the losses of the examples numbered rows [b] (CPU).
    lengths [n_examples]: tokens of each example, by which batches of similar work are formed.
    validate() is called after each epoch and returns the same on every process; lower is better,
    and without it the last epoch counts. include_start: the initial parameters stay (best_epoch -1)
    unless an epoch is better. checkpoint_dir: a run that was killed continues from its last
    checkpoint there and ends with the same weights. Under `accelerate launch` each process works
    on its share of each batch, and gradients are those of one process.

    Raises Cancelled (after a checkpoint), TrainingError when the loss diverges, and
    CheckpointError for a damaged checkpoint or one of another run.
    """
    training = _Training(
        module, n_examples, config, validate, checkpoint_dir, progress, should_cancel, stage
    )
    training.resume()
    if include_start:
        training.validate_start()
    while training.is_unfinished:
        state = training.state
        batches = epoch_batches(
            n_examples, config.batch_size, seed=config.seed, epoch=state.epoch, lengths=lengths
        )
        for batch in batches[state.batch :]:
            training.take_step(batch)
            training.report_save_or_stop()
        training.end_epoch()
    return training.finish()


class _Training:
    """A training in progress: the module and everything that the next step depends on.

    state: how far it is. best: the parameters of the best epoch so far. loss_sum, loss_count: this
    process's losses and examples of the epoch so far. validation: that of the last epoch.
    """

    def __init__(
        self,
        module: nn.Module,
        n_examples: int,
        config: TrainingConfig,
        validate: Callable[[], float] | None,
        checkpoint_dir: Path | None,
        progress: Callable[[Progress], None] | None,
        should_cancel: Callable[[], bool] | None,
        stage: str,
    ) -> None:
        self.module, self.config, self.stage = module, config, stage
        self.validate, self.checkpoint_dir = validate, checkpoint_dir
        self.progress, self.should_cancel = progress, should_cancel
        parameters = checkpoint.trainable_parameters(module)
        self.device = next(iter(parameters.values())).device
        self.precision = resolve_precision(config.precision, self.device)
        self.accelerator = _accelerator(self.device)
        self.processes = self.accelerator.num_processes
        prepared = self.accelerator.prepare(module)
        self.step = TrainingStep(module, prepared, config, self.precision, self.processes)
        self.total = math.ceil(n_examples / config.batch_size) * config.epochs
        self.average = MovingAverage(parameters, config.ema_decay)
        # An optimiser's state is stored in the order of parameters, so the order is part of the hash.
        shapes = [[name, list(p.shape)] for name, p in parameters.items()]
        settings = config.to_dict() | {"checkpoint_seconds": 0}
        self.fingerprint = stable_hash([settings, n_examples, shapes])
        self.state = TrainingState()
        self.best: dict[str, torch.Tensor] | None = None
        self.loss_sum, self.loss_count = torch.zeros((), device=self.device), 0
        self.validation: float | None = None

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one, and start the clock. Raises CheckpointError."""
        loaded = None
        if self.checkpoint_dir is not None:
            loaded = checkpoint.load(self.checkpoint_dir, self.fingerprint)
        if loaded is not None:
            self.state = loaded.state
            self.best = loaded.restore(self.module, self.step.optimizer) or None
            self.average.restore(loaded.copies("average", self.module))
            if self.accelerator.is_main_process:
                self.loss_sum += self.state.loss_sum
                self.loss_count = self.state.loss_count
            if loaded.scaler is not None:
                self.step.scaler.load_state_dict(loaded.scaler)
        self.started = self.reported = self.saved = time.monotonic()
        self.seconds_before = self.state.seconds
        # Where a stopped run would resume.
        self.last_checkpoint = self.state.step, self.state.epoch

    def validate_start(self) -> None:
        """Validate the initial parameters, which count as the best until an epoch is better."""
        if self.validate is not None and self.state.step == 0:
            self.state.best_validation = self._mean_over_processes(float(self.validate()))
            self.best = checkpoint.copy_parameters(self.module)

    @property
    def is_unfinished(self) -> bool:
        return self.state.epoch < self.config.epochs and not self.state.finished

    def take_step(self, batch: np.ndarray) -> None:
        """Take one step on this process's share of a batch of row numbers."""
        state = self.state
        share = batch[self.accelerator.process_index :: self.processes]
        rate = learning_rate(self.config, state.step, self.total)
        self.loss_sum += self.step(torch.from_numpy(share), len(batch), rate)
        self.loss_count += len(share)
        state.step += 1
        self.average.update(state.step)
        state.batch += 1
        state.examples += len(batch)

    def report_save_or_stop(self) -> None:
        """Report progress and write a checkpoint when they are due. Raises Cancelled, after a checkpoint."""
        cancelled = self.should_cancel is not None and self.should_cancel()
        synchronised = self.processes == 1 or self.state.step % SYNC_STEPS == 0
        losses: float | torch.Tensor = self.loss_sum
        examples: float = self.loss_count
        if self.processes > 1:
            # All processes must stop at the same step, and a checkpoint stores the losses of all.
            cancels = 0.0
            if synchronised:
                cancels, losses, examples = self._sums_over_processes(
                    float(cancelled), losses, examples
                )
            cancelled = cancels > 0
        if cancelled:
            self.save(losses, examples)
            self.report()
            raise Cancelled(
                f"Cancelled while {self.stage}, at step {self.state.step} of {self.total}."
            )
        if time.monotonic() - self.reported >= REPORT_SECONDS:
            self.report()
        if synchronised and time.monotonic() - self.saved >= self.config.checkpoint_seconds:
            self.save(losses, examples)

    def end_epoch(self) -> None:
        """Validate, keep the parameters if they are the best, and write a checkpoint.

        Raises TrainingError where a loss is not finite.
        """
        losses, examples = self._sums_over_processes(self.loss_sum, self.loss_count)
        train_loss = losses / max(1.0, examples)
        self.loss_sum, self.loss_count = torch.zeros((), device=self.device), 0
        self.validation = None
        if self.validate is not None:
            with self.average.applied():
                self.validation = self._mean_over_processes(float(self.validate()))
        for name, value in (("loss", train_loss), ("validation value", self.validation)):
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"The {name} became {value} in epoch {self.state.epoch + 1} while {self.stage} in "
                    f"{self.precision}; lower the learning rate ({self.config.learning_rate:g})."
                )
        if self.state.end_epoch(train_loss, self.validation, self.config.patience):
            self.best = None if self.validate is None else self.average.values()
        self.save()
        self.report(train_loss)

    def finish(self) -> TrainingResult:
        """Leave the best parameters in the module."""
        self.average.apply(self.average.averages if self.best is None else self.best)
        return TrainingResult(
            self.state.history,
            self.state.best_epoch,
            self.state.best_validation,
            self.state.step,
            self.state.examples,
            self.seconds_before + time.monotonic() - self.started,
            str(self.device),
            self.precision,
        )

    def report(self, loss: float | None = None) -> None:
        """Report progress to the caller. loss: default: the mean of this process's examples so far."""
        if self.progress is None or not self.accelerator.is_main_process:
            return
        self.reported = time.monotonic()
        if loss is None:
            loss = float(self.loss_sum) / max(1, self.loss_count)
        state = self.state
        rate = state.examples / max(1e-9, self.seconds_before + self.reported - self.started)
        eta = (self.total - state.step) * self.config.batch_size / max(rate, 1e-9)
        at = state.epoch, state.step, self.total
        self.progress(
            Progress(self.stage, *at, loss, rate, eta, self.validation, *self.last_checkpoint)
        )

    def save(self, loss_sum: float | torch.Tensor = 0.0, loss_count: float = 0) -> None:
        """Write a checkpoint. loss_sum, loss_count: of this epoch so far, over all processes."""
        self.saved = time.monotonic()
        if self.checkpoint_dir is None or not self.accelerator.is_main_process:
            return
        state, scaler = self.state, self.step.scaler
        state.seconds = self.seconds_before + self.saved - self.started
        state.loss_sum, state.loss_count = float(loss_sum), int(loss_count)
        checkpoint.save(
            self.checkpoint_dir,
            self.fingerprint,
            state,
            self.module,
            self.step.optimizer,
            self.best,
            scaler.state_dict() if scaler.is_enabled() else None,
            self.average.averages,
        )
        self.last_checkpoint = state.step, state.epoch

    def _sums_over_processes(self, *values: float | torch.Tensor) -> list[float]:
        tensors = [
            torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values
        ]
        return list(self.accelerator.reduce(torch.stack(tensors), reduction="sum").tolist())

    def _mean_over_processes(self, value: float) -> float:
        return self._sums_over_processes(value)[0] / self.processes


def epoch_batches(
    n: int, batch_size: int, *, seed: int, epoch: int, lengths: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the batches of one epoch: each row number once, at most batch_size in a batch.

    They depend on the arguments alone. With lengths [n], examples are sorted by length inside
    windows of 50 batches, so that a batch holds similar lengths, and the batches are shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(n)
    if lengths is None:
        return [order[start : start + batch_size] for start in range(0, n, batch_size)]
    batches = []
    for start in range(0, n, batch_size * WINDOW):
        window = order[start : start + batch_size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[at : at + batch_size] for at in range(0, len(window), batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """Return the rate of a step: a linear warm-up to the peak, then a cosine to 0.

    The cosine schedule is SGDR's without restarts (Loshchilov & Hutter 2017,
    https://arxiv.org/abs/1608.03983).
    """
    warmup = config.warmup * total
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _accelerator(device: torch.device) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # Accelerate has one process-wide state; a run must not inherit another's device.
    single = bool(PartialState._shared_state) and PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=single)
    # For mixed precision it would set a method of the module on the module: a reference cycle, which
    # holds the module's memory until a full garbage collection. `TrainingStep` casts instead.
    return Accelerator(mixed_precision="no", cpu=device.type == "cpu")
