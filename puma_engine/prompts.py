"""Tables of soft prompts, one row a user, and fitting them on a frozen backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.errors import DataError, MigrationError
from puma_engine.examples import Examples, ReaderData, reader_for
from puma_engine.tasks import Task
from puma_engine.training import Progress, TrainingResult, train


@dataclass(frozen=True)
class PromptTable:
    """Soft prompts by user.

    user_ids: [n] strings, unique; vectors: [n, l, d] float32; head: the tensors of the
    task's head that was trained with them, or None; meta: where they come from (JSON).
    """

    user_ids: np.ndarray
    vectors: np.ndarray
    head: dict[str, np.ndarray] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or len(self.vectors) != len(self.user_ids):
            raise DataError(
                f"A prompt table needs vectors of shape [users, tokens, dim]; got {self.vectors.shape} for "
                f"{len(self.user_ids)} user ids."
            )
        if len(set(self.user_ids.tolist())) != len(self.user_ids):
            raise DataError("A prompt table has the same user id twice; each user has one row.")
        if not np.isfinite(self.vectors).all():
            raise DataError("A prompt table holds NaN or infinite values; fit it again.")

    @property
    def tokens(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def width(self) -> int:
        return int(self.vectors.shape[2])

    def rows_of(self, users: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the row of each user id, [len(users)]; -1 where the table has none."""
        index = pd.Index(self.user_ids.astype(str))
        return index.get_indexer(pd.Index(np.asarray(users, dtype=str))).astype(np.int64)

    def take(self, users: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return vectors [len(users), l, d] by user id; unknown ids raise MigrationError."""
        rows = self.rows_of(users)
        if (rows < 0).any():
            lost = np.asarray(users)[rows < 0]
            raise MigrationError(
                f"{len(lost)} users have no prompt in this table (first: {str(lost[0])!r}); fit them first or "
                "leave them out."
            )
        return self.vectors[rows]

    def shuffled(self, seed: int) -> PromptTable:
        """Return the control in which no user keeps the own prompt: a random cycle of all."""
        order = np.random.default_rng(seed).permutation(len(self.user_ids))
        vectors = np.empty_like(self.vectors)
        vectors[order] = self.vectors[np.roll(order, 1)]
        return dataclasses.replace(self, vectors=vectors, meta=self.meta | {"shuffled": seed})


@dataclass(frozen=True)
class Fitted:
    """A fitted table and how the training went."""

    table: PromptTable
    result: TrainingResult


class PromptFitting(nn.Module):
    """Trains a vector that all users share and each user's difference, or the head alone.

    A user's prompt is base + shared + difference; differences start at 0, and weight decay
    pulls on them alone.
    """

    def __init__(
        self, data: ReaderData, base: Tensor, users: int, head: nn.Module, *, trainable: bool
    ) -> None:
        super().__init__()
        self.data = data
        self.shape = (users, *base.shape[1:])
        width = base[0].numel()
        self.base: Tensor
        self.register_buffer("base", base.flatten(1), persistent=False)
        self.shared = nn.Parameter(torch.zeros(width), requires_grad=trainable)
        self.table = nn.Parameter(torch.zeros(users, width), requires_grad=trainable)
        self.head = head

    def prompts(self, users: Tensor) -> Tensor:
        users = users.to(self.table.device)
        base = self.base if len(self.base) == 1 else self.base[users]
        rows = torch.nn.functional.embedding(users, self.table)
        return (base + self.shared + rows).view(-1, *self.shape[1:])

    @torch.no_grad()
    def vectors(self) -> np.ndarray:
        """All users' prompts [n, l, width]."""
        every = self.base + self.shared + self.table
        return every.view(self.shape).float().cpu().numpy()

    def forward(self, rows: Tensor) -> Tensor:
        return self.data.loss(self.data.train, rows, self.prompts, self.head)

    def validation(self) -> float:
        return self.data.validation_value(self.prompts, self.head)


def fit_prompts(
    backbone: FrozenBackbone,
    dataset: Dataset,
    *,
    template: str,
    training: TrainingConfig,
    prompt: PromptConfig | None = None,
    trainable: bool = True,
    start: PromptTable | None = None,
    train_head: bool = True,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Fitted:
    """Fit one soft prompt for each user of a data set, and the task's head with them.

    The epoch is chosen on the validation split. trainable=False keeps the prompts as
    they are drawn, one a user, and trains the head alone: the random-prompt baseline. start gives the
    first values by user id (and head) in place of the uniform draw; train_head=False keeps that
    head. Raises DataError, BackboneError, TemplateError, Cancelled, CheckpointError.
    """
    prompt = prompt or PromptConfig()
    users = dataset.users
    data = reader_for(backbone, dataset, template, users)
    generator = torch.Generator().manual_seed(training.seed)
    if start is not None:
        base = torch.from_numpy(start.take(users))
    else:
        one = prompt.start == "shared" and trainable
        shape = (1 if one else len(users), prompt.tokens, backbone.width)
        base = (torch.rand(shape, generator=generator) * 2 - 1) * prompt.init_scale
    head = make_head(data.task, data.train, generator, start.head if start else None)
    head.requires_grad_(train_head)
    module = PromptFitting(data, base, len(users), head, trainable=trainable)
    module = module.to(backbone.device)
    result = train(
        module,
        len(data.train),
        training,
        lengths=data.train.lengths(data.reader),
        validate=module.validation,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
        should_cancel=should_cancel,
        stage="fitting prompts" if trainable else "training the head on random prompts",
    )
    meta = {"backbone": backbone.info.spec, "template": template, "dataset": dataset.name}
    return Fitted(PromptTable(users, module.vectors(), head_tensors(module.head), meta), result)


def refine_prompts(
    backbone: FrozenBackbone,
    dataset: Dataset,
    start: PromptTable,
    *,
    template: str,
    training: TrainingConfig,
    users: Sequence[str] | np.ndarray | None = None,
    **how: Any,
) -> Fitted:
    """Fit a table's prompts further; with users, theirs alone, under the head that it has.

    Returns all prompts of the table that belong to users of the data set. how: checkpoint_dir,
    progress and should_cancel, as `fit_prompts` takes them. Raises DataError for users that
    are not in the data set, and MigrationError for users without a prompt.
    """
    own = dataset if users is None else dataset.for_users(users)
    fitted = fit_prompts(
        backbone,
        own,
        template=template,
        training=training,
        start=start,
        train_head=users is None,
        **how,
    )
    meta = fitted.table.meta | {"users_refined": len(own.users)}
    if users is None:
        return dataclasses.replace(fitted, table=dataclasses.replace(fitted.table, meta=meta))
    vectors = start.vectors.copy()
    vectors[start.rows_of(own.users)] = fitted.table.vectors
    table = PromptTable(start.user_ids, vectors, fitted.table.head, meta)
    return Fitted(table, fitted.result)


def make_head(
    task: Task,
    examples: Examples,
    generator: torch.Generator,
    tensors: dict[str, np.ndarray] | None = None,
) -> nn.Module:
    """Build a task's head, from given tensors if there are any."""
    head = task.head(float(examples.outcome.mean()), generator)
    if tensors is not None:
        head.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in tensors.items()})
    return head


def head_tensors(head: nn.Module) -> dict[str, np.ndarray]:
    """Return a head's tensors as float32 arrays."""
    return {name: v.detach().float().cpu().numpy() for name, v in head.state_dict().items()}
