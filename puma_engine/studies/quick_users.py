"""Choose the number of users of a quick study, so that pre-trained models finish within its time.

Zoo models read thousands of examples a second on a CPU, a pre-trained model about a hundred. So its
speed is measured on the data set's items first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from puma_engine import pipeline
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.datasets import REGISTRY, Dataset
from puma_engine.defaults import (
    DEFAULT_TEMPLATES,
    EARLY_STOPPING_USERS,
    fit_defaults,
    migration_defaults,
    refine_defaults,
)
from puma_engine.errors import PumaError
from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed, measure_model
from puma_engine.store import Workspace
from puma_engine.studies.cells import ORDERS, Cell, Options, Study
from puma_engine.studies.reports import stored_report
from puma_engine.studies.study_data import study_data
from puma_engine.zoo import ZOO

MINUTES = 40.0
# Unless the data set has fewer, the number of users is a multiple of STEP and at least FEWEST. Rows are
# counted for MEASURED_USERS.
STEP, FEWEST, MEASURED_USERS = 5, 20, 60

_log = logging.getLogger("puma_engine.studies")


def quick_options(
    ws: Workspace,
    study: Study,
    options: Options,
    *,
    minutes: float = MINUTES,
    device: str | None = None,
    precision: str | None = None,
) -> Options:
    """Return the options of a quick study with as many users as fit, if a model is not from the zoo.

    The study's own number of quick users is for zoo models and does not count: options.users is
    replaced. Only the first data set is used. An earlier trial in the workspace with the same models
    and data set decides the number of users, so that it is continued. Otherwise the speed of these
    models is measured, and every epoch of every training is counted. The number and its reason are
    logged. Options with zoo models are returned unchanged.
    """
    models = [name for name in (options.source, options.target) if name not in ZOO]
    if not models:
        return options
    options = replace(options, datasets=options.datasets[:1])
    earlier = _earlier_users(ws, study, options)
    if earlier is not None:
        _log.info("The trial goes on with the %d users of the one before.", earlier)
        return replace(options, users=earlier)
    (name,) = options.datasets
    data, available = _sample(ws, name)
    template = TEMPLATES[DEFAULT_TEMPLATES[data.task]]
    if options.order is not None:
        template = TEMPLATES[data.task + ORDERS[options.order]]
    counts, cells, sampled = DataCounts.of(data), study.cells(options), len(data.users)
    per_user = 0.0
    for model in models:
        run = pipeline.add_backbone(ws, model, device=device)
        settings: dict[str, Any] = {"template": template, "device": device}
        speed = measure_model(ws, run, data, precision=precision or "auto", **settings)
        per_user += seconds_per_user(cells, model, speed, counts, sampled, data.task)
    users = max(FEWEST, int(60 * minutes / per_user) // STEP * STEP)
    if available is not None:
        users = min(users, available)
    _log.info(
        "The trial takes %d users of %s, which need at most %.0f min at the measured speed (%s), less if "
        "trainings stop early; --users and --dataset choose others.",
        *(users, name, users * per_user / 60, speed),
    )
    return replace(options, users=users)


def _sample(ws: Workspace, name: str) -> tuple[Dataset, int | None]:
    """Return at most MEASURED_USERS users of a study's data set, and how many it has (None: unknown).

    Original files, which may be large, are not stored whole.
    """
    settings = study_data(name).settings
    source = REGISTRY.get(settings["source"])
    if source is not None and not source.shipped:
        run = pipeline.import_dataset(ws, **settings, users=MEASURED_USERS)
        available = run.summary["report"].get("users_with_enough_rows")
        return pipeline.load_dataset(ws, run), available
    data = pipeline.load_dataset(ws, pipeline.import_dataset(ws, **settings))
    chosen = np.random.default_rng(0).permutation(data.users)[:MEASURED_USERS]
    return data.for_users(chosen), len(data.users)


def _earlier_users(ws: Workspace, study: Study, options: Options) -> int | None:
    try:
        earlier = stored_report(ws, study.name)["options"]
    except (PumaError, KeyError):
        return None
    compared = ("source", "target", "order", "quick")
    if [earlier.get(name) for name in compared] != [getattr(options, name) for name in compared]:
        return None
    same_datasets = list(earlier.get("datasets", ())) == list(options.datasets)
    return int(earlier["users"]) if same_datasets and earlier.get("users") else None


def seconds_per_user(
    cells: Sequence[Cell], model: str, speed: ModelSpeed, counts: DataCounts, users: int, task: str
) -> float:
    """Return the seconds of a study on one model for each user, if no training stops early.

    counts: of the data of `users` users. Each item is read once and then cached on disk.
    """
    rows = rows_read_by(cells, model, users, task)
    seconds = speed.seconds(
        items=counts.items,
        training=rows["train"] * counts.train,
        prediction=rows["validation"] * counts.validation + rows["test"] * counts.test,
    )
    return seconds / users


def rows_read_by(cells: Sequence[Cell], model: str, users: int, task: str) -> dict[str, float]:
    """Return how often a study reads all users' train, validation and test rows with a model.

    Train rows are counted for each epoch of each training, times its share of users.
    """
    by_name = {cell.name: cell for cell in cells}
    row_reads = dict.fromkeys(("train", "validation", "test"), 0.0)
    for cell in cells:
        if model_of_cell(cell, by_name) != model:
            continue
        if cell.stage == "evaluate":
            # A blend uses the test predictions of the unblended evaluation.
            row_reads["validation" if "blend" in cell.settings else "test"] += 1
        elif cell.stage in ("fit_prompts", "migrate", "refine"):
            share = _share_of(cell, by_name)
            epochs = _epochs_of(cell, by_name, users, share, task)
            held_out = min(1.0 - share, EARLY_STOPPING_USERS / users) if share < 1 else 1.0
            row_reads["validation"] += epochs * held_out
            only_head = cell.settings.get("role") == "random"
            row_reads["validation" if only_head else "train"] += epochs * share
    return row_reads


def model_of_cell(cell: Cell, by_name: Mapping[str, Cell]) -> str | None:
    """Return the backbone of a cell's prompts, or None."""
    for name in ("backbone", "target"):
        if name in cell.settings:
            return str(cell.settings[name])
    input_name = cell.inputs.get("start") or cell.inputs.get("subject")
    if cell.stage in ("refine", "evaluate") and isinstance(input_name, str):
        return model_of_cell(by_name[input_name], by_name)
    return None


def _share_of(cell: Cell, by_name: Mapping[str, Cell]) -> float:
    selection = cell.inputs.get("selection")
    settings = by_name[selection].settings if isinstance(selection, str) else cell.settings
    return float(settings.get("share") or 1.0)


def _epochs_of(cell: Cell, by_name: Mapping[str, Cell], users: int, share: float, task: str) -> int:
    """Return the epochs of a training; with tuned settings, the maximum of its candidates."""
    if cell.settings_from is not None and "training" not in cell.settings:
        best = by_name[cell.settings_from]
        candidates = [by_name[name] for name in best.inputs["candidates"]]
        if best.settings.get("take_input"):  # the best migration decides on its source
            candidates = [by_name[str(candidate.inputs["sources"])] for candidate in candidates]
        return max(_epochs_of(candidate, by_name, users, share, task) for candidate in candidates)
    epochs = cell.settings.get("training", {}).get("epochs")
    if epochs is not None:
        return int(epochs)
    if cell.stage == "migrate":
        return migration_defaults(task, users, max(1, round(share * users)))[0].epochs
    defaults = refine_defaults if cell.stage == "refine" else fit_defaults
    return defaults(task, users, item_tokens=cell.settings.get("item_tokens", 0)).epochs
