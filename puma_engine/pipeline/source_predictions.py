"""Training data of a migration without records: the sources' predictions of random pairs.

Distillation as in Hinton et al. 2015 (https://arxiv.org/abs/1503.02531), with the source prompts on
their models as the teacher, and the adapter on the target as the student.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.backbone.templates import Template
from puma_engine.defaults import EARLY_STOPPING_USERS, held_out_pairs
from puma_engine.errors import BackboneError, ConfigError, MigrationError
from puma_engine.files import load_tensors, save_tensors
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import check_backbone, load_backbone, release_backbones
from puma_engine.pipeline.stored_prompts import has_model, template_of
from puma_engine.selection.strategies import STRATEGIES
from puma_engine.store import Run, Workspace
from puma_engine.training import distributed

if TYPE_CHECKING:
    from puma_engine.datasets import Dataset
    from puma_engine.prompts.table import PromptTable
    from puma_engine.prompts.table_predictions import TablePredictions

ARTIFACT = "source_predictions"
# Name in the folder of checkpoints, until the run is finished.
FILE = "source-predictions.safetensors"
RECORD_SIGNALS = {"variance", "loss", "activity"}
WITHOUT_RECORDS = tuple(
    name for name, strategy in STRATEGIES.items() if not strategy.needs & RECORD_SIGNALS
)


@dataclass(frozen=True)
class SourcePredictions:
    """Pairs with the sources' predictions as a data set, and their cost for the run."""

    dataset: Dataset
    cost: dict[str, float]

    @property
    def seconds(self) -> float:
        """Seconds of predicting, loading of models excluded."""
        return self.cost["prediction_item_seconds"] + self.cost["prediction_pair_seconds"]


def refuse_records(strategy: str) -> None:
    """Raise ConfigError for a strategy that reads outcomes or counts records."""
    if strategy not in WITHOUT_RECORDS:
        raise ConfigError(
            f"The strategy {strategy!r} chooses users by their records, but a migration from "
            f"predictions reads none; choose one of {', '.join(WITHOUT_RECORDS)}."
        )


def check_sources(
    ws: Workspace, sources: Sequence[Run], data: Run, template: Template, pairs: int
) -> None:
    """Raise ConfigError, MigrationError or BackboneError for sources that cannot predict."""
    for used in (template, *(template_of(source) for source in sources if has_model(source))):
        if used.uses_history:
            raise ConfigError(
                f"The template {used.name!r} shows users' histories, which are records, but a migration from "
                "predictions reads none; use prompts and a template without history."
            )
    needed, items = pairs + held_out_pairs(pairs), int(data.summary["items"])
    if needed > items:
        raise MigrationError(
            f"{pairs} pairs of each user and {held_out_pairs(pairs)} held-out ones need {needed} items, but the "
            f"data set {data.name!r} has {items}; ask for fewer pairs."
        )
    for source in sources:
        if not has_model(source):
            raise ConfigError(
                f"A migration from predictions needs the source's language model, and the vectors of "
                f"{source.name!r} have none; migrate them from records."
            )
        try:
            check_backbone(ws, source.inputs["backbone"])
        except BackboneError as error:
            raise BackboneError(
                f"{error} A migration from predictions reads the source model; without it, migrate "
                "from records."
            ) from error


def predict_pairs(
    ws: Workspace,
    sources: Sequence[Run],
    tables: Sequence[PromptTable],
    dataset: Dataset,
    users: np.ndarray | None,
    *,
    pairs: int,
    seed: int,
    precision: str,
    folder: Path,
    execution: stage.Execution,
) -> SourcePredictions:
    """Draw random pairs, predict them with each source on its model, and return the mean predictions.

    users: those who train (None: all whom every source has). dataset: provides the items; its rows
    are not read. One model is in memory at a time, and none afterwards. The predictions are stored
    in folder, where a resumed attempt reads them. Raises MigrationError, DataError, BackboneError
    and Cancelled.
    """
    from puma_engine.migration.adapter_training import (
        check_training_users,
        choose_early_stopping_users,
    )
    from puma_engine.migration.random_pairs import draw_pairs, mean_predictions, pair_dataset

    everyone = functools.reduce(np.intersect1d, [table.user_ids for table in tables])
    trained = check_training_users(everyone, users)
    held_out = choose_early_stopping_users(trained, everyone, everyone, EARLY_STOPPING_USERS, seed)
    random_pairs = draw_pairs(trained, held_out, dataset.items, pairs, seed)
    path = folder / FILE
    if not path.is_file():
        # In one split, so that both are predicted at once.
        blank = pair_dataset(
            dataset, random_pairs.assign(split="train"), np.zeros(len(random_pairs))
        )
        predictions = [
            _predict(ws, run, table, blank, precision, execution)
            for run, table in zip(sources, tables, strict=True)
        ]
        outcome, answers = mean_predictions(dataset.task, predictions)
        parts = [part.cost for part in predictions]
        cost = {name: sum(part[name] for part in parts) for name in parts[0]}
        arrays = {"outcome": outcome} | ({} if answers is None else {"answers": answers})
        if not distributed.is_main_process():
            return SourcePredictions(pair_dataset(dataset, random_pairs, outcome, answers), cost)
        save_tensors(path, arrays, cost)
    arrays, cost = load_tensors(path)
    learned = pair_dataset(dataset, random_pairs, arrays["outcome"], arrays.get("answers"))
    return SourcePredictions(learned, cost)


def _predict(
    ws: Workspace,
    source: Run,
    table: PromptTable,
    pairs: Dataset,
    precision: str,
    execution: stage.Execution,
) -> TablePredictions:
    """Predict the train rows of pairs with one source on its model."""
    from puma_engine.prompts.table_predictions import predict_table

    name, total, started = (
        f"predicting with {source.name}",
        len(pairs.interactions),
        time.monotonic(),
    )
    execution.announce(name)
    release_backbones()
    model = source.inputs["backbone"]
    backbone = load_backbone(ws, model, device=execution.device, precision=precision)

    def report(done: int) -> None:
        # Several processes must all come to the training.
        if distributed.world_size() == 1:
            execution.check_cancel(name)
        if execution.progress is not None:
            rate = done / max(time.monotonic() - started, 1e-9)
            figures: dict[str, Any] = {"examples_per_second": rate}
            figures["eta_seconds"] = (total - done) / rate
            execution.progress(stage.StageProgress(name, step=done, total=total, **figures))

    predicted = predict_table(
        backbone, table, pairs, "train", template=template_of(source), progress=report
    )
    del backbone
    release_backbones()
    return predicted
