"""Refining: fit migrated prompts further on the target backbone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.templates import Template
from puma_engine.config import TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import FitResult, fit_prompts


def refine_prompts(
    backbone: FrozenBackbone,
    dataset: Dataset,
    start: PromptTable,
    *,
    template: str | Template,
    training: TrainingConfig,
    users: Sequence[str] | np.ndarray | None = None,
    **options: Any,
) -> FitResult:
    """Fit a table's prompts further; the initial state is kept if no epoch has a better validation value.

    users: None refines the prompts of all users of the data set and the head; otherwise only the
    prompts of these users change, with a frozen head, and the result is the whole table. options:
    prompt (of which item_tokens is read), checkpoint_dir, progress and should_cancel, as
    `fit_prompts` takes them. Raises DataError for users that are not in the data set,
    MigrationError for users without a prompt, and what `fit_prompts` raises.
    """
    subset = dataset if users is None else dataset.for_users(users)
    fitted = fit_prompts(
        backbone,
        subset,
        template=template,
        training=training,
        start=start,
        train_head=users is None,
        include_start=True,
        **options,
    )
    table, items = fitted.table, fitted.table.items
    if users is not None:
        vectors, items = start.vectors.copy(), start.items
        vectors[start.rows_of(subset.users)] = table.vectors
        table = dataclasses.replace(table, user_ids=start.user_ids, vectors=vectors)
    meta = table.meta | {"users_refined": len(subset.users)}
    return dataclasses.replace(fitted, table=dataclasses.replace(table, meta=meta, items=items))
