"""Fitted prompt tables as runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.backbone.templates import Template, get_template
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import DEFAULT_TEMPLATES, fit_defaults
from puma_engine.errors import NotFoundError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, computing_cost, load_backbone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import (
    save_prompts,
    shape_of,
    template_to_fit,
    with_chat_template,
)
from puma_engine.requests import FitRequest, Role, training_of
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.tuning import FitResult


def fit_prompts(
    ws: Workspace,
    dataset: stage.Reference,
    backbone: stage.Reference | Path,
    *,
    role: Role = "source",
    template: str | None = None,
    chat_template: bool = False,
    training: TrainingConfig | dict[str, Any] | None = None,
    prompt: PromptConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Fit one soft prompt for each user of a data set on a frozen backbone.

    role: the purpose of the table: "source" (the start of a migration), "retrained" (the full
    retraining that a migration replaces; the same computation) or "random" (prompts stay random and
    only the head is trained). chat_template: put the backbone's own chat template around the text.
    training and prompt override `defaults.fit_defaults`. Raises ConfigError, NotFoundError,
    BackboneError, DataError.
    """
    request = FitRequest.from_arguments(locals())
    return run_fit(ws, request, stage.Execution(device, progress, should_cancel))


@dataclass(frozen=True)
class _ResolvedFit:
    """A request to fit prompts with all defaults filled in, which the run's id is a hash of."""

    data: Run
    training: TrainingConfig
    prompt: PromptConfig
    template: Template
    config: dict[str, Any]
    inputs: dict[str, str]


def _resolve(ws: Workspace, request: FitRequest, model: Run) -> _ResolvedFit:
    data = stage.find(ws, request.dataset, "dataset")
    task, users = data.summary["task"], int(data.summary["users"])
    prompt = PromptConfig(**dict(request.prompt))
    default = fit_defaults(task, users, item_tokens=prompt.item_tokens)
    training = training_of(default, request.training, request.seed)
    config = {
        "role": request.role,
        "training": stage.settings_of(training),
        "prompt": prompt.to_dict(),
    }
    inputs = {"dataset": data.id, "backbone": model.id}
    template = with_chat_template(
        get_template(request.template or DEFAULT_TEMPLATES[task]), request
    )
    template = template_to_fit(ws, "prompts", template, config, inputs, training.seed)
    return _ResolvedFit(data, training, prompt, template, config | template.to_config(), inputs)


def find_fit(ws: Workspace, request: FitRequest, model: Run) -> Run | None:
    """Return the finished run of a request to fit prompts on a model, or None."""
    resolved = _resolve(ws, request, model)
    try:
        run = ws.run(
            ws.run_key("prompts", resolved.config, resolved.inputs, resolved.training.seed)
        )
    except NotFoundError:
        return None
    return run if run.status == "finished" else None


def run_fit(ws: Workspace, request: FitRequest, execution: stage.Execution) -> Run:
    """Execute a request to fit prompts; see `fit_prompts`."""
    model = backbone_run(ws, request.backbone, device=execution.device)
    resolved = _resolve(ws, request, model)
    data, training = resolved.data, resolved.training
    trainable = request.role != "random"

    def compute(_run_id: str, folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.prompts import tuning

        backbone = load_backbone(ws, model, device=execution.device, precision=training.precision)
        dataset = load_dataset(ws, data)
        backbone.forget()
        clock.restart()
        fitted = tuning.fit_prompts(
            backbone,
            dataset,
            template=resolved.template,
            training=training,
            prompt=resolved.prompt,
            trainable=trainable,
            checkpoint_dir=folder,
            **execution.callbacks,
        )
        result = fitted_result(ws, fitted, len(dataset.users) if trainable else 0)
        result.cost |= computing_cost(backbone)
        return result

    return stage.run_stage(
        ws,
        "prompts",
        name=request.name or stage.slug(request.role, model.name, data.name),
        config=resolved.config,
        inputs=resolved.inputs,
        seed=training.seed,
        compute=compute,
        data_parallel=True,
        remote_compute=execution.remote_compute(
            "fit_prompts", replace(request, dataset=data.id, backbone=model.id)
        ),
    )


def fitted_result(ws: Workspace, fitted: FitResult, users_trained: int) -> stage.StageResult:
    """Return the result of a fitted or refined table for its run. users_trained: stored as cost."""
    result = training_result(fitted.result, users_trained, fitted.flops)
    result.save = lambda run_id: save_prompts(ws, run_id, fitted.table)
    result.describe = lambda: shape_of(fitted.table)
    return result


def training_result(result: Any, users_trained: int, flops: float) -> stage.StageResult:
    """Return the result of a training for its run."""
    cost = {
        "training_seconds": result.seconds,
        "steps": result.steps,
        "examples": result.examples,
        "epochs": len(result.history),
        "users_trained": users_trained,
        "flops": flops,
    }
    summary = {
        "best_epoch": result.best_epoch,
        "best_validation": result.best_validation,
        "history": result.history,
        "precision": result.precision,
    }
    return stage.StageResult(device_name(result.device), cost, summary)


def device_name(device: str) -> str:
    """Return a GPU's product name, or "cpu"."""
    if not str(device).startswith("cuda"):
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name(device))
