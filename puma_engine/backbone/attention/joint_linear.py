"""Linear layers that read the same input, computed as one matrix product.

A model's query, key and value projections, and the two halves of its gated feed-forward part, are
each one product forwards and one backwards. That takes fewer kernels, and no gradients are summed
up.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Children of one module that are called in this order with one input.
JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _Results:
    """Results of the first part, which the later parts return."""

    def __init__(self) -> None:
        self.parts: tuple[Tensor, ...] | None = None


class FirstPart(nn.Module):
    """Computes all parts [..., sum of sizes] of its input and returns the first."""

    def __init__(self, linears: list[nn.Linear], results: _Results) -> None:
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        self.linear = _joined(linears)
        self.results = results

    def forward(self, x: Tensor) -> Tensor:
        parts = self.linear(x).split(self.sizes, dim=-1)
        self.results.parts = parts
        return parts[0]


class LaterPart(nn.Module):
    """Returns a part that the first one has computed; the last part forgets them."""

    def __init__(self, number: int, results: _Results, is_last: bool) -> None:
        super().__init__()
        self.number, self.results, self.is_last = number, results, is_last

    def forward(self, x: Tensor) -> Tensor:
        assert self.results.parts is not None
        part = self.results.parts[self.number]
        if self.is_last:
            self.results.parts = None
        return part


def join_linears(decoder: nn.Module) -> Callable[[], None]:
    """Join the parallel linear layers of a frozen decoder in place; return a function that undoes it.

    The original layers share the memory of the joined ones.
    """
    former: list[tuple[nn.Module, str, nn.Linear]] = []
    for parent in list(decoder.modules()):
        for names in JOINED:
            children = [getattr(parent, name, None) for name in names]
            linears = [child for child in children if type(child) is nn.Linear]
            kinds = {(linear.in_features, linear.bias is None) for linear in linears}
            if len(linears) < len(names) or len(kinds) > 1:
                continue
            results = _Results()
            former += zip([parent] * len(names), names, linears, strict=True)
            setattr(parent, names[0], FirstPart(linears, results))
            for number, name in enumerate(names[1:], 1):
                setattr(parent, name, LaterPart(number, results, number == len(names) - 1))

    def undo() -> None:
        for parent, name, linear in former:
            setattr(parent, name, linear)

    return undo


@torch.no_grad()
def _joined(linears: list[nn.Linear]) -> nn.Linear:
    sizes = [linear.out_features for linear in linears]
    has_bias = linears[0].bias is not None
    joined = nn.Linear(linears[0].in_features, sum(sizes), bias=has_bias, device="meta")
    for name in ["weight", "bias"][: 1 + has_bias]:
        stacked = torch.cat([getattr(linear, name) for linear in linears])
        setattr(joined, name, nn.Parameter(stacked, requires_grad=False))
        for linear, part in zip(linears, stacked.split(sizes), strict=True):
            getattr(linear, name).data = part
    return joined
