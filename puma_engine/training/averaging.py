"""Exponential moving averages of weights over steps (Polyak and Juditsky 1992)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """Averages of parameters, by name: a <- d * a + (1 - d) * p after each step.

    In the first steps d is at most (1 + step) / (10 + step), so that the initial weights, which no
    step has improved yet, are soon forgotten. decay 0 averages nothing: the parameters themselves
    are the average.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters.values()) if decay else []
        self.names = list(parameters) if decay else []
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def state(self) -> dict[str, Tensor]:
        """Return the averages by name; none where nothing is averaged."""
        return dict(zip(self.names, self.averages, strict=True))

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the averages of a checkpoint."""
        for name, average in self.state().items():
            average.copy_(state[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the parameters as they are after `step` steps."""
        if self.averages:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in the place of the parameters inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the parameters by the averages for good."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            trained = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(trained)
