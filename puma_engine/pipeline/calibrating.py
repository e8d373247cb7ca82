"""Calibrations: short trainings that are timed to predict the cost of a plan."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puma_engine.backbone.templates import Template
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.fitting import device_name, training_result
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.planning import plan_settings, teachers
from puma_engine.requests import PlanRequest
from puma_engine.store import Run, Workspace
from puma_engine.training.device import CpuContention

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.datasets import Dataset
    from puma_engine.prompts.tuning import FitResult

Work = Literal["migration", "retraining", "prediction"]
STEPS, EPOCHS, MIN_ROWS = 20, 2, 2048


@dataclasses.dataclass(frozen=True)
class _Trial:
    """One training to time, or predictions of random pairs; its work is stored under the name way.

    widths: of the prompts that an adapter reads, one for each source. pairs: number predicted for
    each user.
    """

    work: Work
    data: Run
    model: Run
    template: Template
    tokens: int
    widths: tuple[int, ...]
    training: TrainingConfig
    adapter: AdapterConfig
    pairs: int = 0

    def config(self, device: str) -> dict[str, Any]:
        template = self.template.to_config()
        template.pop(
            "reading", None
        )  # it hardly changes the speed, so earlier calibrations are valid
        values = {
            "way": self.work,
            **template,
            "tokens": self.tokens,
            "device": device,
        }
        if self.work == "prediction":
            return values | {"pairs": self.pairs, "precision": self.training.precision}
        values["training"] = stage.settings_of(self.training)
        if self.work == "retraining":
            return values
        return values | {"widths": list(self.widths), "adapter": self.adapter.to_dict()}


def calibrate(
    ws: Workspace,
    sources: stage.Reference | Sequence[stage.Reference] = (),
    targets: stage.Reference | Sequence[stage.Reference] = (),
    *,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
    **settings: Any,
) -> list[Run]:
    """Measure the speed of every hop of a plan, and of retraining on its last target.

    Each takes two short epochs on as many users as a few dozen batches need. Adapters read random
    prompts, since their values do not influence the speed; so hops can be timed before their
    sources exist. settings: those of `run_plan`; fitting on the models of fit_on is timed first. If
    adapters learn from predictions, these are timed for each source model. Returns a calibration
    run for each hop, then for predictions, then for the retraining. Raises ConfigError if nothing
    can be trained.
    """
    from puma_engine.training.device import resolve_device

    request = PlanRequest.from_dict({"sources": sources, "targets": targets, **settings})
    execution = stage.Execution(device, progress, should_cancel)
    plan = plan_settings(ws, request)
    models = [backbone_run(ws, target) for target in request.targets]
    fitted = [backbone_run(ws, model) for model in request.fit_on]
    tokens = int(plan.sources[0].summary["tokens"]) if plan.sources else PromptConfig().tokens
    shared = (plan.template, tokens)
    widths = tuple(int(run.summary["width"]) for run in (*plan.sources, *fitted))
    hop, retraining = (
        dataclasses.replace(training, epochs=EPOCHS, patience=0)
        for training in (plan.training, plan.retraining)
    )
    data, adapter = plan.data, plan.adapter
    trials = []
    for model in fitted:
        trials.append(_Trial("retraining", data, model, *shared, (), retraining, adapter))
    for model in models:
        trials.append(_Trial("migration", data, model, *shared, widths, hop, adapter))
        widths = (int(model.summary["width"]),)
    for teacher, template in dict.fromkeys(teachers(plan, [model.id for model in models])):
        model, pairs = ws.run(teacher), request.from_predictions
        trials.append(_Trial("prediction", data, model, template, tokens, (), hop, adapter, pairs))
    trials.append(_Trial("retraining", data, models[-1], *shared, (), retraining, adapter))
    overall = stage.OverallProgress([1.0] * len(trials), progress)
    used = device_name(resolve_device(device))
    return [
        _measure(ws, trial, used, execution.part(overall, number))
        for number, trial in enumerate(trials)
    ]


def _measure(ws: Workspace, trial: _Trial, device: str, execution: stage.Execution) -> Run:
    def compute(_run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        backbone = load_backbone(
            ws, trial.model, device=execution.device, precision=trial.training.precision
        )
        # As many random users as an epoch of STEPS steps needs, or all.
        dataset, training = load_dataset(ws, trial.data), trial.training
        users, rows = dataset.users, len(dataset.rows("train"))
        needed_rows = max(STEPS * training.batch_size, MIN_ROWS)
        if trial.work == "prediction":
            rows, needed_rows = trial.pairs * len(users), MIN_ROWS
        count = min(len(users), math.ceil(needed_rows * len(users) / max(rows, 1)))
        sampled = np.random.default_rng(training.seed).choice(users, count, replace=False)
        backbone.forget()
        backbone.prefix_store = None  # items are read anew, so that reading is measured
        clock.restart()
        contention = CpuContention()
        if trial.work == "prediction":
            outcome = _predict(trial, backbone, dataset, sampled)
        else:
            trained = _train(trial, backbone, dataset.for_users(sampled), execution)
            outcome = training_result(trained.result, len(sampled), trained.flops)
        cores_of_others = contention.cores()
        outcome.summary["users"] = len(sampled)
        outcome.cost |= {"cores": os.cpu_count(), "cores_of_others": round(cores_of_others, 2)}
        return outcome

    return stage.run_stage(
        ws,
        "calibration",
        name=stage.slug("calibration", trial.work, trial.model.name, trial.data.name),
        config=trial.config(device),
        inputs={"dataset": trial.data.id, "backbone": trial.model.id},
        seed=trial.training.seed,
        compute=compute,
        data_parallel=True,
    )


def _predict(
    trial: _Trial, backbone: FrozenBackbone, dataset: Dataset, users: np.ndarray
) -> stage.StageResult:
    """Predict random pairs of these users with random prompts; return the cost."""
    import torch

    from puma_engine.backbone.tasks import get_task
    from puma_engine.migration.random_pairs import draw_pairs, pair_dataset
    from puma_engine.prompts.table import PromptTable
    from puma_engine.prompts.table_predictions import predict_table
    from puma_engine.prompts.tuning import head_tensors

    seed = trial.training.seed
    shape = (len(users), trial.tokens, backbone.width)
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    head = get_task(dataset.task).head(3.0, torch.Generator().manual_seed(seed))
    table = PromptTable(users, vectors, head_tensors(head))
    drawn = draw_pairs(users, users, dataset.items, trial.pairs, seed).assign(split="train")
    pairs = pair_dataset(dataset, drawn, np.zeros(len(drawn)))
    predicted = predict_table(backbone, table, pairs, "train", template=trial.template)
    return stage.StageResult(device_name(str(backbone.device)), predicted.cost)


def _train(
    trial: _Trial, backbone: FrozenBackbone, dataset: Dataset, execution: stage.Execution
) -> FitResult:
    from puma_engine.migration.adapter_training import train_migration
    from puma_engine.prompts.table import PromptTable
    from puma_engine.prompts.tuning import fit_prompts

    shared: dict[str, Any] = {"template": trial.template, "training": trial.training}
    shared |= execution.callbacks
    if trial.work == "retraining":
        return fit_prompts(backbone, dataset, prompt=PromptConfig(tokens=trial.tokens), **shared)
    rng, users = np.random.default_rng(trial.training.seed), dataset.users
    tables = [
        PromptTable(users, rng.normal(size=(len(users), trial.tokens, width)).astype(np.float32))
        for width in trial.widths
    ]
    return train_migration(tables, backbone, dataset, adapter=trial.adapter, **shared)
