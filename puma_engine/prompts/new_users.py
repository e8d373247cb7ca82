"""Fit prompts of new users from a few rows and a table of known users on the same backbone."""

import dataclasses

import numpy as np
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.templates import Template
from puma_engine.config import TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.errors import DataError
from puma_engine.prompts.examples import ReaderData, split_examples
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import (
    PromptEmbedding,
    PromptTuningModule,
    item_embedding,
    make_head,
)


def mean_prompts(known: PromptTable, users: np.ndarray) -> PromptTable:
    """Return a table in which every user has the mean prompt of known users, with their head."""
    mean = known.vectors.mean(axis=0, keepdims=True)
    vectors = np.repeat(mean, len(users), axis=0)
    return dataclasses.replace(known, user_ids=np.asarray(users, dtype=str), vectors=vectors)


def fit_new_users(
    backbone: FrozenBackbone,
    dataset: Dataset,
    known: PromptTable,
    *,
    template: str | Template,
    training: TrainingConfig,
) -> PromptTable:
    """Fit prompts of new users on their train rows; everything else is frozen.

    known: a table of other users. Each new prompt starts at their mean prompt, and weight decay
    pulls it there. All epochs are run, since a few rows leave none for early stopping; choose the
    settings on known users. Raises DataError when a user is in the table, or the table has no head
    or another width.
    """
    users = dataset.users
    repeated = np.intersect1d(users, known.user_ids)
    if len(repeated):
        raise DataError(
            f"{len(repeated)} users have a prompt in the table (first: {str(repeated[0])!r}); leave "
            "them out, or refine them."
        )
    if known.head is None or known.width != backbone.width:
        raise DataError(
            f"New users need a table with a head and prompts of width {backbone.width}; this one "
            f"has width {known.width} and {'no' if known.head is None else 'a'} head."
        )
    reader, rows = split_examples(backbone, dataset, template, "train", users)
    reader.prepare(rows.context)
    head = make_head(reader.task, rows, torch.Generator(), known.head).requires_grad_(False)
    mean = torch.from_numpy(known.vectors.mean(axis=0, keepdims=True))
    embedding = PromptEmbedding(mean, len(users))
    # The mean follows from all known users; a few new ones cannot improve it.
    embedding.shared.requires_grad_(False)
    items = item_embedding(known.items, dataset, backbone)
    if items is not None:
        items.requires_grad_(False)
    data = ReaderData(reader, reader.task, rows, rows)
    first = known.items is not None and known.items.first
    module = PromptTuningModule(data, embedding, head, items, items_first=first)
    module = module.to(backbone.device)
    module.fit(training, validate=None, stage="fitting new users")
    return dataclasses.replace(known, user_ids=users, vectors=embedding.vectors())
