"""Prompts from elsewhere as runs: checked, joined by user id, and given a head of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import DEFAULT_TEMPLATES, fit_defaults
from puma_engine.errors import BackboneError, ConfigError, DataError
from puma_engine.exchange.prompt_file import PromptFile
from puma_engine.exchange.prompt_formats import content_hash, read_prompts
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.fitting import device_name
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stage import (
    Clock,
    Outcome,
    Reference,
    find,
    run_stage,
    settings_of,
    slug,
)
from puma_engine.pipeline.stage_progress import CancelCheck, ProgressCallback
from puma_engine.pipeline.stored_prompts import keep_prompts, shape_of
from puma_engine.requests import Role
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.table import PromptTable
    from puma_engine.prompts.tuning import FitResult

HeadChoice = Literal["auto", "none"]


@dataclass(frozen=True)
class _Import:
    """One import with every reference resolved; head_from: "file", "training" or "none"."""

    ws: Workspace
    data: Run
    model: Run
    file: PromptFile
    path: str | Path
    template: str
    head_from: str
    device: str | None
    progress: ProgressCallback | None
    should_cancel: CancelCheck | None

    @property
    def head_training(self) -> TrainingConfig:
        return fit_defaults(self.data.summary["task"], int(self.data.summary["users"]))

    def config(self, role: str, users: str | Path | None) -> dict[str, Any]:
        found: dict[str, Any] = {
            "role": role,
            "template": self.template,
            "imported": content_hash(self.path, users),
        }
        if self.head_from == "training":
            found["head_training"] = settings_of(self.head_training)
        elif not self.file.complete:
            found["head"] = "none"
        return found

    def work(self, run_id: str, folder: Path, clock: Clock) -> Outcome:
        from puma_engine.prompts.table import PromptTable

        _check_origin(self.file, self.model, self.path)
        every = load_dataset(self.ws, self.data).users
        vectors = _vectors_of(self.file, every, self.path)
        head = None if self.head_from == "none" else self.file.head
        table = PromptTable(every, vectors, head, {"imported": Path(self.path).name})
        outcome = _imported_outcome(self.file)
        if self.head_from == "training":
            fitted = self._with_head(table, folder, clock)
            table = fitted.table
            outcome.device = device_name(fitted.result.device)
            outcome.summary["head_validation"] = fitted.result.best_validation
        keep_prompts(self.ws, run_id, table)
        outcome.summary |= shape_of(table) | {"head": table.head is not None}
        return outcome

    def _with_head(self, table: PromptTable, folder: Path, clock: Clock) -> FitResult:
        from puma_engine.prompts import tuning as engine

        training = self.head_training
        frozen = load_backbone(
            self.ws, self.model, device=self.device, precision=training.precision
        )
        interactions = load_dataset(self.ws, self.data)
        clock.restart()
        return engine.fit_prompts(
            frozen,
            interactions,
            template=self.template,
            training=training,
            prompt=PromptConfig(tokens=table.tokens),
            trainable=False,
            start=table,
            checkpoint_dir=folder,
            progress=self.progress,
            should_cancel=self.should_cancel,
        )


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
    data, model = find(ws, dataset, "dataset"), backbone_run(ws, backbone, device=device)
    file = read_prompts(path, users=users, tokens=tokens)
    wording = template or file.meta.get("template") or DEFAULT_TEMPLATES[data.summary["task"]]
    ours = "file" if file.complete else "none"
    origin = "training" if head == "auto" and (ours == "none" or file.head is None) else ours
    plan = _Import(ws, data, model, file, path, wording, origin, device, progress, should_cancel)
    return run_stage(
        ws,
        "prompts",
        name=name or slug(role, model.name, data.name),
        config=plan.config(role, users),
        inputs={"dataset": data.id, "backbone": model.id},
        seed=file.meta.get("seed"),
        work=plan.work,
    )


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
