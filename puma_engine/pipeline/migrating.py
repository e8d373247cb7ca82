"""Migrations as runs: single, chained over several backbones, aggregated from several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.backbone.templates import Template
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import migration_defaults
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, computing_cost, load_backbone
from puma_engine.pipeline.fitting import training_result
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.selecting import run_selection, selected_users
from puma_engine.pipeline.source_predictions import (
    ARTIFACT,
    check_sources,
    predict_pairs,
    refuse_records,
)
from puma_engine.pipeline.stored_prompts import (
    load_prompts,
    save_adapter,
    save_prompts,
    shape_of,
    template_of_sources,
    template_to_fit,
)
from puma_engine.requests import ChainRequest, MigrationRequest, Missing, training_of
from puma_engine.store import Run, Workspace


def migrate(
    ws: Workspace,
    sources: stage.Reference | Sequence[stage.Reference],
    target: stage.Reference | Path,
    *,
    selection: stage.Reference | None = None,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    dataset: stage.Reference | None = None,
    template: str | None = None,
    chat_template: bool = False,
    training: TrainingConfig | dict[str, Any] | None = None,
    adapter: AdapterConfig | dict[str, Any] | None = None,
    missing: Missing = "mean",
    shuffled: bool = False,
    from_predictions: int = 0,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Move prompts to a target backbone: train an adapter on some users, then map all users.

    sources: one run with prompts or vectors, or a migration, or several to aggregate. The adapter
    is trained on the users of a selection run, of a selection by strategy and budget (or share), or
    on all. chat_template: put the target's own chat template around the text, which is also done if
    the source prompts were read so, unless a given template has chat_template = false. training and adapter override
    `defaults.migration_defaults`. missing: a user whom one of several sources lacks gets its mean
    prompt ("mean") or is left out ("drop"). shuffled: the control in which each user gets the
    source prompt of another. from_predictions: number of random items for each user; the adapter
    learns from the sources' predictions of them, and no record is read (0: it learns from records).
    seed: of the selection, the pairs and the training. Raises MigrationError, SelectionError,
    ConfigError, NotFoundError; BackboneError if a source model is needed and missing.
    """
    request = MigrationRequest.from_arguments(locals())
    return run_migration(ws, request, stage.Execution(device, progress, should_cancel))


def run_migration(ws: Workspace, request: MigrationRequest, execution: stage.Execution) -> Run:
    """Execute a request to migrate; see `migrate`."""
    resolved = _resolve(ws, request, execution)
    several = f"from-{len(resolved.sources)}" if len(resolved.sources) > 1 else None
    trained_on: tuple[str | int, ...] = ("all",)
    if resolved.selection is not None:
        trained_on = (resolved.selection.config["strategy"], resolved.selection.summary["selected"])
    from_pairs = "from-predictions" if resolved.pairs else None
    default_name = stage.slug(
        resolved.config["role"],
        resolved.target.name,
        several,
        *trained_on,
        resolved.data.name,
        from_pairs,
    )

    by_ids = replace(
        request,
        sources=tuple(run.id for run in resolved.sources),
        target=resolved.target.id,
        dataset=resolved.data.id,
        selection=None if resolved.selection is None else resolved.selection.id,
        strategy=None,
        budget=None,
        share=None,
    )

    def compute(_run_id: str, folder: Path, clock: stage.Clock) -> stage.StageResult:
        return _train(ws, resolved, folder, clock, execution)

    return stage.run_stage(
        ws,
        "migration",
        name=request.name or default_name,
        config=resolved.config,
        inputs=resolved.inputs,
        seed=resolved.training.seed,
        compute=compute,
        data_parallel=True,
        remote_compute=execution.remote_compute("migrate", by_ids),
    )


@dataclass(frozen=True)
class _ResolvedMigration:
    """A request to migrate with every default filled in.

    selection: of the users who train the adapter (None: all). pairs: random items for each user
    whose predictions it learns from, 0 for records. config, inputs: hashed for the run's id.
    """

    sources: list[Run]
    data: Run
    target: Run
    selection: Run | None
    template: Template
    training: TrainingConfig
    adapter: AdapterConfig
    missing: Missing
    shuffle_seed: int | None
    pairs: int
    config: dict[str, Any]
    inputs: dict[str, str]


def _resolve(
    ws: Workspace, request: MigrationRequest, execution: stage.Execution
) -> _ResolvedMigration:
    """Look up the runs of a request, and make its selection and the run of the target."""
    sources = [stage.find(ws, source, *stage.PROMPT_KINDS) for source in request.sources]
    data = stage.find(ws, request.dataset or sources[0].inputs["dataset"], "dataset")
    template = template_of_sources(sources, data.summary["task"], request)
    selection, choice, pairs = None, request.selecting(), request.from_predictions
    if request.selection is not None:
        selection = stage.find(ws, request.selection, "selection")
    if pairs:
        check_sources(ws, sources, data, template, pairs)
        if selection is not None:
            refuse_records(str(selection.config["strategy"]))
        elif request.strategy is not None:
            refuse_records(request.strategy)
    if choice is not None:
        selection = run_selection(ws, choice, execution)
    users, trained = int(sources[0].summary["users"]), None
    if selection is not None:
        users, trained = selection.summary["users"], selection.summary["selected"]
    target = backbone_run(ws, request.target, device=execution.device)
    default, network = migration_defaults(data.summary["task"], users, trained)
    training = training_of(default, request.training, request.seed)
    adapter = replace(network, **request.adapter)
    shuffle_seed = training.seed if request.shuffled else None
    config = {
        "role": "shuffled" if request.shuffled else "migrated",
        "training": stage.settings_of(training),
        "adapter": adapter.to_dict(),
        "missing": request.missing,
        "shuffle_seed": shuffle_seed,
    }
    if pairs:
        config["from_predictions"] = pairs
    inputs = {"dataset": data.id, "backbone": target.id}
    inputs |= {f"source_{number}": run.id for number, run in enumerate(sources)}
    if selection is not None:
        inputs["selection"] = selection.id
    template = template_to_fit(ws, "migration", template, config, inputs, training.seed)
    return _ResolvedMigration(
        sources,
        data,
        target,
        selection,
        template,
        training,
        adapter,
        request.missing,  # type: ignore[arg-type]  # the request checked it
        shuffle_seed,
        pairs,
        config | template.to_config(),
        inputs,
    )


def _train(
    ws: Workspace,
    resolved: _ResolvedMigration,
    folder: Path,
    clock: stage.Clock,
    execution: stage.Execution,
) -> stage.StageResult:
    """Train the adapter of a migration and map every user's prompt."""
    from puma_engine.migration.adapter import STORED_BUFFERS
    from puma_engine.migration.adapter_training import train_migration

    training, dataset = resolved.training, load_dataset(ws, resolved.data)
    tables = [load_prompts(ws, run) for run in resolved.sources]
    users = None if resolved.selection is None else selected_users(ws, resolved.selection)
    predicted = None
    if resolved.pairs:
        predicted = predict_pairs(
            ws,
            resolved.sources,
            tables,
            dataset,
            users,
            pairs=resolved.pairs,
            seed=training.seed,
            precision=training.precision,
            folder=folder,
            execution=execution,
        )
        dataset = predicted.dataset
    backbone = load_backbone(
        ws, resolved.target, device=execution.device, precision=training.precision
    )
    if resolved.shuffle_seed is not None:
        tables = [table.shuffled(resolved.shuffle_seed) for table in tables]
    backbone.forget()
    clock.restart()
    if predicted is not None:
        clock.before += predicted.seconds
    migrated = train_migration(
        tables,
        backbone,
        dataset,
        users=users,
        template=resolved.template,
        adapter=resolved.adapter,
        training=training,
        missing=resolved.missing,
        checkpoint_dir=folder,
        **execution.callbacks,
    )
    table, tensors = migrated.table, migrated.adapter_tensors
    result = training_result(migrated.result, int(table.meta["users_trained"]), migrated.flops)
    buffers = STORED_BUFFERS.values()
    learned = [value for name, value in tensors.items() if name not in buffers]
    result.cost |= computing_cost(backbone)
    result.cost["adapter_parameters"] = sum(int(np.size(value)) for value in learned)
    result.summary["users_filled"] = table.meta["users_filled"]
    if predicted is not None:
        result.cost |= predicted.cost
        result.cost["flops"] += predicted.cost["prediction_flops"]

    def save(run_id: str) -> None:
        if predicted is not None:
            ws.put_table(run_id, ARTIFACT, predicted.dataset.interactions)
        save_prompts(ws, run_id, table)
        save_adapter(ws, run_id, tensors, migrated.adapter_meta)
        if migrated.item_adapter is not None:
            ws.put_tensors(run_id, "item_adapter", migrated.item_adapter)

    result.save = save
    result.describe = lambda: shape_of(table)
    return result


def chain(
    ws: Workspace,
    source: stage.Reference,
    targets: Sequence[stage.Reference | Path],
    *,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
    **settings: Any,
) -> list[Run]:
    """Migrate hop after hop: each migrated table is the next hop's source.

    settings: those of `requests.AdapterRequest`, the same at each hop. Users are selected anew at
    each hop from its source prompts. Returns one migration run for each target, in order. Raises
    MigrationError and what `migrate` raises.
    """
    request = ChainRequest.from_dict({"source": source, "targets": targets, **settings})
    return run_chain(ws, request, stage.Execution(device, progress, should_cancel))


def run_chain(ws: Workspace, request: ChainRequest, execution: stage.Execution) -> list[Run]:
    """Execute a request to migrate over several backbones; see `chain`."""
    overall = stage.OverallProgress([1.0] * len(request.targets), execution.progress)
    hops: list[Run] = []
    for number, target in enumerate(request.targets):
        source = hops[-1].id if hops else request.source
        hop = request.hop((source,), target)
        hops.append(run_migration(ws, hop, execution.part(overall, number)))
    return hops
