"""Joins a data set with a reader: arrays of users, contexts and outcomes, matched by id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.tasks import Task
from puma_engine.backbone.templates import Template, get_template
from puma_engine.datasets import Dataset
from puma_engine.datasets.losses import row_losses
from puma_engine.errors import DataError

# Maps numbers of users and items [B] to soft prompts [B, l, width].
Prompts = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """Interactions as numbers: user, item, context [n] int64 (CPU) and outcome [n] float32.

    Items are numbered as the data set's are.
    """

    user: Tensor
    item: Tensor
    context: Tensor
    outcome: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device) -> Examples:
        """The same with all but the context on a device."""
        user, item, outcome = self.user.to(device), self.item.to(device), self.outcome.to(device)
        return Examples(user, item, self.context, outcome)

    def lengths(self, reader: Reader) -> np.ndarray:
        """Tokens of work of each example, [n]."""
        return reader.lengths()[self.context.numpy()]


@dataclass(frozen=True)
class ReaderData:
    """A reader over a data set's contexts, and its splits as examples of given users."""

    reader: Reader
    task: Task
    train: Examples
    validation: Examples

    def loss(
        self,
        examples: Examples,
        rows: Tensor,
        prompts: Prompts,
        head: nn.Module,
    ) -> Tensor:
        """Summed loss of some examples."""
        rows = rows.cpu()
        own = prompts(examples.user[rows], examples.item[rows])
        logits = self.reader.logits(own, examples.context[rows])
        outcome = examples.outcome[rows].to(logits.device, non_blocking=True)
        return self.task.loss(logits, outcome, head).sum()

    def shape(self, examples: Examples, rows: Tensor, tokens: int) -> tuple[int, ...] | None:
        """What `loss_at` must know of rows [B] (CPU); None where reading waits for the device."""
        reader = self.reader
        if reader.waits or reader.backbone.spread:
            return None
        return reader.shape(examples.context[rows], tokens)

    def loss_at(
        self,
        examples: Examples,
        read: Tensor,
        rows: Tensor,
        shape: tuple[int, ...],
        prompts: Prompts,
        head: nn.Module,
    ) -> Tensor:
        """Summed loss of rows [B] of examples on the device, without waiting for it.

        read [2, n]: what `Reader.rows` says of the examples' contexts, which are prepared.
        """
        own = prompts(examples.user[rows], examples.item[rows])
        logits = self.reader.logits_at(own, read[:, rows], shape)
        return self.task.loss(logits, examples.outcome[rows], head).sum()

    def flops(self, tokens: int, examples: int, validations: int) -> float:
        """Arithmetic of training on so many examples with prompts of so many tokens.

        Two operations a weight of the layers for each position that is read anew, forwards and
        again for the gradient; for those of the validation rows at each validation; and once for
        what is kept. Attention and adapter, which are small beside it, are left out.
        """

        def positions(rows: Examples) -> float:
            return tokens + float(self.reader.positions(rows.context).double().mean())

        learned = 4 * positions(self.train) * examples
        checked = 2 * positions(self.validation) * len(self.validation) * validations
        kept = 2 * self.reader.kept_tokens
        return self.reader.backbone.layer_weights * (learned + checked + kept)

    def validation_value(self, prompts: Prompts, head: nn.Module) -> float:
        """RMSE (ratings) or log loss (clicks) over the whole validation split."""
        p = predict_examples(self.reader, self.task, self.validation, prompts, head)
        y = self.validation.outcome.numpy().astype(np.float64)
        mean = np.mean(row_losses(self.task.name, y, p))
        return float(np.sqrt(mean) if self.task.name == "rating" else mean)


@torch.no_grad()
def predict_examples(
    reader: Reader,
    task: Task,
    examples: Examples,
    prompts: Prompts,
    head: nn.Module,
) -> np.ndarray:
    """Predictions [n] float64 for examples, computed in batches of like length."""
    was_training = head.training
    head.eval()
    reader.prepare(examples.context)
    order = np.argsort(examples.lengths(reader), kind="stable")
    found = np.empty(len(examples))
    size = reader.rows_at_once(prompts(examples.user[:1], examples.item[:1]).shape[1])
    for start in range(0, len(order), size):
        rows = torch.from_numpy(order[start : start + size])
        own = prompts(examples.user[rows], examples.item[rows])
        logits = reader.logits(own, examples.context[rows])
        found[order[start : start + size]] = task.predict(logits, head).double().cpu().numpy()
    head.train(was_training)
    return found


def reader_for(
    backbone: FrozenBackbone,
    dataset: Dataset,
    template: str,
    users: Sequence[str] | np.ndarray,
    learners: Sequence[str] | np.ndarray | None = None,
    early_stopping_users: Sequence[str] | np.ndarray | None = None,
) -> ReaderData:
    """Prepare the train and validation rows of some users; user numbers follow `users`.

    learners, judges: whose train and whose validation rows these are; None: everybody's.
    """
    reader, frames = _contexts(backbone, dataset, template, ("train", "validation"))
    chosen = [
        frame if own is None else frame[frame["user_id"].isin(set(own))]
        for frame, own in zip(frames, (learners, early_stopping_users), strict=True)
    ]
    train, validation = (_examples(frame, users) for frame in chosen)
    for name, examples in (("train", train), ("validation", validation)):
        if not len(examples):
            raise DataError(f"These users have no {name} rows; give more users or rows.")
        reader.prepare(examples.context)
    return ReaderData(reader, reader.task, train, validation)


def split_examples(
    backbone: FrozenBackbone,
    dataset: Dataset,
    template: str,
    split: str,
    users: Sequence[str] | np.ndarray,
) -> tuple[Reader, Examples]:
    """Prepare all rows of one split, in the order of dataset.rows(split)."""
    reader, (frame,) = _contexts(backbone, dataset, template, (split,))
    examples = _examples(frame, users)
    if len(examples) != len(frame):
        known = set(map(str, users))
        lost = next(user for user in frame["user_id"] if user not in known)
        raise DataError(
            f"{len(frame) - len(examples)} {split} rows belong to users without a prompt (first: "
            f"{lost!r}); leave these users out or migrate them too."
        )
    return reader, examples


def _contexts(
    backbone: FrozenBackbone, dataset: Dataset, name: str, splits: Sequence[str]
) -> tuple[Reader, list[pd.DataFrame]]:
    template = get_template(name)
    if template.task != dataset.task:
        raise DataError(
            f"The template {name!r} is for the task {template.task}, but the data set {dataset.name!r} is "
            f"for {dataset.task}; choose another template."
        )
    number = pd.Series(np.arange(len(dataset.items)), index=dataset.items["item_id"])
    frames = [
        frame.assign(item=number.loc[frame["item_id"]].to_numpy())
        for frame in (dataset.rows(split) for split in splits)
    ]
    if not template.uses_history:
        contexts = tuple(Context(text) for text in dataset.items["text"])
        columns = [frame["item"].to_numpy() for frame in frames]
    else:
        contexts, columns = _histories(dataset, frames)
    joined = [frame.assign(context=column) for frame, column in zip(frames, columns, strict=True)]
    return backbone_reader(backbone, template, contexts), joined


def backbone_reader(
    backbone: FrozenBackbone, template: Template, contexts: tuple[Context, ...]
) -> Reader:
    """Return the backbone's reader of these contexts; the latest is kept with its prefixes."""
    key = (template.name, contexts)
    if backbone.latest_reader is None or backbone.latest_reader[0] != key:
        backbone.forget()  # before the next one asks what memory is free
        backbone.latest_reader = (key, Reader(backbone, template, contexts))
    reader: Reader = backbone.latest_reader[1]
    return reader


def _histories(
    dataset: Dataset, frames: Sequence[pd.DataFrame]
) -> tuple[tuple[Context, ...], list[np.ndarray]]:
    texts = dict(zip(dataset.items["item_id"], dataset.items["text"], strict=True))
    number: dict[tuple[str, tuple[str, ...]], int] = {}
    columns = []
    for frame in frames:
        if "history" not in frame:
            raise DataError(
                "This template shows a history, but the data set has none; choose another."
            )
        histories = [tuple(row) if row is not None else () for row in frame["history"]]
        keys = zip(frame["item_id"].tolist(), histories, strict=True)
        columns.append(
            np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
        )
    contexts = tuple(
        Context(texts[item], tuple(texts[other] for other in history)) for item, history in number
    )
    return contexts, columns


def _examples(frame: pd.DataFrame, users: Sequence[str] | np.ndarray) -> Examples:
    row_of = {str(user): row for row, user in enumerate(users)}
    user = frame["user_id"].map(row_of).to_numpy(dtype=np.float64, na_value=np.nan)
    keep = ~np.isnan(user)
    return Examples(
        torch.from_numpy(user[keep].astype(np.int64)),
        torch.from_numpy(frame["item"].to_numpy(dtype=np.int64)[keep].copy()),
        torch.from_numpy(frame["context"].to_numpy(dtype=np.int64)[keep].copy()),
        torch.from_numpy(frame["outcome"].to_numpy(dtype=np.float32)[keep].copy()),
    )
