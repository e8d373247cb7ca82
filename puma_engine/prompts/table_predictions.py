"""Predict the rows of a data set with a prompt table: outcomes and the probability of each answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.templates import Template
from puma_engine.datasets import Dataset
from puma_engine.errors import DataError
from puma_engine.prompts.examples import batched_logits, split_examples
from puma_engine.prompts.item_prompts import in_slot_order
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import make_head


@dataclass(frozen=True)
class TablePredictions:
    """Predictions of a prompt table for n rows, and their cost.

    outcome: [n] float64, ratings or click probabilities. answers: [n, A] float32, the probability
    of each answer of the template. flops: two operations for each weight of the layers and each
    position. items: number of distinct items among the rows. item_seconds: time for the texts
    before the prompt slot; row_seconds: time for the rows.
    """

    outcome: np.ndarray
    answers: np.ndarray
    flops: float
    items: int
    item_seconds: float
    row_seconds: float

    @property
    def cost(self) -> dict[str, float]:
        """The costs under the names that runs store."""
        return {
            "predicted_pairs": len(self.outcome),
            "predicted_items": self.items,
            "prediction_flops": self.flops,
            "prediction_item_seconds": self.item_seconds,
            "prediction_pair_seconds": self.row_seconds,
        }


@torch.no_grad()
def predict_table(
    backbone: FrozenBackbone,
    table: PromptTable,
    dataset: Dataset,
    split: str,
    *,
    template: str | Template,
    progress: Callable[[int], None] | None = None,
) -> TablePredictions:
    """Predict dataset.rows(split). progress is called with the number of rows predicted so far.

    Raises DataError if a user of the split has no prompt, or ratings have no head.
    """
    if table.head is None and dataset.task == "rating":
        raise DataError(
            "These prompts have no rating head, so they cannot be scored; import them with "
            "--head auto, which trains one."
        )
    reader, examples = split_examples(backbone, dataset, template, split, table.user_ids)
    generator, task = torch.Generator().manual_seed(0), reader.task
    head = make_head(task, examples, generator, table.head).to(backbone.device).eval()
    vectors = torch.from_numpy(table.vectors)
    items, items_first = None, table.items is not None and table.items.first
    if table.items is not None:
        items = torch.from_numpy(table.items.take(dataset.items["item_id"].to_numpy()))

    def prompts(users: Tensor, item: Tensor) -> Tensor:
        rows = vectors[users]
        if items is not None:
            rows = torch.cat(in_slot_order(rows, items[item], item_first=items_first), dim=1)
        return rows.to(backbone.device, non_blocking=True)

    started = time.perf_counter()
    cached = reader.cached_tokens
    reader.prepare(examples.context)
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    prepared = time.perf_counter()
    outcome = np.empty(len(examples))
    answers = np.empty((len(examples), len(task.answers)), np.float32)
    done = 0
    for rows, logits in batched_logits(reader, examples, prompts):
        outcome[rows.numpy()] = task.predict(logits, head).double().cpu().numpy()
        answers[rows.numpy()] = torch.softmax(logits.float(), dim=-1).cpu().numpy()
        done += len(rows)
        if progress is not None:
            progress(done)
    broken = int((~np.isfinite(outcome)).sum())
    if broken:
        raise DataError(
            f"{broken:,} of {len(outcome):,} predictions are NaN or infinite; the prompts are too "
            f"large for this model in {backbone.info.dtype}."
        )
    positions = table.read_tokens * len(examples) + int(
        reader.suffix_lengths(examples.context).sum()
    )
    positions += reader.cached_tokens - cached
    return TablePredictions(
        outcome,
        answers,
        flops=2.0 * backbone.layer_weights * positions,
        items=len(torch.unique(examples.item)),
        item_seconds=prepared - started,
        row_seconds=time.perf_counter() - prepared,
    )
