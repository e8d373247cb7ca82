"""Exponential moving averages of weights over steps (Polyak and Juditsky 1992)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """Averages of parameters, by name: a <- d * a + (1 - d) * p after each step.

    In the first steps d is at most (1 + step) / (10 + step), so that the initial weights lose their
    influence soon. With decay 0 nothing is averaged, and the parameters themselves count as
    average.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.averages = self._copies(parameters) if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages with the parameters after `step` steps."""
        if self.averages:
            decay = min(self.decay, (1 + step) / (10 + step))
            averages, parameters = list(self.averages.values()), list(self.parameters.values())
            torch._foreach_lerp_(averages, parameters, 1 - decay)

    def values(self) -> dict[str, Tensor]:
        """Return copies of the averages, by name; of the parameters where nothing is averaged."""
        return self._copies(self.averages or self.parameters)

    @torch.no_grad()
    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Continue from the averages of a checkpoint."""
        for name, average in self.averages.items():
            average.copy_(averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager: use the averages as parameters."""
        trained = self._copies(self.parameters) if self.averages else {}
        self.apply(self.averages)
        try:
            yield
        finally:
            self.apply(trained)

    @torch.no_grad()
    def apply(self, values: Mapping[str, Tensor]) -> None:
        """Set the parameters to values, by name."""
        for name, value in values.items():
            self.parameters[name].copy_(value)

    @staticmethod
    def _copies(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in values.items()}
