"""Tables of soft prompts, one row a user, and fitting them on a frozen backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.tasks import Task
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.prompts.examples import Examples, ReaderData, reader_for
from puma_engine.prompts.item_prompts import ItemPrompts
from puma_engine.prompts.table import PromptTable
from puma_engine.training.loop import Progress, TrainingResult, train


@dataclass(frozen=True)
class Fitted:
    """A fitted table, how the training went, and its arithmetic (see `ReaderData.flops`)."""

    table: PromptTable
    result: TrainingResult
    flops: float


class SlotPart(nn.Module):
    """Maps row numbers [B] to soft prompts [B, tokens, width]."""

    tokens: int


Rows = TypeVar("Rows", bound=SlotPart)


class PromptEmbedding(SlotPart):
    """A vector that all rows share and each row's difference from it: base + unit * (shared + difference).

    base: [1 or n, l, width], which is not trained; differences start at 0, and weight decay
    pulls on them alone. unit: how far a step of 1 leads.
    """

    def __init__(
        self, base: Tensor, rows: int, *, trainable: bool = True, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.unit = unit
        self.shape = (rows, *base.shape[1:])
        self.tokens = base.shape[1]
        width = base[0].numel()
        self.base: Tensor
        self.register_buffer("base", base.flatten(1), persistent=False)
        self.shared = nn.Parameter(torch.zeros(width), requires_grad=trainable)
        self.table = nn.Parameter(torch.zeros(rows, width), requires_grad=trainable)

    def forward(self, rows: Tensor) -> Tensor:
        """Prompts [B, l, width] of row numbers [B]."""
        rows = rows.to(self.table.device)
        base = self.base if len(self.base) == 1 else self.base[rows]
        differences = torch.nn.functional.embedding(rows, self.table)
        return (base + self.unit * (self.shared + differences)).view(-1, *self.shape[1:])

    @torch.no_grad()
    def vectors(self) -> np.ndarray:
        """All rows' prompts [n, l, width]."""
        every = self.base + self.unit * (self.shared + self.table)
        return every.view(self.shape).float().cpu().numpy()


class PromptTuningModule(nn.Module, Generic[Rows]):
    """Trains what fills the prompt slot: the users' part, the items' if there is one, and the head."""

    def __init__(
        self, data: ReaderData, users: Rows, head: nn.Module, items: Rows | None = None
    ) -> None:
        super().__init__()
        self.data, self.head = data, head
        self.users: Rows = users
        self.items: Rows | None = items
        self.tokens = users.tokens + (items.tokens if items is not None else 0)
        self._there: tuple[Examples, Tensor] | None = None

    def prompts(self, users: Tensor, items: Tensor) -> Tensor:
        own: Tensor = self.users(users)
        return own if self.items is None else torch.cat([own, self.items(items)], dim=1)

    def forward(self, rows: Tensor) -> Tensor:
        return self.data.loss(self.data.train, rows, self.prompts, self.head)

    def shape(self, rows: Tensor) -> tuple[int, ...] | None:
        """As `stepping.Stepped` wants it."""
        return self.data.shape(self.data.train, rows, self.tokens)

    def loss_at(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """As `stepping.Stepped` wants it: the loss of rows [B] on the device."""
        if self._there is None:
            train = self.data.train
            self._there = (
                train.to(rows.device),
                self.data.reader.rows(train.context).to(rows.device),
            )
        examples, read = self._there
        return self.data.loss_at(examples, read, rows, shape, self.prompts, self.head)

    def validation(self) -> float:
        was_training = self.training
        self.eval()
        value = self.data.validation_value(self.prompts, self.head)
        self.train(was_training)
        return value


class PromptFitting(PromptTuningModule[PromptEmbedding]):
    """Trains the prompts themselves."""

    def table(self, dataset: Dataset, meta: dict[str, Any]) -> PromptTable:
        """The fitted prompts of a data set's users, and of its items that have train rows."""
        items = None
        if self.items is not None:
            seen = np.unique(self.data.train.item.numpy())
            every = self.items.vectors()
            ids = dataset.items["item_id"].to_numpy(dtype=str)
            items = ItemPrompts(ids[seen], every[seen], every[-1])
        head = head_tensors(self.head)
        return PromptTable(dataset.users, self.users.vectors(), head, meta, items)


def step_scale(vectors: np.ndarray, backbone: FrozenBackbone) -> float:
    """How far a step should lead that starts from prompts [n, l, width], at least 1.

    It is how many times as large as the backbone's token embeddings the prompts are, as root mean
    squares. Mapped prompts may be a hundred times as large, and steps that suit prompts of a
    token's size would then lead nowhere.
    """
    size = float(np.sqrt(np.mean(np.square(vectors, dtype=np.float64))))
    usual = backbone.token_norm() / backbone.width**0.5
    return max(1.0, size / usual) if usual else 1.0


def start_items(
    table: ItemPrompts | None, dataset: Dataset, backbone: FrozenBackbone
) -> PromptEmbedding | None:
    """Rows of a data set's items that start from given prompts; the last row is all others'."""
    if table is None:
        return None
    every = np.concatenate([table.take(dataset.items["item_id"].to_numpy()), table.other[None]])
    return PromptEmbedding(torch.from_numpy(every), len(every), unit=step_scale(every, backbone))


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
    keep_start: bool = False,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Fitted:
    """Fit one soft prompt for each user of a data set, and the task's head with them.

    The epoch is chosen on the validation split. trainable=False keeps the prompts as
    they are drawn, one a user, and trains the head alone: the random-prompt baseline. start gives the
    first values by user id (and head) in place of the uniform draw; train_head=False keeps that
    head, and the items' prompts; keep_start=True keeps all of it where no epoch is better. Raises DataError, BackboneError, TemplateError, Cancelled, CheckpointError.
    """
    data = reader_for(backbone, dataset, template, dataset.users)
    generator = torch.Generator().manual_seed(training.seed)
    shape = prompt or PromptConfig()
    module = _fitting(data, dataset, backbone, shape, start, trainable, generator)
    if not train_head:
        for part in (module.head, module.items):
            if part is not None:
                part.requires_grad_(False)
    module = module.to(backbone.device)
    result = train(
        module,
        len(data.train),
        training,
        lengths=data.train.lengths(data.reader),
        validate=module.validation,
        keep_start=keep_start,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
        should_cancel=should_cancel,
        stage="fitting prompts" if trainable else "training the head on random prompts",
    )
    meta = {"backbone": backbone.info.spec, "template": template, "dataset": dataset.name}
    table = module.table(dataset, meta)
    return Fitted(
        table, result, data.flops(table.read_tokens, result.examples, len(result.history))
    )


def _fitting(
    data: ReaderData,
    dataset: Dataset,
    backbone: FrozenBackbone,
    prompt: PromptConfig,
    start: PromptTable | None,
    trainable: bool,
    generator: torch.Generator,
) -> PromptFitting:
    """Prompts and head as they are before the first step: drawn, or given."""
    users, width, items = len(dataset.users), backbone.width, None
    if start is not None:
        base = torch.from_numpy(start.take(dataset.users))
        unit = step_scale(start.vectors, backbone)
        own = PromptEmbedding(base, users, trainable=trainable, unit=unit)
        items = start_items(start.items, dataset, backbone)
    else:
        one = prompt.start == "shared" and trainable
        base = _draw((1 if one else users, prompt.tokens, width), prompt, generator)
        own = PromptEmbedding(base, users, trainable=trainable)
    head = make_head(data.task, data.train, generator, start.head if start else None)
    if items is None and prompt.item_tokens:
        # One row more than there are items: what an item that nobody rated gets.
        base = _draw((1, prompt.item_tokens, width), prompt, generator)
        items = PromptEmbedding(base, len(dataset.items) + 1, trainable=trainable)
    return PromptFitting(data, own, head, items)


def _draw(shape: tuple[int, ...], prompt: PromptConfig, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * prompt.init_scale


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

    Returns all prompts of the table that belong to users of the data set. how: prompt (for its
    item_tokens alone), checkpoint_dir, progress and should_cancel, as `fit_prompts` takes them. Raises DataError for users that
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
        keep_start=True,
        **how,
    )
    meta = fitted.table.meta | {"users_refined": len(own.users)}
    if users is None:
        return dataclasses.replace(fitted, table=dataclasses.replace(fitted.table, meta=meta))
    vectors = start.vectors.copy()
    vectors[start.rows_of(own.users)] = fitted.table.vectors
    table = PromptTable(start.user_ids, vectors, fitted.table.head, meta, start.items)
    return Fitted(table, fitted.result, fitted.flops)


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
