"""Refining as runs: migrated prompts are fitted further on the target, for a few epochs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.config import TrainingConfig
from puma_engine.errors import ConfigError
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.data import load_dataset
from puma_engine.pipeline.foreseeing import foresee
from puma_engine.pipeline.progress import CancelCheck, ProgressCallback
from puma_engine.pipeline.prompts import training_outcome
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
from puma_engine.pipeline.tables import keep_prompts, load_prompts, shape_of
from puma_engine.settings import REFINING
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts import Fitted


def refine(
    ws: Workspace,
    start: Reference,
    *,
    selection: Reference | None = None,
    share: float | None = None,
    training: TrainingConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Fit migrated prompts further on their own backbone and data set.

    start: a migration run; weight decay pulls every prompt towards where it starts. With a
    selection only its users are refined and the head stays as it is, so that all others are
    predicted as before; share refines so likewise that share of users who will most likely
    regress. Raises NotFoundError, DataError, ConfigError, SelectionError.
    """
    moved = find(ws, start, "migration")
    chosen = _chosen(ws, moved, selection, share, device, progress, should_cancel)
    settings = training_from(training, REFINING, seed)
    template = str(moved.config["template"])
    inputs = {name: moved.inputs[name] for name in ("dataset", "backbone")} | {"start": moved.id}

    def work(_run_id: str, folder: Path, clock: Clock) -> Outcome:
        from puma_engine.prompts import refine_prompts

        frozen = load_backbone(ws, inputs["backbone"], device=device, precision=settings.precision)
        interactions, table = load_dataset(ws, inputs["dataset"]), load_prompts(ws, moved)
        frozen.forget()
        clock.restart()
        how = {"checkpoint_dir": folder, "progress": progress, "should_cancel": should_cancel}
        users = None if chosen is None else selected_users(ws, chosen)
        fitted = refine_prompts(
            frozen, interactions, table, template=template, training=settings, users=users, **how
        )
        return _outcome(ws, fitted)

    return run_stage(
        ws,
        "prompts",
        name=name or slug("refined", moved.name, *([chosen.summary["selected"]] if chosen else [])),
        config={"role": "refined", "template": template, "training": settings_of(settings)},
        inputs=inputs | ({} if chosen is None else {"selection": chosen.id}),
        seed=settings.seed,
        work=work,
        together=True,
    )


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
    return foresee(
        ws, moved, share=share, device=device, progress=progress, should_cancel=should_cancel
    )


def _outcome(ws: Workspace, fitted: Fitted) -> Outcome:
    outcome = training_outcome(fitted.result, int(fitted.table.meta["users_refined"]))
    outcome.summary |= shape_of(fitted.table)
    outcome.keep = lambda run_id: keep_prompts(ws, run_id, fitted.table)
    return outcome
