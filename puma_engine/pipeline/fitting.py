"""Prompt tables as runs: fitting them on a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import prompt_training
from puma_engine.errors import ConfigError
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stage import (
    Clock,
    Outcome,
    Reference,
    checked,
    find,
    run_stage,
    settings_of,
    slug,
    training_from,
)
from puma_engine.pipeline.stage_progress import CancelCheck, ProgressCallback
from puma_engine.pipeline.stored_prompts import keep_prompts, shape_of
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.datasets import Dataset
    from puma_engine.prompts.tuning import FitResult

Role = Literal["source", "retrained", "random"]
ROLES = ("source", "retrained", "random")
DEFAULT_TEMPLATES = {"rating": "rating-item-first", "click": "click-item-first"}


def fit_prompts(
    ws: Workspace,
    dataset: Reference,
    backbone: Reference | Path,
    *,
    role: Role = "source",
    template: str | None = None,
    training: TrainingConfig | dict[str, Any] | None = None,
    prompt: PromptConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Fit one soft prompt a user of a data set on a frozen backbone.

    role says what the table is for: "source" (what a migration starts from), "retrained" (the
    full retraining that it replaces; the same computation) or "random" (prompts stay as drawn
    and the head alone is trained).
    """
    data = find(ws, dataset, "dataset")
    model = backbone_run(ws, backbone, device=device)
    shape = _shape(prompt)
    facts = data.summary
    usual = prompt_training(int(facts["users"]), facts["task"], items=bool(shape.item_tokens))
    settings = training_from(training, usual, seed)
    config = _config(role, template, data, settings, shape)

    def work(_run_id: str, folder: Path, clock: Clock) -> Outcome:
        frozen = load_backbone(ws, model, device=device, precision=settings.precision)
        interactions = load_dataset(ws, data)
        frozen.forget()
        clock.restart()
        fitted = _fit(
            frozen, interactions, config, settings, shape, folder, progress, should_cancel
        )
        trained = 0 if role == "random" else len(interactions.users)
        return fitted_outcome(ws, fitted, trained)

    return run_stage(
        ws,
        "prompts",
        name=name or slug(role, model.name, data.name),
        config=config,
        inputs={"dataset": data.id, "backbone": model.id},
        seed=settings.seed,
        work=work,
        together=True,
    )


def _config(
    role: str, template: str | None, data: Run, settings: TrainingConfig, shape: PromptConfig
) -> dict[str, Any]:
    if role not in ROLES:
        raise ConfigError(f"There is no role {role!r}; choose one of {', '.join(ROLES)}.")
    return {
        "role": role,
        "template": template or DEFAULT_TEMPLATES[data.summary["task"]],
        "training": settings_of(settings),
        "prompt": shape.to_dict(),
    }


def _shape(given: PromptConfig | dict[str, Any] | None) -> PromptConfig:
    return (
        given if isinstance(given, PromptConfig) else PromptConfig(**checked(PromptConfig, given))
    )


def _fit(
    frozen: FrozenBackbone,
    interactions: Dataset,
    config: dict[str, Any],
    settings: TrainingConfig,
    shape: PromptConfig,
    folder: Path,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> FitResult:
    from puma_engine.prompts import tuning as engine

    return engine.fit_prompts(
        frozen,
        interactions,
        template=config["template"],
        training=settings,
        prompt=shape,
        trainable=config["role"] != "random",
        checkpoint_dir=folder,
        progress=progress,
        should_cancel=should_cancel,
    )


def fitted_outcome(ws: Workspace, fitted: FitResult, users_trained: int) -> Outcome:
    """Return what a fitted or refined table leaves in its run."""
    outcome = training_outcome(fitted.result, users_trained, fitted.flops)
    outcome.summary |= shape_of(fitted.table)
    outcome.keep = lambda run_id: keep_prompts(ws, run_id, fitted.table)
    return outcome


def training_outcome(result: Any, users_trained: int, flops: float) -> Outcome:
    """Return what a training leaves in its run."""
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
    return Outcome(device_name(result.device), cost, summary)


def device_name(device: str) -> str:
    """Return a GPU's product name, or "cpu"."""
    if not str(device).startswith("cuda"):
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name(device))
