"""Join a data set with a reader: rows become numbers of users, items and contexts, matched by id."""

from collections.abc import Callable, Iterator, Sequence
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
# Prefix of the columns that hold the probability of each answer, where outcomes are predictions.
ANSWER_COLUMN = "probability_of_"


@dataclass(frozen=True)
class Examples:
    """Interactions as numbers: user, item and context [n] int64, outcome [n] float32.

    Items are numbered in the data set's order. answers: the probability of each answer, [n, A]
    float32, where outcomes are another model's predictions of ratings.
    """

    user: Tensor
    item: Tensor
    context: Tensor
    outcome: Tensor
    answers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device) -> "Examples":
        """Return the same examples on a device."""
        answers = None if self.answers is None else self.answers.to(device)
        columns = self.user, self.item, self.context, self.outcome
        user, item, context, outcome = (column.to(device) for column in columns)
        return Examples(user, item, context, outcome, answers)

    def lengths(self, reader: Reader) -> np.ndarray:
        """Return the number of tokens of each example, [n], by which batches of similar length are formed."""
        return reader.lengths()[self.context.numpy()]


@dataclass(frozen=True)
class ReaderData:
    """A reader of a data set's contexts, with the train and validation examples of given users."""

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
        widths: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Return the summed loss of examples [rows].

        Examples and rows are on the CPU. With widths they are on the reader's device, and the call
        does not wait for the device (see `Reader.logits`).
        """
        if widths is None:
            rows = rows.cpu()  # several processes: DDP moves inputs to its device
        vectors = prompts(examples.user[rows], examples.item[rows])
        logits = self.reader.logits(vectors, examples.context[rows], widths)
        outcome = examples.outcome[rows].to(logits.device, non_blocking=True)
        answers = None
        if examples.answers is not None:
            answers = examples.answers[rows].to(logits.device, non_blocking=True)
        return self.task.loss(logits, outcome, head, answers).sum()

    def flops(self, tokens: int, examples: int, validations: int) -> float:
        """Return the FLOPs of a training. tokens: of a prompt; examples, validations: how many are computed.

        A position behind the prefix costs two operations for each weight of the layers in the
        forward pass, and two more for the gradient. A position of a validation row costs two in
        each validation, a cached token two once. Attention and adapter are small in comparison and
        left out.
        """

        def positions(rows: Examples) -> float:
            return tokens + float(self.reader.suffix_lengths(rows.context).double().mean())

        training = 4 * positions(self.train) * examples
        validation = 2 * positions(self.validation) * len(self.validation) * validations
        prefixes = 2 * self.reader.cached_tokens
        return self.reader.backbone.layer_weights * (training + validation + prefixes)

    def validation_value(self, prompts: Prompts, head: nn.Module) -> float:
        """Return the RMSE (ratings) or log loss (clicks) over the whole validation split."""
        p = predict_examples(self.reader, self.task, self.validation, prompts, head)
        y = self.validation.outcome.numpy().astype(np.float64)
        mean = np.mean(row_losses(self.task.name, y, p))
        return float(np.sqrt(mean) if self.task.name == "rating" else mean)


@torch.no_grad()
def predict_examples(
    reader: Reader, task: Task, examples: Examples, prompts: Prompts, head: nn.Module
) -> np.ndarray:
    """Return predictions [n] float64 for examples (CPU), computed in batches of similar length."""
    was_training = head.training
    head.eval()
    predictions = np.empty(len(examples))
    for rows, logits in batched_logits(reader, examples, prompts):
        predictions[rows.numpy()] = task.predict(logits, head).double().cpu().numpy()
    head.train(was_training)
    return predictions


def batched_logits(
    reader: Reader, examples: Examples, prompts: Prompts
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers [B] and answer logits [B, A] of all examples (CPU), by similar length.

    The next batch may overwrite the logits.
    """
    reader.prepare(examples.context)
    order = np.argsort(examples.lengths(reader), kind="stable")
    size = reader.max_batch(prompts(examples.user[:1], examples.item[:1]).shape[1])
    for start in range(0, len(order), size):
        rows = torch.from_numpy(order[start : start + size])
        vectors = prompts(examples.user[rows], examples.item[rows])
        yield rows, reader.logits(vectors, examples.context[rows])


def reader_for(
    backbone: FrozenBackbone,
    dataset: Dataset,
    template: str | Template,
    users: Sequence[str] | np.ndarray,
    training_users: Sequence[str] | np.ndarray | None = None,
    early_stopping_users: Sequence[str] | np.ndarray | None = None,
) -> ReaderData:
    """Prepare the train and validation rows of some users; user numbers follow `users`.

    training_users, early_stopping_users: whose train rows and whose validation rows are taken
    (None: all users'). Raises DataError if there are no rows, or if the template does not fit the
    data set.
    """
    reader, frames = _contexts(backbone, dataset, template, ("train", "validation"))
    chosen = [
        frame if subset is None else frame[frame["user_id"].isin(set(subset))]
        for frame, subset in zip(frames, (training_users, early_stopping_users), strict=True)
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
    template: str | Template,
    split: str,
    users: Sequence[str] | np.ndarray,
) -> tuple[Reader, Examples]:
    """Prepare all rows of one split, in the order of dataset.rows(split).

    Raises DataError if a row's user is not among users, or if the template does not fit the data
    set.
    """
    reader, (frame,) = _contexts(backbone, dataset, template, (split,))
    examples = _examples(frame, users)
    if len(examples) != len(frame):
        known = set(map(str, users))
        missing = next(user for user in frame["user_id"] if user not in known)
        raise DataError(
            f"{len(frame) - len(examples)} {split} rows belong to users without a prompt (first: "
            f"{missing!r}); leave these users out or migrate them too."
        )
    return reader, examples


def _contexts(
    backbone: FrozenBackbone, dataset: Dataset, template: str | Template, splits: Sequence[str]
) -> tuple[Reader, list[pd.DataFrame]]:
    template = get_template(template)
    if template.task != dataset.task:
        raise DataError(
            f"The template {template.name!r} is for the task {template.task}, but the data set {dataset.name!r} is "
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
    # The latest reader is kept with its cached prefixes.
    key = (template, contexts)
    if backbone.latest_reader is None or backbone.latest_reader[0] != key:
        backbone.forget()  # frees its memory before the next reader measures what is free
        reader = Reader(backbone, template, contexts, store=backbone.prefix_store)
        backbone.latest_reader = (key, reader)
    return backbone.latest_reader[1], joined


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
    columns = [name for name in frame if name.startswith(ANSWER_COLUMN)]
    answers = frame[columns].to_numpy(dtype=np.float32)[keep].copy()
    return Examples(
        torch.from_numpy(user[keep].astype(np.int64)),
        torch.from_numpy(frame["item"].to_numpy(dtype=np.int64)[keep].copy()),
        torch.from_numpy(frame["context"].to_numpy(dtype=np.int64)[keep].copy()),
        torch.from_numpy(frame["outcome"].to_numpy(dtype=np.float32)[keep].copy()),
        torch.from_numpy(answers) if columns else None,
    )
