"""CUDA graphs of a function, one a shape: small kernels take longer to launch than to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from puma_engine.training.device import collection_paused

MAX_GRAPHS = 48


class GraphedCalls:
    """Calls one function of tensors, from the second call of a shape on as a CUDA graph.

    function(*tensors, widths=...) -> tensor is the same at each call. It must not wait for the
    device, and its gradients may only be needed with respect to its arguments. The next call of
    the same shape overwrites a result. On a CPU, and for models that cannot be captured, this
    calls the function itself.
    """

    # The function is not stored: a method of the owner would make a reference cycle, and the
    # owner's memory on a device would stay until a full garbage collection, which is rare.
    def __init__(self, device: torch.device) -> None:
        self.enabled = device.type == "cuda"
        self.device = device
        self._seen: set[object] = set()
        self._graphs: dict[object, Callable[..., Tensor]] = {}
        self._pool: Any = None

    def __call__(
        self, function: Callable[..., Tensor], *arguments: Tensor, widths: tuple[int, ...] = ()
    ) -> Tensor:
        """Call the function; `widths` are plain numbers that it takes as a keyword too."""
        if not self.enabled:
            return function(*arguments, widths=widths)
        with_grad = torch.is_grad_enabled()
        shapes = tuple((a.shape, a.dtype, with_grad and a.requires_grad) for a in arguments)
        key = (shapes, widths)
        if key not in self._graphs:
            if key not in self._seen or len(self._graphs) >= MAX_GRAPHS:
                self._seen.add(key)
                return function(*arguments, widths=widths)
            captured = self._capture(function, arguments, widths, with_grad)
            if captured is None:
                return function(*arguments, widths=widths)
            self._graphs[key] = captured
        return self._graphs[key](*arguments)

    def _capture(
        self,
        function: Callable[..., Tensor],
        arguments: tuple[Tensor, ...],
        widths: tuple[int, ...],
        with_grad: bool,
    ) -> Callable[..., Tensor] | None:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        samples = tuple(
            a.detach().clone().requires_grad_(with_grad and a.requires_grad) for a in arguments
        )
        try:
            grad = torch.set_grad_enabled(with_grad)
            with torch.cuda.device(self.device), collection_paused(), grad:
                graphed = torch.cuda.make_graphed_callables(
                    lambda *tensors: function(*tensors, widths=widths),
                    samples,
                    num_warmup_iters=2,
                    pool=self._pool,
                )
        except RuntimeError:
            # Some architectures read values on the host, which a capture forbids.
            self.enabled = False
            torch.cuda.synchronize(self.device)
            return None
        return cast(Callable[..., Tensor], graphed)
