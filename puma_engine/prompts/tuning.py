"""Prompt tuning: soft prompts are fitted while the backbone stays frozen (Lester et al. 2021)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.tasks import Task
from puma_engine.backbone.templates import Slot, Template
from puma_engine.backbone.tokens import EncodedTemplate
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.prompts.examples import Examples, ReaderData, reader_for
from puma_engine.prompts.item_prompts import ItemPrompts, in_slot_order
from puma_engine.prompts.table import PromptTable
from puma_engine.training.loop import Progress, TrainingResult, train


@dataclass(frozen=True)
class FitResult:
    """A table of prompts, how its training went, and its arithmetic (see `ReaderData.flops`)."""

    table: PromptTable
    result: TrainingResult
    flops: float


class PromptModule(nn.Module):
    """Maps row numbers [B] to soft prompts [B, tokens, width]."""

    tokens: int


class PromptEmbedding(PromptModule):
    """Trainable prompts: base + step_scale * (shared + difference of the row).

    base: [1 or n, l, width], not trained. `shared` [l * width] and the differences [n, l * width]
    start at 0; weight decay acts only on the differences. step_scale: see `step_scale`.
    """

    def __init__(
        self, base: Tensor, rows: int, *, trainable: bool = True, step_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.step_scale = step_scale
        self.shape = (rows, *base.shape[1:])
        self.tokens = base.shape[1]
        width = base[0].numel()
        self.base: Tensor
        self.register_buffer("base", base.flatten(1), persistent=False)
        # Checkpoints store these names.
        self.shared = nn.Parameter(torch.zeros(width), requires_grad=trainable)
        self.table = nn.Parameter(torch.zeros(rows, width), requires_grad=trainable)

    def forward(self, rows: Tensor) -> Tensor:
        """Prompts [B, l, width] of row numbers [B]."""
        rows = rows.to(self.table.device)
        base = self.base if len(self.base) == 1 else self.base[rows]
        differences = torch.nn.functional.embedding(rows, self.table)
        prompts = base + self.step_scale * (self.shared + differences)
        return prompts.view(-1, *self.shape[1:])

    @torch.no_grad()
    def vectors(self) -> np.ndarray:
        """Prompts of all rows, [n, l, width] float32."""
        prompts = self.base + self.step_scale * (self.shared + self.table)
        return prompts.view(self.shape).float().cpu().numpy()


class PromptTuningModule(nn.Module):
    """Trains the soft prompts of users, those of items if there are any, and the task's head."""

    def __init__(
        self,
        data: ReaderData,
        users: PromptModule,
        head: nn.Module,
        items: PromptModule | None = None,
        *,
        items_first: bool = False,
    ) -> None:
        super().__init__()
        self.data, self.head, self.items_first = data, head, items_first
        self.users, self.items = users, items
        self.tokens = users.tokens + (items.tokens if items is not None else 0)
        self._on_device: Examples | None = None

    def prompts(self, users: Tensor, items: Tensor) -> Tensor:
        """Soft prompts [B, tokens, width] of row numbers of users and items [B]."""
        prompts: Tensor = self.users(users)
        if self.items is None:
            return prompts
        order = in_slot_order(prompts, self.items(items), item_first=self.items_first)
        return torch.cat(order, dim=1)

    def forward(self, rows: Tensor, widths: tuple[int, ...] | None = None) -> Tensor:
        """Return the summed loss of train rows [B] (CPU), or on the device with their `widths`."""
        train = self.data.train
        if widths is not None:
            if self._on_device is None:
                self._on_device = train.to(rows.device)
            train = self._on_device
        return self.data.loss(train, rows, self.prompts, self.head, widths)

    def widths(self, rows: Tensor) -> tuple[int, ...] | None:
        """See `training.step.Capturable.widths`."""
        reader = self.data.reader
        if not reader.capturable:
            return None
        return reader.widths(self.data.train.context[rows], self.tokens)

    def validation(self) -> float:
        """Validation RMSE (ratings) or log loss (clicks), in eval mode."""
        was_training = self.training
        self.eval()
        value = self.data.validation_value(self.prompts, self.head)
        self.train(was_training)
        return value

    def fit(self, training: TrainingConfig, **options: Any) -> TrainingResult:
        """Train on the train rows, and choose the epoch by the validation rows.

        options: those of `training.loop.train`.
        """
        options.setdefault("validate", self.validation)
        lengths = self.data.train.lengths(self.data.reader)
        return train(self, len(self.data.train), training, lengths=lengths, **options)


def step_scale(vectors: np.ndarray, backbone: FrozenBackbone) -> float:
    """Return the factor, at least 1, by which training steps grow for prompts [n, l, width] to start from.

    It is the root mean square of the prompts divided by that of the backbone's token embeddings.
    Mapped prompts may be a hundred times as large as token embeddings; steps that suit a token
    embedding would hardly change them.
    """
    prompt_rms = float(np.sqrt(np.mean(np.square(vectors, dtype=np.float64))))
    token_rms = backbone.token_norm() / backbone.width**0.5
    return max(1.0, prompt_rms / token_rms) if token_rms else 1.0


@torch.no_grad()
def embedded_start(backbone: FrozenBackbone, tokens: int, word: str | None) -> Tensor:
    """Return a common start of all users' prompts, [1, tokens, width] float32.

    word: its token embeddings are repeated in turn; None: the mean of all token embeddings.
    """
    if word is None:
        mean = backbone.model.get_input_embeddings().weight.float().mean(dim=0)
        return mean.cpu().expand(1, tokens, -1).clone()
    ids = backbone.tokenizer(f" {word.strip()}", add_special_tokens=False)["input_ids"]
    turn = torch.tensor([ids[number % len(ids)] for number in range(tokens)])
    return backbone.embed(turn.to(backbone.device)).float().cpu().unsqueeze(0)


@torch.no_grad()
def text_embedding(backbone: FrozenBackbone, template: EncodedTemplate) -> Tensor:
    """Return the embedding [width] of the last literal token in front of the prompt slot, on the CPU.

    Where no text stands there, it is the embedding of the first token behind the slot.
    """
    before, after = (
        [token for piece in pieces if not isinstance(piece, Slot) for token in piece]
        for pieces in (template.before, template.after)
    )
    token = before[-1] if before else after[0]
    return backbone.embed(torch.tensor(token, device=backbone.device)).float().cpu()


def item_embedding(
    table: ItemPrompts | None, dataset: Dataset, backbone: FrozenBackbone
) -> PromptEmbedding | None:
    """Return trainable prompts of a data set's items that start from a table; the last row is for all others."""
    if table is None:
        return None
    base = np.concatenate([table.take(dataset.items["item_id"].to_numpy()), table.other[None]])
    return PromptEmbedding(torch.from_numpy(base), len(base), step_scale=step_scale(base, backbone))


def fit_prompts(
    backbone: FrozenBackbone,
    dataset: Dataset,
    *,
    template: str | Template,
    training: TrainingConfig,
    prompt: PromptConfig | None = None,
    trainable: bool = True,
    start: PromptTable | None = None,
    train_head: bool = True,
    include_start: bool = False,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> FitResult:
    """Fit one soft prompt for each user of a data set, and the task's head with them.

    The validation split chooses the epoch. trainable=False trains only the head, on random prompts
    that stay unchanged: the random-prompt baseline. start: initial prompts by user id, and the
    initial head and item prompts, in place of a random draw. train_head=False freezes the head and
    the item prompts. include_start=True lets the state before the first epoch compete with those
    after each epoch. Raises DataError, BackboneError, TemplateError, Cancelled and CheckpointError,
    and MigrationError for users that start lacks.
    """
    config, users, width = prompt or PromptConfig(), len(dataset.users), backbone.width
    data = reader_for(backbone, dataset, template, dataset.users)
    generator = torch.Generator().manual_seed(training.seed)

    def draw(rows: int, tokens: int) -> Tensor:
        uniform = torch.rand((rows, tokens, width), generator=generator)
        return (uniform * 2 - 1) * config.init_scale

    items, items_first = None, config.item_order == "before"
    if start is None:
        if trainable and config.start == "text":
            base = text_embedding(backbone, data.reader.encoded).expand(1, config.tokens, -1)
        elif trainable and config.start in ("mean", "word"):
            word = config.start_word if config.start == "word" else None
            base = embedded_start(backbone, config.tokens, word)
        else:
            base = draw(1 if config.start == "shared" and trainable else users, config.tokens)
        embedding = PromptEmbedding(base, users, trainable=trainable)
    else:
        base = torch.from_numpy(start.take(dataset.users))
        scale = step_scale(start.vectors, backbone)
        embedding = PromptEmbedding(base, users, trainable=trainable, step_scale=scale)
        items = item_embedding(start.items, dataset, backbone)
        items_first = items_first if start.items is None else start.items.first
    head = make_head(data.task, data.train, generator, start.head if start else None)
    if items is None and config.item_tokens:
        # One row more than there are items, for items without train rows.
        rows = len(dataset.items) + 1
        items = PromptEmbedding(draw(1, config.item_tokens), rows, trainable=trainable)
    if not train_head:
        head.requires_grad_(False)
        if items is not None:
            items.requires_grad_(False)
    module = PromptTuningModule(data, embedding, head, items, items_first=items_first)
    module = module.to(backbone.device)
    result = module.fit(
        training,
        include_start=include_start,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
        should_cancel=should_cancel,
        stage="fitting prompts" if trainable else "training the head on random prompts",
    )
    item_prompts = None
    if items is not None:
        seen, vectors = np.unique(data.train.item.numpy()), items.vectors()
        ids = dataset.items["item_id"].to_numpy(dtype=str)[seen]
        item_prompts = ItemPrompts(ids, vectors[seen], vectors[-1], items_first)
    meta = {"backbone": backbone.info.spec, "dataset": dataset.name}
    meta |= data.reader.template.to_config()
    table = PromptTable(dataset.users, embedding.vectors(), head_tensors(head), meta, item_prompts)
    flops = data.flops(table.read_tokens, result.examples, len(result.history))
    return FitResult(table, result, flops)


def make_head(
    task: Task,
    examples: Examples,
    generator: torch.Generator,
    tensors: dict[str, np.ndarray] | None = None,
) -> nn.Module:
    """Build a task's head: from tensors if given, else with the examples' mean outcome as its first prediction."""
    head = task.head(float(examples.outcome.mean()), generator)
    if tensors is not None:
        head.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in tensors.items()})
    return head


def head_tensors(head: nn.Module) -> dict[str, np.ndarray]:
    """Return a head's tensors by name, as float32 arrays."""
    return {name: v.detach().float().cpu().numpy() for name, v in head.state_dict().items()}
