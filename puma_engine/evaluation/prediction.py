"""Predict with a prompt table, and compute signals for the selection of users."""

from __future__ import annotations

import numpy as np
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.templates import Template
from puma_engine.datasets import Dataset
from puma_engine.datasets.losses import row_losses
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.table_predictions import predict_table


def predict(
    backbone: FrozenBackbone,
    table: PromptTable,
    dataset: Dataset,
    split: str,
    *,
    template: str | Template,
) -> np.ndarray:
    """Return predictions of dataset.rows(split), [n] float64: ratings, or click probabilities.

    Raises DataError if a user of the split has no prompt, or ratings have no head.
    """
    return predict_table(backbone, table, dataset, split, template=template).outcome


def user_losses(
    backbone: FrozenBackbone, table: PromptTable, dataset: Dataset, *, template: str | Template
) -> np.ndarray:
    """Return the mean train loss of each user of the table, [n]: squared error, or log loss for clicks.

    Users without train rows get the mean of the others.
    """
    frame = dataset.rows("train")
    p = predict(backbone, table, dataset, "train", template=template)
    y = frame["outcome"].to_numpy(dtype=np.float64)
    loss = row_losses(dataset.task, y, p)
    rows = table.rows_of(frame["user_id"].to_numpy())
    count = np.bincount(rows, minlength=len(table.user_ids))
    total = np.bincount(rows, weights=loss, minlength=len(table.user_ids))
    losses = np.full(len(table.user_ids), loss.mean())
    losses[count > 0] = total[count > 0] / count[count > 0]
    return losses


def user_variances(table: PromptTable, dataset: Dataset) -> np.ndarray:
    """Return the variance of each user's train outcomes, [n]; 0 for users with fewer than two."""
    train = (dataset.interactions["split"] == "train").to_numpy()
    rows = table.rows_of(dataset.users)[dataset.user_rows[train]]
    y = dataset.interactions["outcome"].to_numpy(dtype=np.float64)[train][rows >= 0]
    rows = rows[rows >= 0]
    n = np.maximum(np.bincount(rows, minlength=len(table.user_ids)), 1)
    mean = np.bincount(rows, weights=y, minlength=len(table.user_ids)) / n
    return np.bincount(rows, weights=(y - mean[rows]) ** 2, minlength=len(table.user_ids)) / n


def ffn_activations(backbone: FrozenBackbone, table: PromptTable) -> np.ndarray:
    """Return the binarised FFN gate activations of each user's prompt, [n, f] bool."""
    return backbone.ffn_activations(torch.from_numpy(table.vectors)).numpy()
