"""CUDA graphs of a function, one a shape: small kernels cost more to launch than to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from puma_engine.training.device import collection_paused

MOST_GRAPHS = 48


class GraphedCalls:
    """Calls one function of tensors; from the second time that a shape comes, as a CUDA graph.

    function(*tensors) -> tensor is the same at each call. It must not wait for the device, and
    its gradients may only be needed with respect to its arguments. A result is overwritten by
    the next call of the same shape. On a CPU, and for models that cannot be captured, this
    calls the function.
    """

    # The function is not kept: a method of the owner would make a cycle, and what the owner holds
    # on a device would stay until a collection of all garbage, which is rare.
    def __init__(self, device: torch.device) -> None:
        self.enabled = device.type == "cuda"
        self.device = device
        self._seen: set[object] = set()
        self._graphs: dict[object, Callable[..., Tensor]] = {}
        self._pool: Any = None

    def __call__(
        self, function: Callable[..., Tensor], *arguments: Tensor, shape: tuple[int, ...] = ()
    ) -> Tensor:
        """Call the function; `shape` are plain numbers that it takes as a keyword too."""
        if not self.enabled:
            return function(*arguments, shape=shape)
        needs = torch.is_grad_enabled()
        sizes = tuple((a.shape, a.dtype, needs and a.requires_grad) for a in arguments)
        key = (sizes, shape)
        if key not in self._graphs:
            if key not in self._seen or len(self._graphs) >= MOST_GRAPHS:
                self._seen.add(key)
                return function(*arguments, shape=shape)
            captured = self._capture(function, arguments, shape, needs)
            if captured is None:
                return function(*arguments, shape=shape)
            self._graphs[key] = captured
        return self._graphs[key](*arguments)

    def _capture(
        self,
        function: Callable[..., Tensor],
        arguments: tuple[Tensor, ...],
        shape: tuple[int, ...],
        needs: bool,
    ) -> Callable[..., Tensor] | None:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        samples = tuple(
            a.detach().clone().requires_grad_(needs and a.requires_grad) for a in arguments
        )
        try:
            grad = torch.set_grad_enabled(needs)
            with torch.cuda.device(self.device), collection_paused(), grad:
                graphed = torch.cuda.make_graphed_callables(
                    lambda *tensors: function(*tensors, shape=shape),
                    samples,
                    num_warmup_iters=2,
                    pool=self._pool,
                )
        except RuntimeError:
            # Some architectures look at values on the host, which a capture forbids.
            self.enabled = False
            torch.cuda.synchronize(self.device)
            return None
        return cast(Callable[..., Tensor], graphed)
