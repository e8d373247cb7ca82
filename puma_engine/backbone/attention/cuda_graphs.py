"""Differentiable CUDA graphs of a function of tensors, one for each shape."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from puma_engine.training.cuda_graphs import GraphCache

MAX_GRAPHS = 48


class GraphedCalls:
    """Calls one function of tensors; from the second call with a shape on, it replays a CUDA graph.

    function(*tensors, widths=...) -> tensor is the same at each call. It must not wait for the
    device, and its gradients may only be needed with respect to its arguments. The next call of
    the same shape overwrites a result. On a CPU, and for models that cannot be captured, this
    calls the function itself.
    """

    # The function is not stored: a method of the owner would make a reference cycle, and the
    # owner's memory on a device would stay until a full garbage collection, which is rare.
    def __init__(self, device: torch.device) -> None:
        self.graphs = GraphCache(device, MAX_GRAPHS)

    def __call__(
        self, function: Callable[..., Tensor], *arguments: Tensor, widths: tuple[int, ...] = ()
    ) -> Tensor:
        """Call the function; `widths` are plain numbers that it takes as a keyword too."""
        call = partial(function, widths=widths)
        with_grad = torch.is_grad_enabled()

        def capture(pool: Any) -> Callable[..., Tensor]:
            samples = tuple(
                a.detach().clone().requires_grad_(with_grad and a.requires_grad) for a in arguments
            )
            # It takes functions, not partials.
            graphed = torch.cuda.make_graphed_callables(
                lambda *tensors: call(*tensors), samples, num_warmup_iters=2, pool=pool
            )
            return cast(Callable[..., Tensor], graphed)

        shapes = tuple((a.shape, a.dtype, with_grad and a.requires_grad) for a in arguments)
        graphed = self.graphs.get((shapes, widths), capture)
        return (call if graphed is None else graphed)(*arguments)
