"""Prompt tables as runs: fitting them on a backbone, and bringing ready ones in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.errors import BackboneError, ConfigError, DataError
from puma_engine.imports import PromptFile, content_hash
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.data import load_dataset
from puma_engine.pipeline.progress import CancelCheck, ProgressCallback
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
from puma_engine.pipeline.tables import keep_prompts, read_prompt_file, shape_of
from puma_engine.settings import PROMPT_TRAINING
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.datasets import Dataset
    from puma_engine.prompts import Fitted, PromptTable

HeadChoice = Literal["auto", "none"]
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

    role says what the table is for: "source" (what a migration starts from), "retrained"
    (the full retraining that a migration replaces) or "random" (prompts stay as drawn and
    the head alone is trained). Source and retrained are the same computation.
    """
    data = find(ws, dataset, "dataset")
    model = backbone_run(ws, backbone, device=device)
    settings = training_from(training, PROMPT_TRAINING, seed)
    shape = _shape(prompt)
    config = _config(role, template, data, settings, shape)

    def work(_run_id: str, folder: Path, clock: Clock) -> Outcome:
        frozen = load_backbone(ws, model, device=device, precision=settings.precision)
        interactions = load_dataset(ws, data)
        frozen.forget()
        clock.restart()
        fitted = _fit(
            frozen, interactions, config, settings, shape, folder, progress, should_cancel
        )
        outcome = training_outcome(fitted.result, len(interactions.users) * (role != "random"))
        outcome.summary |= shape_of(fitted.table)
        outcome.keep = lambda run_id: keep_prompts(ws, run_id, fitted.table)
        return outcome

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
) -> Fitted:
    from puma_engine import prompts as engine

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


def training_outcome(result: Any, users_trained: int) -> Outcome:
    """Return what a training leaves in its run."""
    cost = {
        "training_seconds": result.seconds,
        "steps": result.steps,
        "examples": result.examples,
        "epochs": len(result.history),
        "users_trained": users_trained,
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


def import_prompts(
    ws: Workspace,
    dataset: Reference,
    backbone: Reference | Path,
    path: str | Path,
    *,
    users: str | Path | None = None,
    tokens: int | None = None,
    head: HeadChoice = "auto",
    role: Role = "source",
    template: str | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Bring in prompts that were fitted elsewhere, in any form that `imports` reads.

    They must come from the same version of the backbone and hold every user of the data
    set; users beyond those are left out. users: a file that names each row's user, where
    the table does not. head: a table from elsewhere has no head of ours, so one is trained
    on the data set's train rows, prompts as they are ("auto"); "none" leaves it out, and
    such prompts can be migrated but not scored. The run's seconds are those of the fitting
    that the file records. Raises DataError, BackboneError, StoreError.
    """
    if head not in ("auto", "none"):
        raise ConfigError(f"head must be auto or none, not {head!r}.")
    data = find(ws, dataset, "dataset")
    model = backbone_run(ws, backbone, device=device)
    file = read_prompt_file(path, users=users, tokens=tokens)
    wording = template or file.meta.get("template") or DEFAULT_TEMPLATES[data.summary["task"]]
    config: dict[str, Any] = {
        "role": role,
        "template": wording,
        "imported": content_hash(path, users),
    }
    fit_head = head == "auto" and not (file.complete and file.head is not None)
    if fit_head:
        config["head_training"] = settings_of(PROMPT_TRAINING)
    elif not file.complete:
        config["head"] = "none"

    def work(_run_id: str, folder: Path, clock: Clock) -> Outcome:
        from puma_engine.prompts import PromptTable

        _check_origin(file, model, path)
        every = load_dataset(ws, data).users
        vectors = _vectors_of(file, every, path)
        known = file.head if file.complete or fit_head else None
        table = PromptTable(every, vectors, known, {"imported": Path(path).name})
        outcome = _imported_outcome(file)
        if fit_head:
            train = _head_trainer(ws, data, model, wording, device, folder, progress, should_cancel)
            clock.restart()
            fitted = train(table)
            table = fitted.table
            outcome.device = training_outcome(fitted.result, 0).device
            outcome.summary["head_validation"] = fitted.result.best_validation
        keep_prompts(ws, _run_id, table)
        outcome.summary |= shape_of(table) | {"head": table.head is not None}
        return outcome

    return run_stage(
        ws,
        "prompts",
        name=name or slug(role, model.name, data.name),
        config=config,
        inputs={"dataset": data.id, "backbone": model.id},
        seed=file.meta.get("seed"),
        work=work,
    )


def _head_trainer(
    ws: Workspace,
    data: Run,
    model: Run,
    template: str,
    device: str | None,
    folder: Path,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> Callable[[PromptTable], Fitted]:
    """Load what training a head alone needs; return the training."""
    from puma_engine import prompts as engine

    frozen = load_backbone(ws, model, device=device, precision=PROMPT_TRAINING.precision)
    interactions = load_dataset(ws, data)

    def train(table: PromptTable) -> Fitted:
        return engine.fit_prompts(
            frozen,
            interactions,
            template=template,
            training=PROMPT_TRAINING,
            prompt=PromptConfig(tokens=table.tokens),
            trainable=False,
            start=table,
            checkpoint_dir=folder,
            progress=progress,
            should_cancel=should_cancel,
        )

    return train


def _check_origin(file: PromptFile, model: Run, path: str | Path) -> None:
    width = model.summary["width"]
    if file.vectors.shape[2] != width:
        raise BackboneError(
            f"The prompts of {path} have dimension {file.vectors.shape[2]}, but {model.name} has "
            f"{width}; name the backbone they were fitted on."
        )
    made_on = file.meta.get("backbone", {}).get("fingerprint")
    if made_on and made_on != model.config["fingerprint"]:
        raise BackboneError(
            f"The prompts of {path} were fitted on another version of {model.name}; fit "
            "them again, or restore that version."
        )


def _vectors_of(file: PromptFile, users: np.ndarray, path: str | Path) -> np.ndarray:
    row_of = {user: row for row, user in enumerate(file.user_ids)}
    lost = [user for user in users.tolist() if user not in row_of]
    if lost:
        raise DataError(
            f"{len(lost)} of the {len(users)} users have no prompt in {path} (first: {lost[0]!r}); "
            "import a smaller set of users, or fit the prompts."
        )
    return file.vectors[[row_of[user] for user in users.tolist()]]


def _imported_outcome(file: PromptFile) -> Outcome:
    cost = {"users_trained": len(file.user_ids), "fitting_seconds": file.meta.get("seconds")}
    summary = {
        "imported_users_in_file": len(file.user_ids),
        "command": file.meta.get("command"),
        "fitted_on": file.meta.get("device"),
    }
    return Outcome("cpu", cost, summary)
