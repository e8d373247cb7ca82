"""New users: prompts from a few rows, under a table of users who are known already."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.errors import DataError
from puma_engine.prompts.examples import ReaderData, split_examples
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import PromptEmbedding, PromptFitting, make_head, start_items
from puma_engine.training.loop import train


def mean_prompts(known: PromptTable, users: np.ndarray) -> PromptTable:
    """Give each of some users the mean prompt of a table, and its head."""
    mean = known.vectors.mean(axis=0, keepdims=True)
    vectors = np.repeat(mean, len(users), axis=0)
    return dataclasses.replace(known, user_ids=np.asarray(users, dtype=str), vectors=vectors)


def fit_new_users(
    backbone: FrozenBackbone,
    dataset: Dataset,
    known: PromptTable,
    *,
    template: str,
    training: TrainingConfig,
) -> PromptTable:
    """Fit prompts of new users on their train rows, each on its own.

    known: a table of others on the same backbone. Each prompt starts from its mean, which weight
    decay pulls to; the head stays. All epochs are run, since few rows leave none to choose one
    by: choose the settings on users who are known. Raises DataError when a user is known, or
    the table has no head or another width.
    """
    users = dataset.users
    again = np.intersect1d(users, known.user_ids)
    if len(again):
        raise DataError(
            f"{len(again)} users have a prompt in the table (first: {str(again[0])!r}); leave them "
            "out, or refine them."
        )
    if known.head is None or known.width != backbone.width:
        raise DataError(
            f"New users need a table with a head and prompts of width {backbone.width}; this one "
            f"has width {known.width} and {'no' if known.head is None else 'a'} head."
        )
    reader, rows = split_examples(backbone, dataset, template, "train", users)
    reader.prepare(rows.context)
    head = make_head(reader.task, rows, torch.Generator(), known.head).requires_grad_(False)
    own = PromptEmbedding(torch.from_numpy(known.vectors.mean(axis=0, keepdims=True)), len(users))
    # What users share moved for all of the table; a few new ones cannot tell more of it.
    own.shared.requires_grad_(False)
    items = start_items(known.items, dataset, backbone)
    module = PromptFitting(
        ReaderData(reader, reader.task, rows, rows),
        own,
        head,
        items and items.requires_grad_(False),
    )
    module = module.to(backbone.device)
    train(module, len(rows), training, lengths=rows.lengths(reader), stage="fitting new users")
    return dataclasses.replace(known, user_ids=users, vectors=module.users.vectors())
