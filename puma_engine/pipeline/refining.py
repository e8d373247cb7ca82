"""Refined prompts as runs: migrated prompts that are fitted further on the target for a few epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.defaults import refine_defaults
from puma_engine.errors import ConfigError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, computing_cost, load_backbone
from puma_engine.pipeline.fitting import fitted_result
from puma_engine.pipeline.importing_data import load_dataset, task_of
from puma_engine.pipeline.predicting_regressions import predict_regressions
from puma_engine.pipeline.selecting import selected_users
from puma_engine.pipeline.stored_prompts import check_width, load_prompts, model_of, template_of
from puma_engine.requests import RefineRequest, training_of
from puma_engine.store import Run, Workspace


def refine(
    ws: Workspace,
    start: stage.Reference,
    *,
    backbone: stage.Reference | Path | None = None,
    template: str | None = None,
    selection: stage.Reference | None = None,
    share: float | None = None,
    item_tokens: int = 0,
    training: TrainingConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Fit migrated prompts further on their own backbone and data set.

    start: a migration run; weight decay pulls every prompt towards it. backbone, template: another
    version of its model, such as other weights of the same width, or another template: prompts of
    any kind are then fitted further for it, without a migration. With a selection only its
    users are refined and the head stays fixed, so predictions for all others do not change; share
    refines the users who will most likely regress, in (0, 1]. item_tokens: soft prompt tokens of
    each item, fitted too. training overrides `defaults.refine_defaults`. Raises NotFoundError,
    DataError, ConfigError, SelectionError.
    """
    request = RefineRequest.from_arguments(locals())
    return run_refining(ws, request, stage.Execution(device, progress, should_cancel))


def run_refining(ws: Workspace, request: RefineRequest, execution: stage.Execution) -> Run:
    """Execute a request to refine prompts; see `refine`."""
    kinds = stage.PROMPT_KINDS if request.reuses else ("migration",)
    start = stage.find(ws, request.start, *kinds)
    model = ws.run(model_of(start))
    if request.backbone is not None:
        model = backbone_run(ws, request.backbone, device=execution.device)
        check_width(start, model)
    template = template_of(start, request.template)
    if start.kind != "migration" and model.id == model_of(start) and template == template_of(start):
        raise ConfigError(
            f"The prompts of {start.name!r} were fitted on {model.name} and in the template {template.name} "
            "already; give another model or template, or refine a migration."
        )
    item_tokens = int(start.summary.get("item_tokens", 0))
    if item_tokens and request.item_tokens not in (0, item_tokens):
        raise ConfigError(
            f"The run {start.name!r} has item prompts of {item_tokens} tokens, which are fitted further, not of "
            f"{request.item_tokens}; leave out item_tokens."
        )
    chosen = None
    if request.share is not None:
        chosen = predict_regressions(
            ws, start, share=request.share, device=execution.device, **execution.callbacks
        )
    elif request.selection is not None:
        chosen = stage.find(ws, request.selection, "selection")
    refined = chosen.summary["selected"] if chosen else None
    users = int(start.summary["users"] if refined is None else refined)
    default = refine_defaults(task_of(ws, start), users, item_tokens=request.item_tokens)
    settings = training_of(default, request.training, request.seed)
    config: dict[str, Any] = {
        "role": "refined",
        "training": stage.settings_of(settings),
    }
    config |= template.to_config()
    if request.item_tokens:
        config["item_tokens"] = request.item_tokens
    changed = [] if request.backbone is None else ["on", model.name]
    if request.template is not None:
        changed += ["in", template.name]
    inputs = {"dataset": start.inputs["dataset"], "backbone": model.id, "start": start.id}
    if chosen is not None:
        inputs["selection"] = chosen.id

    def compute(_run_id: str, folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.migration.refining import refine_prompts

        backbone = load_backbone(
            ws, inputs["backbone"], device=execution.device, precision=settings.precision
        )
        dataset, table = load_dataset(ws, inputs["dataset"]), load_prompts(ws, start)
        backbone.forget()
        clock.restart()
        fitted = refine_prompts(
            backbone,
            dataset,
            table,
            template=template,
            training=settings,
            prompt=PromptConfig(item_tokens=request.item_tokens),
            users=None if chosen is None else selected_users(ws, chosen),
            checkpoint_dir=folder,
            **execution.callbacks,
        )
        result = fitted_result(ws, fitted, int(fitted.table.meta["users_refined"]))
        result.cost |= computing_cost(backbone)
        return result

    by_ids = replace(
        request,
        start=start.id,
        backbone=model.id if request.backbone is not None else None,
        selection=None if chosen is None else chosen.id,
        share=None,
    )
    return stage.run_stage(
        ws,
        "prompts",
        name=request.name or stage.slug("refined", start.name, refined, *changed),
        config=config,
        inputs=inputs,
        seed=settings.seed,
        compute=compute,
        data_parallel=True,
        remote_compute=execution.remote_compute("refine", by_ids),
    )
