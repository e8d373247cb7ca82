"""Refining as runs: migrated prompts are fitted further on the target, for a few epochs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import refining
from puma_engine.errors import ConfigError
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.fitting import fitted_outcome
from puma_engine.pipeline.importing_data import load_dataset, task_of
from puma_engine.pipeline.predicting_regressions import predict_regressions
from puma_engine.pipeline.selecting import selected_users
from puma_engine.pipeline.stage import (
    Clock,
    Outcome,
    Reference,
    find,
    run_stage,
    settings_of,
    slug,
    training_from,
)
from puma_engine.pipeline.stage_progress import CancelCheck, ProgressCallback
from puma_engine.pipeline.stored_prompts import load_prompts
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    import numpy as np


def refine(
    ws: Workspace,
    start: Reference,
    *,
    selection: Reference | None = None,
    share: float | None = None,
    item_tokens: int = 0,
    training: TrainingConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Fit migrated prompts further on their own backbone and data set.

    start: a migration run, where weight decay pulls every prompt to. With a selection only its
    users are refined and the head stays, so all others are predicted as before; share takes those
    who will most likely regress. item_tokens: of soft prompts of items, fitted too. Raises
    NotFoundError, DataError, ConfigError, SelectionError.
    """
    moved = find(ws, start, "migration")
    _check_items(item_tokens, selection, share)
    chosen = _chosen(ws, moved, selection, share, device, progress, should_cancel)
    settings = training_from(training, _usual(ws, moved, chosen, item_tokens), seed)
    how: dict[str, Any] = {"progress": progress, "should_cancel": should_cancel}
    how |= {"template": str(moved.config["template"]), "training": settings}
    how |= {"prompt": PromptConfig(item_tokens=item_tokens), "users": _users(ws, chosen)}
    inputs = _inputs(moved, chosen)

    def work(_run_id: str, folder: Path, clock: Clock) -> Outcome:
        from puma_engine.migration.refining import refine_prompts

        frozen = load_backbone(ws, inputs["backbone"], device=device, precision=settings.precision)
        interactions, table = load_dataset(ws, inputs["dataset"]), load_prompts(ws, moved)
        frozen.forget()
        clock.restart()
        fitted = refine_prompts(frozen, interactions, table, checkpoint_dir=folder, **how)
        return fitted_outcome(ws, fitted, int(fitted.table.meta["users_refined"]))

    return run_stage(
        ws,
        "prompts",
        name=name or _name(moved, chosen),
        config=_config(how["template"], settings, item_tokens),
        inputs=inputs,
        seed=settings.seed,
        work=work,
        together=True,
    )


def _users(ws: Workspace, chosen: Run | None) -> np.ndarray | None:
    return None if chosen is None else selected_users(ws, chosen)


def _usual(ws: Workspace, moved: Run, chosen: Run | None, item_tokens: int) -> TrainingConfig:
    users = int(chosen.summary["selected"] if chosen else moved.summary["users"])
    return refining(users, task_of(ws, moved), items=bool(item_tokens))


def _inputs(moved: Run, chosen: Run | None) -> dict[str, str]:
    found = {name: moved.inputs[name] for name in ("dataset", "backbone")} | {"start": moved.id}
    return found if chosen is None else found | {"selection": chosen.id}


def _name(moved: Run, chosen: Run | None) -> str:
    return slug("refined", moved.name, *([chosen.summary["selected"]] if chosen else []))


def _check_items(item_tokens: int, selection: Reference | None, share: float | None) -> None:
    if item_tokens and not (selection is None and share is None):
        raise ConfigError(
            "Prompts of items change what every user is predicted, so they cannot be fitted while some "
            "users are refined alone; leave out the selection or the share, or --item-tokens."
        )


def _config(template: str, settings: TrainingConfig, item_tokens: int) -> dict[str, Any]:
    found = {"role": "refined", "template": template, "training": settings_of(settings)}
    return found | ({"item_tokens": item_tokens} if item_tokens else {})


def _chosen(
    ws: Workspace,
    moved: Run,
    selection: Reference | None,
    share: float | None,
    device: str | None,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> Run | None:
    """The selection that was named, or that of the share at risk, or None for everybody."""
    if share is None:
        return None if selection is None else find(ws, selection, "selection")
    if selection is not None:
        raise ConfigError("Give a selection or a share of users to refine, not both.")
    return predict_regressions(
        ws, moved, share=share, device=device, progress=progress, should_cancel=should_cancel
    )
