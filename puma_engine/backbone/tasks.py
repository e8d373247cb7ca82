"""The two tasks, rating and click: answers, head, loss and prediction."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puma_engine.errors import ConfigError

TaskName = Literal["rating", "click"]


class Task(ABC):
    """A task: its head, loss and prediction on a backbone's answer logits [B, A]."""

    name: TaskName
    answers: tuple[str, ...]

    @abstractmethod
    def head(self, start: float, generator: torch.Generator) -> nn.Module:
        """Return a new head; start: the mean outcome, its first prediction."""

    @abstractmethod
    def loss(
        self, logits: Tensor, outcome: Tensor, head: nn.Module, answers: Tensor | None = None
    ) -> Tensor:
        """Return the loss of each example, [B], given outcomes [B].

        An outcome may be another model's prediction: a real-valued rating with the probabilities of
        its answers [B, A], or the probability of a click.
        """

    @abstractmethod
    def predict(self, logits: Tensor, head: nn.Module) -> Tensor:
        """Return predictions [B]: ratings, or click probabilities."""


class RatingHead(nn.Module):
    """The paper's 5-32-12-1 head: answer logits [B, 5] to one real-valued rating [B].

    It reads log-probabilities among the five answers, so that an offset common to all logits has
    no effect and a head can be used on another backbone. Its last bias starts at `start`, the mean
    rating.
    """

    def __init__(self, start: float = 3.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 1)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                # The last layer is the only one with a single output.
                nn.init.constant_(layer.bias, start if layer.out_features == 1 else 0)

    def forward(self, logits: Tensor) -> Tensor:
        return self.layers(F.log_softmax(logits.float(), dim=-1)).squeeze(-1)


class RatingTask(Task):
    """Ratings from 1 to 5: 0.8 squared error of the head plus 0.2 cross entropy."""

    name: TaskName = "rating"
    answers = ("1", "2", "3", "4", "5")
    squared_weight = 0.8

    def head(self, start: float, generator: torch.Generator) -> nn.Module:
        return RatingHead(start, generator)

    def loss(
        self, logits: Tensor, outcome: Tensor, head: nn.Module, answers: Tensor | None = None
    ) -> Tensor:
        """Return the loss of each example, [B]; a rating between two stars counts for both.

        If the probabilities of answers [B, 5] are given, the cross entropy is computed against
        them.
        """
        log_p = F.log_softmax(logits.float(), dim=-1)
        if answers is None:
            low = outcome.floor().clamp(1, 4)
            share = (outcome - low).clamp(0, 1)
            index = low.long().unsqueeze(1) - 1
            entropy = -(
                (1 - share) * log_p.gather(1, index).squeeze(1)
                + share * log_p.gather(1, index + 1).squeeze(1)
            )
        else:
            entropy = -(answers * log_p).sum(dim=-1)
        squared = (head(logits) - outcome) ** 2
        return self.squared_weight * squared + (1 - self.squared_weight) * entropy

    def predict(self, logits: Tensor, head: nn.Module) -> Tensor:
        return head(logits).clamp(1, 5)


class ClickHead(nn.Module):
    """Answer logits [B, 2] (Yes, No) to one click logit [B]: their difference plus a learned bias.

    The paper reads only the logit of Yes. Its offset differs between backbones; the difference
    removes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits[:, 0] - logits[:, 1] + self.bias


class ClickTask(Task):
    """Clicks, 0 or 1: binary cross entropy."""

    name: TaskName = "click"
    answers = ("Yes", "No")

    def head(self, start: float, generator: torch.Generator) -> nn.Module:
        return ClickHead()

    def loss(
        self, logits: Tensor, outcome: Tensor, head: nn.Module, answers: Tensor | None = None
    ) -> Tensor:
        """Return the loss of each example, [B]; outcomes may be probabilities of a click."""
        return F.binary_cross_entropy_with_logits(head(logits), outcome, reduction="none")

    def predict(self, logits: Tensor, head: nn.Module) -> Tensor:
        return torch.sigmoid(head(logits))


TASKS: dict[str, Task] = {"rating": RatingTask(), "click": ClickTask()}


def get_task(name: str) -> Task:
    """Return a task by name. Raises ConfigError that lists the names."""
    if name not in TASKS:
        raise ConfigError(f"There is no task {name!r}; the tasks are {', '.join(TASKS)}.")
    return TASKS[name]
