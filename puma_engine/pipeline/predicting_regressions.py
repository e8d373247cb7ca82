"""Predict which users will regress: those whose migrated prompts fit worse than their source prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from puma_engine.errors import MigrationError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import load_prompts, model_of, template_of
from puma_engine.requests import check_share
from puma_engine.store import Run, Workspace

REGRESSING = "regressing"


def predict_regressions(
    ws: Workspace,
    migration: stage.Reference,
    *,
    share: float,
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Select the users who will most likely regress, before anything is retrained.

    The risk of a user is the mean loss of the train rows with the migrated prompts minus that with
    the source prompts (the mean of several). share: of the users whom all these tables have, in (0,
    1]. Returns a selection run, whose table also holds the losses. Raises SelectionError,
    MigrationError; DataError for prompts without a head.
    """
    moved = stage.find(ws, migration, "migration")
    check_share(share)
    sources = [
        stage.find(ws, run, *stage.PROMPT_KINDS)
        for role, run in moved.inputs.items()
        if "source_" in role
    ]
    for source in sources:
        model_of(source)
    execution = stage.Execution(device, progress, should_cancel)

    def compute(run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.evaluation.prediction import user_losses
        from puma_engine.pipeline.fitting import device_name
        from puma_engine.training.device import resolve_device

        clock.restart()
        dataset = load_dataset(ws, moved.inputs["dataset"])
        users = dataset.users
        for run in (moved, *sources):
            users = np.intersect1d(users, load_prompts(ws, run).user_ids)
        if not len(users):
            raise MigrationError(
                f"No user of {moved.name!r} is in its data set and in every source."
            )
        dataset, losses = dataset.for_users(users), []
        for run in (moved, *sources):
            execution.announce(f"measuring train losses of {run.name}")
            backbone = load_backbone(ws, model_of(run), device=device)
            table = load_prompts(ws, run)
            values = user_losses(backbone, table, dataset, template=template_of(run))
            losses.append(pd.Series(values[table.rows_of(users)], users))
        frame = ranked(losses[0], sum(losses[1:]) / len(sources), share)
        ws.put_table(run_id, "selection", frame)
        summary = {"strategy": REGRESSING, "selected": int(frame["selected"].sum())}
        used = device_name(resolve_device(device))
        return stage.StageResult(used, {}, summary | {"users": len(frame), "report": {}})

    return stage.run_stage(
        ws,
        "selection",
        name=name or stage.slug(REGRESSING, share, moved.name),
        config={"strategy": REGRESSING, "budget": None, "share": share},
        inputs={"prompts": moved.id},
        compute=compute,
    )


def ranked(migrated: pd.Series, source: pd.Series, share: float) -> pd.DataFrame:
    """Rank users by how much their loss grew, the largest growth first.

    migrated and source: losses by user id. share: of users to select. Returns columns user_id,
    source_loss, migrated_loss, risk, selected (True for the first share).
    """
    frame = pd.DataFrame({"source_loss": source, "migrated_loss": migrated})
    frame = frame.rename_axis("user_id").reset_index().sort_values("user_id")
    frame["risk"] = frame["migrated_loss"] - frame["source_loss"]
    frame = frame.sort_values("risk", ascending=False, kind="stable", ignore_index=True)
    return frame.assign(selected=np.arange(len(frame)) < max(1, round(share * len(frame))))
