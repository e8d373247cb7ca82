"""One training step: forwards, backwards, clipped, updated; on a GPU as one CUDA graph a shape."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from puma_engine.config import TrainingConfig
from puma_engine.training.device import collection_paused

MOST_GRAPHS = 32
MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}


@runtime_checkable
class Stepped(Protocol):
    """A module whose loss can be computed without waiting for the device."""

    def shape(self, rows: Tensor) -> tuple[int, ...] | None:
        """What sizes the work on rows [B] (CPU) has, or None if it must wait for the device."""

    def loss_at(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The summed loss of rows [B] (device) of that shape."""


class Stepper:
    """Takes training steps, and keeps the optimiser.

    `prepared` is the module as accelerate wraps it. Small models spend most of a step on
    starting kernels; where the module is `Stepped` and one GPU works alone, full batches whose
    shape came before are therefore replayed as a CUDA graph of the whole step.
    """

    def __init__(
        self,
        module: nn.Module,
        prepared: nn.Module,
        parameters: list[nn.Parameter],
        config: TrainingConfig,
        accelerator: Any,
        precision: str,
    ) -> None:
        self.prepared, self.parameters = prepared, parameters
        self.config, self.accelerator = config, accelerator
        self.mixed = MIXED.get(precision)
        self.device = parameters[0].device
        self.scaler = torch.amp.GradScaler(enabled=precision == "fp16")
        graphs = self.device.type == "cuda" and accelerator.num_processes == 1
        self.graphs: _Graphs | None = None
        if graphs and precision != "fp16" and isinstance(module, Stepped):
            self.graphs, self.stepped = _Graphs(self.device), module
        self.optimizer = _optimizer(parameters, config, self.device)

    def __call__(self, rows: Tensor, count: int, rate: float) -> Tensor:
        """Learn from rows [B] (CPU), this process's share of `count`; return their summed loss."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        # DDP averages over processes; the mean over the whole batch is wanted.
        scale = self.accelerator.num_processes / count
        shape = None if self.graphs is None else self.stepped.shape(rows)
        if shape is not None:
            return self._without_waiting(rows, shape, scale)
        with self._autocast():
            total: Tensor = self.prepared(rows)
        self._learn(total, scale)
        return total.detach()

    def _autocast(self, **how: bool) -> torch.autocast:
        enabled = self.mixed is not None
        return torch.autocast(self.device.type, self.mixed, enabled=enabled, **how)

    def _learn(self, total: Tensor, scale: float) -> None:
        self.scaler.scale(total * scale).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _without_waiting(self, rows: Tensor, shape: tuple[int, ...], scale: float) -> Tensor:
        def work(rows: Tensor) -> Tensor:
            # A capture that failed may have left gradients that were never computed.
            self.optimizer.zero_grad(set_to_none=True)
            # What autocast keeps of one capture must not be met by the next.
            with self._autocast(cache_enabled=False):
                total = self.stepped.loss_at(rows, shape)
            self._learn(total, scale)
            return total.detach()

        assert self.graphs is not None
        rows = rows.to(self.device, non_blocking=True)
        if len(rows) < self.config.batch_size:
            return self.graphs.plainly(work, rows)
        return self.graphs.run(work, rows, shape)


class _Graphs:
    """CUDA graphs by shape; a shape is captured the second time that it comes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: set[tuple[int, ...]] = set()
        self.captured: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}
        self.enabled = True

    def plainly(self, work: Any, rows: Tensor) -> Tensor:
        """Work without a graph, on the stream that captures use."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            total: Tensor = work(rows)
        current.wait_stream(self.stream)
        return total

    def run(self, work: Any, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Work on rows [B] of a shape, by its graph if there is one; B is always the same."""
        if shape not in self.captured:
            known = shape in self.seen and self.enabled and len(self.captured) < MOST_GRAPHS
            self.seen.add(shape)
            if not known or not self._capture(work, rows, shape):
                return self.plainly(work, rows)
        graph, inputs, total = self.captured[shape]
        inputs.copy_(rows)
        graph.replay()
        return total

    def _capture(self, work: Any, rows: Tensor, shape: tuple[int, ...]) -> bool:
        graph, inputs = torch.cuda.CUDAGraph(), rows.clone()
        try:
            capture = torch.cuda.graph(graph, pool=self.pool, stream=self.stream)
            with collection_paused(), capture:
                total = work(inputs)
        except RuntimeError:
            # Some architectures look at values on the host, which a capture forbids.
            self.enabled = False
            torch.cuda.synchronize(self.device)
            return False
        self.captured[shape] = (graph, inputs, total)
        return True


def _optimizer(
    parameters: list[nn.Parameter], config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # As is usual, vectors (biases, norms, what all users share) do not decay.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if device.type != "cuda":
        return kind(groups, lr=config.learning_rate)
    rate = torch.tensor(config.learning_rate, device=device)
    found = kind(groups, lr=rate, fused=True, capturable=True)
    # It would warn of each step outside a capture; partial batches are such steps.
    found._warned_capturable_if_run_uncaptured = True
    return found
