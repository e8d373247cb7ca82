"""Imported prompts as runs: checked, joined by user id, and with a task head."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puma_engine.backbone.templates import Template, get_template
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import DEFAULT_TEMPLATES, fit_defaults
from puma_engine.errors import BackboneError, ConfigError, DataError
from puma_engine.exchange.prompt_file import PromptFile
from puma_engine.exchange.prompt_formats import content_hash, read_prompts
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, fingerprints, load_backbone
from puma_engine.pipeline.fitting import device_name
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.importing_vectors import import_vectors
from puma_engine.pipeline.stored_prompts import save_prompts, shape_of, template_to_fit
from puma_engine.requests import Role
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.datasets import Dataset
    from puma_engine.prompts.table import PromptTable
    from puma_engine.prompts.tuning import FitResult

LOG = logging.getLogger(__name__)


def import_prompts(
    ws: Workspace,
    dataset: stage.Reference,
    backbone: stage.Reference | Path | None,
    path: str | Path,
    *,
    users: str | Path | None = None,
    tokens: int | None = None,
    items: str | Path | None = None,
    item_ids: str | Path | None = None,
    vector_columns: str | None = None,
    head: Literal["auto", "none"] = "auto",
    role: Role = "source",
    template: str | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Import prompts that were fitted elsewhere, or vectors of any origin, in any format of `exchange`.

    backbone: the model that the prompts were fitted on, in the same version. None for vectors that no
    language model made, see `import_vectors`; items and item_ids belong to those. Prompts must hold
    every user of the data set; other users are left out. users: a file that names the user of each
    row, where the table does not. tokens: soft tokens of each user, where rows are flat. vector_columns:
    which columns of a table are numbers of the vectors, see `exchange.prompt_formats.read_prompts`.
    head: "auto" keeps the head of a file that `export_prompts` wrote; prompts of another program have
    none that fits, so one is trained on the data set's train rows while the prompts stay fixed. "none"
    imports the prompts without a head; they can be migrated but not evaluated. The run's seconds are
    those of the fitting that the file records. Raises DataError, BackboneError, StoreError,
    ConfigError.
    """
    if head not in ("auto", "none"):
        raise ConfigError(f"head must be auto or none, not {head!r}.")
    if backbone is None:
        if (head, role, template) != ("auto", "source", None):
            raise ConfigError(
                "Vectors without a backbone have no head, role or template; leave these out, or name the "
                "backbone of prompts with --backbone."
            )
        return import_vectors(
            ws,
            dataset,
            path,
            users=users,
            tokens=tokens,
            items=items,
            item_ids=item_ids,
            vector_columns=vector_columns,
            name=name,
        )
    if items is not None or item_ids is not None:
        raise ConfigError(
            "Vectors of items are imported beside vectors of users, without --backbone; prompts of a "
            "model bring none."
        )
    execution = stage.Execution(device, progress, should_cancel)
    data, model = stage.find(ws, dataset, "dataset"), backbone_run(ws, backbone, device=device)
    file = read_prompts(path, users=users, tokens=tokens, vector_columns=vector_columns)
    config: dict[str, Any] = {"role": role, "imported": content_hash(path, users)}
    if vector_columns is not None:
        config["vector_columns"] = vector_columns
    training = _head_training(file, data) if head == "auto" else None
    if training is not None:
        config["head_training"] = stage.settings_of(training)
    elif head == "none" and (file.head is not None or not file.complete):
        config["head"] = "none"
        file = replace(file, head=None)
    inputs, seed = {"dataset": data.id, "backbone": model.id}, file.meta.get("seed")
    fitted_with = _template_of(file, data.summary["task"], template)
    if fitted_with is None:
        fitted_with = get_template(template or DEFAULT_TEMPLATES[data.summary["task"]])
        fitted_with = template_to_fit(ws, "prompts", fitted_with, config, inputs, seed)

    def compute(run_id: str, folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.prompts.table import PromptTable

        _check_model(ws, file, model, path)
        interactions = load_dataset(ws, data)
        vectors = _vectors_of(file, interactions.users, path)
        table = PromptTable(interactions.users, vectors, file.head, {"imported": Path(path).name})
        count = len(file.user_ids)
        cost = {"users_trained": count, "fitting_seconds": file.meta.get("seconds")}
        summary = {"imported_users_in_file": count, "command": file.meta.get("command")}
        summary["fitted_on"] = file.meta.get("device")
        result = stage.StageResult("cpu", cost, summary)
        if training is not None:
            frozen = load_backbone(ws, model, device=device, precision=training.precision)
            clock.restart()
            fitted = _fit_head(
                frozen, interactions, table, fitted_with, training, folder, execution
            )
            table = fitted.table
            result.device = device_name(fitted.result.device)
            result.summary["head_validation"] = fitted.result.best_validation
        save_prompts(ws, run_id, table)
        result.summary["head"] = table.head is not None
        result.describe = lambda: shape_of(table)
        return result

    return stage.run_stage(
        ws,
        "prompts",
        name=name or stage.slug(role, model.name, data.name),
        config=config | fitted_with.to_config(),
        inputs=inputs,
        seed=seed,
        compute=compute,
    )


def _head_training(file: PromptFile, data: Run) -> TrainingConfig | None:
    """Return the settings with which a head is trained; None for a file of ours that has one."""
    if file.complete and file.head is not None:
        return None
    return fit_defaults(data.summary["task"], int(data.summary["users"]))


def _fit_head(
    backbone: FrozenBackbone,
    interactions: Dataset,
    table: PromptTable,
    template: Template,
    training: TrainingConfig,
    folder: Path,
    execution: stage.Execution,
) -> FitResult:
    """Train a head for prompts that stay as they are. folder: of the checkpoints."""
    from puma_engine.prompts.tuning import fit_prompts

    return fit_prompts(
        backbone,
        interactions,
        template=template,
        training=training,
        prompt=PromptConfig(tokens=table.tokens),
        trainable=False,
        start=table,
        checkpoint_dir=folder,
        **execution.callbacks,
    )


def _template_of(file: PromptFile, task: str, override: str | None) -> Template | None:
    """Return the template that a file names, as those of this program do; None without one.

    override: another template to read the prompts with.
    """
    if not (file.complete or file.meta.get("template")):
        return None
    fitted = Template.from_config({"template": DEFAULT_TEMPLATES[task]} | file.meta)
    return fitted.replaced_by(override) if override else fitted


def _check_model(ws: Workspace, file: PromptFile, model: Run, path: str | Path) -> None:
    """Raise BackboneError for prompts of another width, or of another version of the model."""
    if file.vectors.shape[2] != model.summary["width"]:
        raise BackboneError(
            f"The prompts of {path} have dimension {file.vectors.shape[2]}, but {model.name} has "
            f"{model.summary['width']}; name the backbone they were fitted on."
        )
    fingerprint = file.meta.get("backbone", {}).get("fingerprint")
    if fingerprint and fingerprint not in fingerprints(ws, model):
        raise BackboneError(
            f"The prompts of {path} were fitted on another version of {model.name}; fit "
            "them again, or restore that version."
        )
    named = file.meta.get("base_model")
    if not fingerprint and named and Path(str(named)).name != Path(model.config["spec"]).name:
        LOG.warning(
            "The prompts of %s say that they were fitted on %s; they are imported as those of %s.",
            path,
            named,
            model.name,
        )


def _vectors_of(file: PromptFile, users: np.ndarray, path: str | Path) -> np.ndarray:
    row_of = {user: row for row, user in enumerate(file.user_ids)}
    missing = [user for user in users.tolist() if user not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(users)} users have no prompt in {path} (first: {missing[0]!r}); "
            "import a smaller set of users, or fit the prompts."
        )
    return file.vectors[[row_of[user] for user in users.tolist()]]
