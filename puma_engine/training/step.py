"""One training step: forward, backward, clip, update; on a GPU as a CUDA graph for each shape."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from puma_engine.config import TrainingConfig
from puma_engine.training.cuda_graphs import GraphCache
from puma_engine.training.device import torch_dtype

MAX_GRAPHS = 32


@runtime_checkable
class Capturable(Protocol):
    """A module whose whole training step a CUDA graph can hold.

    Called with rows [B] on the device and their widths, it returns the summed loss without
    waiting for the device.
    """

    def widths(self, rows: Tensor) -> tuple[int, ...] | None:
        """Return the padded sizes of rows [B] (CPU), each with a graph of its own; None to run without one."""


class TrainingStep:
    """The optimiser, and a call that takes one step.

    module: the module itself; prepared: the module wrapped by accelerate. Small models spend most
    of a step on launching kernels, so full batches of a recurring shape are replayed as a CUDA
    graph, if the module is `Capturable` and a single process works on a GPU.
    """

    def __init__(
        self,
        module: nn.Module,
        prepared: nn.Module,
        config: TrainingConfig,
        precision: str,
        processes: int,
    ) -> None:
        self.module, self.prepared, self.config = module, prepared, config
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.processes = processes
        self.autocast_dtype = None if precision == "fp32" else torch_dtype(precision)
        self.scaler = torch.amp.GradScaler(enabled=precision == "fp16")
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        # Vectors (biases, norms, what all users share) do not decay.
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        decays = ((matrices, config.weight_decay), (vectors, 0.0))
        groups = [{"params": part, "weight_decay": decay} for part, decay in decays if part]
        if self.device.type == "cuda":
            rate = torch.tensor(config.learning_rate, device=self.device)
            self.optimizer = kind(groups, lr=rate, fused=True, capturable=True)
            # Without this it warns of each step outside a capture, such as those of partial batches.
            self.optimizer._warned_capturable_if_run_uncaptured = True
        else:
            self.optimizer = kind(groups, lr=config.learning_rate)
        self.graphs: GraphCache | None = None
        one_gpu = self.device.type == "cuda" and processes == 1
        if one_gpu and precision != "fp16" and isinstance(module, Capturable):
            self.graphs = GraphCache(self.device, MAX_GRAPHS)
            self.stream = torch.cuda.Stream(self.device)

    def __call__(self, rows: Tensor, batch_size: int, learning_rate: float) -> Tensor:
        """Take one step on rows [B] (CPU) and return their summed loss, on the device.

        rows are this process's share of a batch of batch_size examples. The next call may
        overwrite the result.
        """
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        # DDP averages gradients over processes; the mean over the whole batch is wanted.
        scale = self.processes / batch_size
        if self.graphs is not None and isinstance(self.module, Capturable):
            widths = self.module.widths(rows)
            if widths is not None:
                return self._capturable_step(rows, widths, scale)
        with self._autocast():
            loss: Tensor = self.prepared(rows)
        self._update(loss, scale)
        return loss.detach()

    def _capturable_step(self, rows: Tensor, widths: tuple[int, ...], scale: float) -> Tensor:
        assert self.graphs is not None
        rows = rows.to(self.device, non_blocking=True)

        def step(rows: Tensor) -> Tensor:
            # A capture that failed may have left gradients that were never computed.
            self.optimizer.zero_grad(set_to_none=True)
            # Weights that autocast has cast during one capture must not be used by the next.
            with self._autocast(cache_enabled=False):
                loss: Tensor = self.module(rows, widths)
            self._update(loss, scale)
            return loss.detach()

        def capture(pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
            graph, inputs = torch.cuda.CUDAGraph(), rows.clone()
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                loss = step(inputs)
            return graph, inputs, loss

        full = len(rows) == self.config.batch_size
        captured = self.graphs.get(widths, capture) if full else None
        if captured is not None:
            graph, inputs, loss = captured
            inputs.copy_(rows)
            graph.replay()
            return loss  # type: ignore[no-any-return]
        # No graph is replayed, but the step runs on the stream that captures use.
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            loss = step(rows)
        current.wait_stream(self.stream)
        return loss

    def _autocast(self, **options: bool) -> torch.autocast:
        enabled = self.autocast_dtype is not None
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled, **options)

    def _update(self, loss: Tensor, scale: float) -> None:
        self.scaler.scale(loss * scale).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
