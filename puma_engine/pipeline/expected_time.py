"""Predict the time of work on a model from a short measurement on the data set's items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from puma_engine.backbone.templates import Template, get_template
from puma_engine.datasets import Dataset
from puma_engine.defaults import DEFAULT_TEMPLATES
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.store import Run, Workspace

MEASURED_ITEMS = 64
MEASURED_SECONDS = 8.0


@dataclass(frozen=True)
class ModelSpeed:
    """Rates of a model on this device, per second: items read, training and predicted examples."""

    items: float
    training: float
    prediction: float

    def seconds(self, *, items: float = 0, training: float = 0, prediction: float = 0) -> float:
        """Return the seconds for numbers of items to read, and of examples to train on and to predict."""
        parts = (items / self.items, training / self.training, prediction / self.prediction)
        return float(sum(parts))

    def __str__(self) -> str:
        return (
            f"{self.items:.0f} items read, {self.training:.0f} training examples and "
            f"{self.prediction:.0f} predictions a second"
        )


def measure_model(
    ws: Workspace,
    model: Run,
    dataset: Dataset,
    *,
    template: str | Template | None = None,
    device: str | None = None,
    precision: str = "auto",
    seconds: float = MEASURED_SECONDS,
) -> ModelSpeed:
    """Measure a model for some seconds, besides reading MEASURED_ITEMS random items.

    template: default: that of the data set's task. Items in the disk cache are read anew.
    """
    from puma_engine.backbone import Context
    from puma_engine.backbone.compatibility import measure_speed

    backbone = load_backbone(ws, model, device=device, precision=precision)
    texts = dataset.items["text"].to_numpy()
    count = min(MEASURED_ITEMS, len(texts))
    sampled = np.random.default_rng(0).choice(texts, count, replace=False)
    chosen = get_template(template or DEFAULT_TEMPLATES[dataset.task])
    # The first batches of a process take longer.
    measure_speed(backbone, 0.0, chosen, [Context(str(text)) for text in sampled[:4]])
    speed = measure_speed(backbone, seconds, chosen, [Context(str(text)) for text in sampled])
    return ModelSpeed(
        speed["items_per_second"],
        speed["training_examples_per_second"],
        speed["prediction_examples_per_second"],
    )


@dataclass(frozen=True)
class DataCounts:
    """Numbers of rows of each split, of distinct items in train and validation rows, and of all items."""

    train: int
    validation: int
    test: int
    fitted_items: int
    items: int

    @classmethod
    def of(cls, dataset: Dataset) -> DataCounts:
        """Return the counts of a data set."""
        train, validation, test = map(dataset.rows, ("train", "validation", "test"))
        fitted = set(train["item_id"]) | set(validation["item_id"])
        items = fitted | set(test["item_id"])
        return cls(len(train), len(validation), len(test), len(fitted), len(items))
