"""The one training loop: zoo models, soft prompts and adapters all go through `train`."""

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
# Several processes agree every so many steps on a cancellation, and on what a checkpoint holds.
AGREE_STEPS = 10
# Batches in a window that is sorted by length.
WINDOW = 50


@dataclass(frozen=True)
class Progress:
    """How far a stage is; loss is the mean of an example in this epoch so far.

    saved_step, saved_epoch: where a run that is stopped now would go on; 0 without a checkpoint.
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
    """What a finished run did: one history row an epoch (train_loss, validation)."""

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
    parameters = checkpoint.trainable_parameters(module)
    device = next(iter(parameters.values())).device
    precision = resolve_precision(config.precision, device)
    accelerator = _accelerator(device)
    prepared = accelerator.prepare(module)
    step = TrainingStep(module, prepared, config, precision, accelerator.num_processes)
    total = math.ceil(n_examples / config.batch_size) * config.epochs
    state, best = TrainingState(), None
    average = MovingAverage(parameters, config.ema_decay)
    loss_sum, loss_count = torch.zeros((), device=device), 0
    # An optimiser stores its state by the order of parameters, so their order counts.
    shapes = [[name, list(p.shape)] for name, p in parameters.items()]
    settings = config.to_dict() | {"checkpoint_seconds": 0}
    fingerprint = stable_hash([settings, n_examples, shapes])

    if checkpoint_dir is not None:
        loaded = checkpoint.load(checkpoint_dir, fingerprint)
        if loaded is not None:
            state, best = loaded.state, loaded.restore(module, step.optimizer) or None
            average.restore(loaded.copies("average", module))
            if accelerator.is_main_process:
                loss_sum += state.loss_sum
                loss_count = state.loss_count
            if loaded.scaler is not None:
                step.scaler.load_state_dict(loaded.scaler)
    start = reported = saved = time.monotonic()
    seconds_before, kept = state.seconds, (state.step, state.epoch)

    def sums_over_processes(*values: float | torch.Tensor) -> list[float]:
        tensors = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]
        return list(accelerator.reduce(torch.stack(tensors), reduction="sum").tolist())

    def mean_over_processes(value: float) -> float:
        return sums_over_processes(value)[0] / accelerator.num_processes

    def report(loss: float, validation: float | None) -> None:
        nonlocal reported
        reported = time.monotonic()
        if progress is not None:
            rate = state.examples / max(1e-9, seconds_before + reported - start)
            eta = (total - state.step) * config.batch_size / max(rate, 1e-9)
            at = state.epoch, state.step, total
            progress(Progress(stage, *at, loss, rate, eta, validation, *kept))

    def save(loss_sum: float | torch.Tensor = 0.0, loss_count: float = 0) -> None:
        """Write a checkpoint; the losses and examples of this epoch so far are those of all processes."""
        nonlocal saved, kept
        saved = time.monotonic()
        if checkpoint_dir is not None and accelerator.is_main_process:
            state.seconds = seconds_before + saved - start
            state.loss_sum, state.loss_count = float(loss_sum), int(loss_count)
            scaler = step.scaler.state_dict() if step.scaler.is_enabled() else None
            checkpoint.save(
                checkpoint_dir,
                fingerprint,
                state,
                module,
                step.optimizer,
                best,
                scaler,
                average.averages,
            )
            kept = state.step, state.epoch

    validation: float | None = None
    if include_start and validate is not None and state.step == 0:
        state.best_validation = mean_over_processes(float(validate()))
        best = checkpoint.copy_parameters(module)
    while state.epoch < config.epochs and not state.finished:
        batches = epoch_batches(
            n_examples, config.batch_size, seed=config.seed, epoch=state.epoch, lengths=lengths
        )
        for batch in batches[state.batch :]:
            share = batch[accelerator.process_index :: accelerator.num_processes]
            rate = learning_rate(config, state.step, total)
            loss_sum += step(torch.from_numpy(share), len(batch), rate)
            loss_count += len(share)
            state.step += 1
            average.update(state.step)
            state.batch += 1
            state.examples += len(batch)
            cancelled = should_cancel is not None and should_cancel()
            agreed = accelerator.num_processes == 1 or state.step % AGREE_STEPS == 0
            losses: float | torch.Tensor = loss_sum
            examples: float = loss_count
            if accelerator.num_processes > 1:
                # All processes stop at the same step, and a checkpoint holds the losses of all.
                cancels = 0.0
                if agreed:
                    cancels, losses, examples = sums_over_processes(
                        float(cancelled), losses, examples
                    )
                cancelled = cancels > 0
            if cancelled:
                save(losses, examples)
                if accelerator.is_main_process:
                    report(float(loss_sum) / max(1, loss_count), validation)
                raise Cancelled(f"Cancelled while {stage}, at step {state.step} of {total}.")
            now = time.monotonic()
            if accelerator.is_main_process and progress and now - reported >= REPORT_SECONDS:
                report(float(loss_sum) / max(1, loss_count), validation)
            if agreed and time.monotonic() - saved >= config.checkpoint_seconds:
                save(losses, examples)

        losses, examples = sums_over_processes(loss_sum, loss_count)
        train_loss = losses / max(1.0, examples)
        loss_sum, loss_count = torch.zeros((), device=device), 0
        with average.applied():
            validation = None if validate is None else mean_over_processes(float(validate()))
        for name, value in (("loss", train_loss), ("validation value", validation)):
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"The {name} became {value} in epoch {state.epoch + 1} while {stage} in "
                    f"{precision}; lower the learning rate ({config.learning_rate:g})."
                )
        if state.end_epoch(train_loss, validation, config.patience):
            best = None if validate is None else average.values()
        save()
        if accelerator.is_main_process:
            report(train_loss, validation)

    average.apply(average.averages if best is None else best)
    return TrainingResult(
        state.history,
        state.best_epoch,
        state.best_validation,
        state.step,
        state.examples,
        seconds_before + time.monotonic() - start,
        str(device),
        precision,
    )


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
