"""A small training in a process of its own: OUT FOLDER [DROPOUT] [KILL_AT] [STOP_AT].

KILL_AT: the call of the module at which the process kills itself (0: none). STOP_AT: the step from which on
the training is cancelled; then it goes on from its checkpoint.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from puma_engine.config import TrainingConfig
from puma_engine.errors import Cancelled
from puma_engine.files import save_tensors
from puma_engine.training import distributed
from puma_engine.training.loop import train

CONFIG = TrainingConfig(epochs=3, batch_size=37, learning_rate=1e-2, checkpoint_seconds=0.01)


class Small(nn.Module):
    """A regression with dropout on fixed data and a scalar bias, like the head for clicks."""

    def __init__(self, dropout: float = 0.3, kill_at: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Dropout(dropout), nn.Linear(16, 1))
        self.shift = nn.Parameter(torch.zeros(()))
        self.x = torch.randn(500, 6)
        self.y = self.x.sum(1)
        self.kill_at, self.calls = kill_at, 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        predicted = self.net(self.x[rows]).squeeze(1) + self.shift
        return ((predicted - self.y[rows]) ** 2).sum()


def main(*arguments: object) -> None:
    """Train and write the weights."""
    out, folder, *rest = map(str, arguments)
    dropout, kill_at, stop_at = (*map(float, rest), *(0.3, 0.0, 0.0)[len(rest) :])
    if stop_at:
        steps = itertools.count(1)
        with contextlib.suppress(Cancelled):
            train(
                Small(dropout),
                500,
                CONFIG,
                checkpoint_dir=Path(folder),
                should_cancel=lambda: next(steps) >= stop_at,
            )
        # Other processes read the checkpoint after rank 0 has written it.
        distributed.broadcast("written")
    module = Small(dropout, kill_at)
    history = train(module, 500, CONFIG, checkpoint_dir=Path(folder)).history
    losses = [epoch["train_loss"] for epoch in history]
    Path(out).with_suffix(".json").write_text(json.dumps(losses))
    Path(out).with_suffix(".processes").write_text(str(distributed.world_size()))
    save_tensors(Path(out), {name: p.detach().numpy() for name, p in module.named_parameters()})


if __name__ == "__main__":
    main(*sys.argv[1:])
