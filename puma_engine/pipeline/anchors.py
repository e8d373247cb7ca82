"""Anchor predictions as runs: predictions of every prompt of a table for the same few items.

Evaluations predict held-out records, with different items for each user. Anchor items are the same
for all users and models of a data set, so the mean and the spread of a user's predictions can be
compared between users and between models without alignment.

A run of kind "anchors" stores the tensor "anchors": predictions [users, items] float32, keyed by
user id, with the ids of the items in its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puma_engine.datasets import Dataset
from puma_engine.datasets.anchor_items import choose_anchors
from puma_engine.defaults import ANCHOR_ITEMS
from puma_engine.errors import DataError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import load_prompts, model_of, template_of
from puma_engine.requests import AnchorRequest
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.backbone.templates import Template
    from puma_engine.prompts.table import PromptTable

KIND = ARTIFACT = "anchors"
# Number of users whose rows are in memory at once.
BLOCK = 20_000
# Limit of predicted pairs times parameters of the model; 600 users on llama-medium have 5e10.
CHEAP_WORK = 2e11


def predict_anchors(
    ws: Workspace,
    prompts: stage.Reference,
    *,
    items: Sequence[str] = (),
    count: int = ANCHOR_ITEMS,
    precision: str = "auto",
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Predict the same items for every user of a prompts or migration run, on its own model.

    items: ids (default: `count` popular items with varied mean outcomes, see
    `puma_engine.datasets.anchor_items.choose_anchors`). Predictions are ratings (1 to 5) or
    probabilities of a click. If the template shows a history, it is that of the user's latest
    record. Raises NotFoundError, ConfigError, DataError, BackboneError.
    """
    request = AnchorRequest.from_arguments(locals())
    return run_anchors(ws, request, stage.Execution(device, progress, should_cancel))


def run_anchors(ws: Workspace, request: AnchorRequest, execution: stage.Execution) -> Run:
    """Execute a request for anchor predictions; see `predict_anchors`."""
    run = stage.find(ws, request.prompts, *stage.PROMPT_KINDS)
    model, template = model_of(run), template_of(run)
    data = stage.find(ws, run.inputs["dataset"], "dataset")
    dataset = load_dataset(ws, data)
    items = _checked_items(dataset, request.items) or choose_anchors(dataset, request.count)

    def compute(run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.pipeline.fitting import device_name

        title = f"predicting anchor items with {run.name}"
        execution.announce(title)
        backbone = load_backbone(ws, model, device=execution.device, precision=request.precision)
        table = load_prompts(ws, run)
        clock.restart()
        predictions = _predict(backbone, table, dataset, items, template, title, execution)
        users = table.user_ids.tolist()
        ws.put_tensors(
            run_id, ARTIFACT, {"predictions": predictions}, ids=users, meta={"items": items}
        )
        summary = {"task": dataset.task, "users": len(users), "anchors": len(items)}
        cost = {"predicted_pairs": predictions.size, "predicted_items": len(items)}
        return stage.StageResult(device_name(str(backbone.device)), cost, summary)

    return stage.run_stage(
        ws,
        KIND,
        name=request.name or stage.slug("anchors", run.name),
        config={"items": items, "precision": request.precision} | template.to_config(),
        inputs={"prompts": run.id, "dataset": data.id},
        compute=compute,
        remote_compute=execution.remote_compute(
            "predict_anchors",
            replace(request, prompts=run.id, items=tuple(items), count=ANCHOR_ITEMS),
        ),
    )


def is_cheap(ws: Workspace, prompts: str) -> bool:
    """Return whether predicting the default anchor items takes at most some ten seconds on two CPU cores.

    With a template that shows a history, items are read anew for every user, which takes much
    longer.
    """
    run = ws.run(prompts)
    if template_of(run).uses_history:
        return False
    parameters = float(ws.run(model_of(run)).summary.get("parameters", np.inf))
    return run.summary["users"] * ANCHOR_ITEMS * parameters <= CHEAP_WORK


def _checked_items(dataset: Dataset, item_ids: Sequence[str]) -> list[str]:
    """Return ids without repetitions. Raises DataError for unknown ids, and for a single one."""
    items = list(dict.fromkeys(item_ids))
    unknown = sorted(set(items) - set(dataset.items["item_id"]))
    if unknown:
        raise DataError(
            f"The data set {dataset.name!r} has no item {unknown[0]!r}; anchor items are items of it."
        )
    if len(items) == 1:
        raise DataError(
            "One anchor item has no spread; give two or more, or none for the default ones."
        )
    return items


def _predict(
    backbone: FrozenBackbone,
    table: PromptTable,
    dataset: Dataset,
    items: list[str],
    template: Template,
    title: str,
    execution: stage.Execution,
) -> np.ndarray:
    """Return the predictions of all users for items, [users, items] float32."""
    from puma_engine.prompts.table_predictions import predict_table

    histories = _latest_histories(dataset) if template.uses_history else None
    predictions = np.empty((len(table.user_ids), len(items)), np.float32)
    for start in range(0, len(table.user_ids), BLOCK):
        block = slice(start, start + BLOCK)
        part = replace(table, user_ids=table.user_ids[block], vectors=table.vectors[block])
        before = start * len(items)

        def report(done: int, before: int = before) -> None:
            execution.check_cancel(title)
            if execution.progress is not None:
                execution.progress(
                    stage.StageProgress(title, step=before + done, total=predictions.size)
                )

        rows = _rows(dataset, part.user_ids, items, histories)
        outcome = predict_table(backbone, part, rows, "test", template=template, progress=report)
        predictions[block] = outcome.outcome.reshape(-1, len(items))
    return predictions


def _rows(
    dataset: Dataset, users: np.ndarray, items: list[str], histories: pd.Series | None
) -> Dataset:
    """Return a data set of every pair of users and items, user by user.

    The result has all items of the data set, so that a model's cached items are used.
    """
    columns: dict[str, Any] = {
        "user_id": np.repeat(users, len(items)),
        "item_id": np.tile(np.array(items, dtype=str), len(users)),
        "outcome": np.zeros(len(users) * len(items), np.float32),
        "split": "test",
    }
    if histories is not None:
        columns["history"] = np.repeat(histories.reindex(users).to_numpy(), len(items))
    return Dataset(dataset.name, dataset.task, pd.DataFrame(columns), dataset.items, {})


def _latest_histories(dataset: Dataset) -> pd.Series:
    """Return the history of each user's latest record, by user id."""
    frame = dataset.interactions
    if "history" not in frame:
        raise DataError(
            "This template shows a history, but the data set has none; use other prompts."
        )
    rows = frame.groupby("user_id", sort=False)
    latest = frame.loc[rows["time"].idxmax()] if "time" in frame else rows.tail(1)
    return latest.set_index("user_id")["history"].map(
        lambda past: () if past is None else tuple(past)
    )


@dataclass(frozen=True)
class AnchorPredictions:
    """Predictions of a prompt table for anchor items: [users, items] float32."""

    users: list[str]
    items: list[str]
    predictions: np.ndarray

    @property
    def frame(self) -> pd.DataFrame:
        """Return one row for each user and item: user_id, item_id, prediction."""
        return pd.DataFrame(
            {
                "user_id": np.repeat(np.array(self.users, dtype=str), len(self.items)),
                "item_id": np.tile(np.array(self.items, dtype=str), len(self.users)),
                "prediction": self.predictions.ravel(),
            }
        )


def read_anchors(ws: Workspace, reference: stage.Reference) -> AnchorPredictions:
    """Read the predictions of a run of kind anchors. Raises NotFoundError, StoreError."""
    run = stage.find(ws, reference, KIND)
    arrays, users, meta = ws.get_tensors(run.id, ARTIFACT)
    return AnchorPredictions(users or [], (meta or {})["items"], arrays["predictions"])


def common_anchors(ws: Workspace, prompts: Sequence[str]) -> list[Run] | None:
    """Return the newest anchor runs over the same items, one for each prompt table; None if one is missing.

    prompts: ids of prompt tables. Only runs with the tables' own templates are used.
    """
    by_items: dict[tuple[str, ...], dict[str, Run]] = {}
    for run in ws.runs(KIND, "finished"):
        by_items.setdefault(tuple(run.config["items"]), {}).setdefault(run.inputs["prompts"], run)
    for runs in by_items.values():
        if set(prompts) <= runs.keys():
            return [runs[prompt] for prompt in prompts]
    return None
