"""Calibrations: trainings too short to be of use, whose speed is what a plan is reckoned from."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.defaults import adapter_shape, adapter_training, prompt_training
from puma_engine.errors import ConfigError
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.fitting import device_name, training_outcome
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stage import (
    PROMPT_KINDS,
    Clock,
    Outcome,
    Reference,
    adapter_from,
    find,
    run_stage,
    settings_of,
    slug,
    training_from,
)
from puma_engine.pipeline.stage_progress import CancelCheck, Overall, ProgressCallback
from puma_engine.pipeline.stored_prompts import template_of
from puma_engine.store import Run, Workspace
from puma_engine.training.device import CpuContention

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.datasets import Dataset
    from puma_engine.prompts.tuning import FitResult

Way = Literal["migration", "retraining"]
STEPS, EPOCHS, LEAST_ROWS = 20, 2, 2048


@dataclasses.dataclass(frozen=True)
class _Trial:
    """One training to time. widths: of the prompts that an adapter reads, one a source."""

    way: Way
    data: Run
    model: Run
    template: str
    tokens: int
    widths: tuple[int, ...]
    training: TrainingConfig
    adapter: AdapterConfig

    def config(self, device: str) -> dict[str, Any]:
        found = {
            "way": self.way,
            "template": self.template,
            "tokens": self.tokens,
            "training": settings_of(self.training),
            "device": device,
        }
        if self.way == "retraining":
            return found
        return found | {"widths": list(self.widths), "adapter": self.adapter.to_dict()}


def calibrate(
    ws: Workspace,
    sources: Sequence[Reference],
    targets: Sequence[Reference],
    *,
    training: TrainingConfig | dict[str, Any] | None = None,
    adapter: AdapterConfig | dict[str, Any] | None = None,
    retraining: TrainingConfig | dict[str, Any] | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> list[Run]:
    """Measure the speed of every hop of a plan, and of retraining on its last target.

    Two short epochs each, on as many users as a few dozen batches need. The prompts that
    adapters read are random: speed does not depend on their values, so hops can be timed
    whose sources do not exist yet. Returns one calibration run a hop, then the retraining's.
    Raises ConfigError where nothing can be trained.
    """
    if not sources or not targets:
        raise ConfigError("A calibration needs a source and a target; name at least one of each.")
    from puma_engine.training.device import resolve_device

    trials = _trials(ws, sources, targets, training, adapter, retraining)
    overall = Overall([1.0] * len(trials), progress)
    used = device_name(resolve_device(device))
    return [
        _measure(ws, trial, used, device, overall.part(number), should_cancel)
        for number, trial in enumerate(trials)
    ]


def _trials(
    ws: Workspace,
    sources: Sequence[Reference],
    targets: Sequence[Reference],
    training: TrainingConfig | dict[str, Any] | None,
    adapter: AdapterConfig | dict[str, Any] | None,
    retraining: TrainingConfig | dict[str, Any] | None,
) -> list[_Trial]:
    runs = [find(ws, one, *PROMPT_KINDS) for one in sources]
    models = [backbone_run(ws, one) for one in targets]
    data = find(ws, runs[0].inputs["dataset"], "dataset")
    shape = adapter_from(adapter, adapter_shape(data.summary["task"]))
    shared = (template_of(runs[0]), int(runs[0].summary["tokens"]))
    widths = tuple(int(run.summary["width"]) for run in runs)
    short: dict[str, Any] = {"epochs": EPOCHS, "patience": 0}
    many = int(data.summary["users"]), data.summary["task"]
    hop = dataclasses.replace(training_from(training, adapter_training(*many), None), **short)
    whole = dataclasses.replace(training_from(retraining, prompt_training(*many), None), **short)
    trials = []
    for model in models:
        trials.append(_Trial("migration", data, model, *shared, widths, hop, shape))
        widths = (int(model.summary["width"]),)
    return [*trials, _Trial("retraining", data, models[-1], *shared, (), whole, shape)]


def _measure(
    ws: Workspace,
    trial: _Trial,
    used: str,
    device: str | None,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> Run:
    def work(_run_id: str, _folder: Path, clock: Clock) -> Outcome:
        frozen = load_backbone(ws, trial.model, device=device, precision=trial.training.precision)
        part = _some_users(load_dataset(ws, trial.data), trial.training)
        frozen.forget()
        clock.restart()
        others = CpuContention()
        trained = _train(trial, frozen, part, progress, should_cancel)
        taken = others.cores()
        outcome = training_outcome(trained.result, len(part.users), trained.flops)
        outcome.summary["users"] = len(part.users)
        outcome.cost |= {"cores": os.cpu_count(), "cores_of_others": round(taken, 2)}
        return outcome

    return run_stage(
        ws,
        "calibration",
        name=slug("calibration", trial.way, trial.model.name, trial.data.name),
        config=trial.config(used),
        inputs={"dataset": trial.data.id, "backbone": trial.model.id},
        seed=trial.training.seed,
        work=work,
        together=True,
    )


def _some_users(dataset: Dataset, training: TrainingConfig) -> Dataset:
    """As many users as fill the steps of an epoch, drawn at random; all if there are fewer."""
    users, rows = dataset.users, len(dataset.rows("train"))
    wanted = max(STEPS * training.batch_size, LEAST_ROWS)
    count = min(len(users), math.ceil(wanted * len(users) / max(rows, 1)))
    drawn = np.random.default_rng(training.seed).choice(users, count, replace=False)
    return dataset.for_users(drawn)


def _train(
    trial: _Trial,
    frozen: FrozenBackbone,
    part: Dataset,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> FitResult:
    from puma_engine.migration.adapter_training import train_migration
    from puma_engine.prompts.table import PromptTable
    from puma_engine.prompts.tuning import fit_prompts

    told: dict[str, Any] = {"template": trial.template, "training": trial.training}
    told |= {"progress": progress, "should_cancel": should_cancel}
    if trial.way == "retraining":
        shape = PromptConfig(tokens=trial.tokens)
        return fit_prompts(frozen, part, prompt=shape, **told)
    draw = np.random.default_rng(trial.training.seed)
    tables = [
        PromptTable(
            part.users, draw.normal(size=(len(part.users), trial.tokens, width)).astype(np.float32)
        )
        for width in trial.widths
    ]
    return train_migration(tables, frozen, part, adapter=trial.adapter, **told)
