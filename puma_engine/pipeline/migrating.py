"""Migrations as runs: single, chained over several backbones, aggregated from several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import adapter_shape, adapter_training, small_adapter_training
from puma_engine.errors import ConfigError, MigrationError
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.fitting import training_outcome
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.selecting import select, selected_users
from puma_engine.pipeline.stage import (
    PROMPT_KINDS,
    Clock,
    Outcome,
    Reference,
    adapter_from,
    find,
    run_stage,
    settings_of,
    slug,
    training_from,
)
from puma_engine.pipeline.stage_progress import CancelCheck, Overall, ProgressCallback
from puma_engine.pipeline.stored_prompts import (
    keep_adapter,
    keep_prompts,
    load_prompts,
    shape_of,
    template_of,
)
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.migration.adapter_training import MigrationResult

Missing = Literal["mean", "drop"]
SMALL_SHARE = 0.25


@dataclass(frozen=True)
class _Plan:
    """One migration with every reference resolved."""

    sources: list[Run]
    target: Run
    data: Run
    selection: Run | None
    template: str
    training: TrainingConfig
    adapter: AdapterConfig
    missing: Missing
    shuffle_seed: int | None

    @property
    def config(self) -> dict[str, Any]:
        if self.missing not in ("mean", "drop"):
            raise ConfigError(f"missing must be mean or drop, not {self.missing!r}.")
        return {
            "role": "migrated" if self.shuffle_seed is None else "shuffled",
            "template": self.template,
            "training": settings_of(self.training),
            "adapter": self.adapter.to_dict(),
            "missing": self.missing,
            "shuffle_seed": self.shuffle_seed,
        }

    @property
    def inputs(self) -> dict[str, str]:
        found = {"dataset": self.data.id, "backbone": self.target.id}
        found |= {f"source_{i}": run.id for i, run in enumerate(self.sources)}
        return found if self.selection is None else found | {"selection": self.selection.id}


def migrate(
    ws: Workspace,
    sources: Reference | Sequence[Reference],
    target: Reference | Path,
    *,
    selection: Reference | None = None,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    dataset: Reference | None = None,
    template: str | None = None,
    training: TrainingConfig | dict[str, Any] | None = None,
    adapter: AdapterConfig | dict[str, Any] | None = None,
    missing: Missing = "mean",
    shuffled: bool = False,
    seed: int | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Move prompts to a target backbone: train an adapter on some users, then map everybody.

    sources: one prompts or migration run, or several to aggregate. The adapter is trained
    on the users of a selection run, or of one made here from strategy and budget (or
    share), or on all. missing: a user whom one of several sources lacks gets its mean
    prompt ("mean") or is left out ("drop"). shuffled: the control in which no user keeps
    the own source prompt. Raises MigrationError, SelectionError, ConfigError.
    """
    given = [sources] if isinstance(sources, Run | str) else list(sources)
    if not given:
        raise MigrationError("A migration needs at least one run with source prompts; none came.")
    runs = [find(ws, source, *PROMPT_KINDS) for source in given]
    wish = {"strategy": strategy, "budget": budget, "share": share, "seed": seed or 0}
    chosen = _selection(ws, runs, selection, wish, device, progress, should_cancel)
    data = find(ws, dataset or runs[0].inputs["dataset"], "dataset")
    usual, shape = _usual(runs[0], chosen, data.summary["task"])
    settings = training_from(training, usual, seed)
    plan = _Plan(
        sources=runs,
        target=backbone_run(ws, target, device=device),
        data=data,
        selection=chosen,
        template=template_of(runs[0], template),
        training=settings,
        adapter=adapter_from(adapter, shape),
        missing=missing,
        shuffle_seed=settings.seed if shuffled else None,
    )
    return _run(ws, plan, name, device, progress, should_cancel)


def _selection(
    ws: Workspace,
    sources: list[Run],
    given: Reference | None,
    wish: dict[str, Any],
    device: str | None,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> Run | None:
    """The selection that was named, or one made as wished, or None for all users."""
    if wish["strategy"] is None:
        if wish["budget"] is not None or wish["share"] is not None:
            raise ConfigError("A budget or a share needs a strategy, such as kmeans-variance.")
        return None if given is None else find(ws, given, "selection")
    if given is not None:
        raise ConfigError("Give a selection or a strategy, not both.")
    return select(
        ws,
        sources[0],
        within=sources[1:],
        device=device,
        progress=progress,
        should_cancel=should_cancel,
        **wish,
    )


def _usual(source: Run, selection: Run | None, task: str) -> tuple[TrainingConfig, AdapterConfig]:
    """What a migration takes where nothing is given; few users make few steps an epoch."""
    if selection is None:
        return adapter_training(int(source.summary["users"]), task), adapter_shape(task)
    facts = selection.summary
    few = facts["selected"] < SMALL_SHARE * facts["users"]
    training = small_adapter_training if few else adapter_training
    return training(facts["selected"], task), adapter_shape(task, few=few)


def _run(
    ws: Workspace,
    plan: _Plan,
    name: str | None,
    device: str | None,
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> Run:
    def work(_run_id: str, folder: Path, clock: Clock) -> Outcome:
        from puma_engine.migration.adapter_training import train_migration

        frozen = load_backbone(ws, plan.target, device=device, precision=plan.training.precision)
        dataset = load_dataset(ws, plan.data)
        tables = [load_prompts(ws, run) for run in plan.sources]
        if plan.shuffle_seed is not None:
            tables = [table.shuffled(plan.shuffle_seed) for table in tables]
        frozen.forget()
        clock.restart()
        moved = train_migration(
            tables,
            frozen,
            dataset,
            users=None if plan.selection is None else selected_users(ws, plan.selection),
            template=plan.template,
            adapter=plan.adapter,
            training=plan.training,
            missing=plan.missing,
            checkpoint_dir=folder,
            progress=progress,
            should_cancel=should_cancel,
        )
        return _outcome(ws, moved)

    return run_stage(
        ws,
        "migration",
        name=name or _name(plan),
        config=plan.config,
        inputs=plan.inputs,
        seed=plan.training.seed,
        work=work,
        together=True,
    )


def _outcome(ws: Workspace, moved: MigrationResult) -> Outcome:
    from puma_engine.migration.adapter import STORED_BUFFERS

    outcome = training_outcome(moved.result, int(moved.table.meta["users_trained"]), moved.flops)
    buffers = STORED_BUFFERS.values()
    learned = [value for name, value in moved.adapter_tensors.items() if name not in buffers]
    outcome.cost["adapter_parameters"] = sum(int(np.size(value)) for value in learned)
    outcome.summary |= shape_of(moved.table)
    outcome.summary["users_filled"] = moved.table.meta["users_filled"]

    def keep(run_id: str) -> None:
        keep_prompts(ws, run_id, moved.table)
        keep_adapter(ws, run_id, moved.adapter_tensors, moved.adapter_meta)
        if moved.item_adapter is not None:
            ws.put_tensors(run_id, "item_adapter", moved.item_adapter)

    outcome.keep = keep
    return outcome


def _name(plan: _Plan) -> str:
    who = "all"
    if plan.selection is not None:
        who = slug(plan.selection.config["strategy"], plan.selection.summary["selected"])
    role = "migrated" if plan.shuffle_seed is None else "shuffled"
    several = f"from-{len(plan.sources)}" if len(plan.sources) > 1 else None
    return slug(role, plan.target.name, several, who, plan.data.name)


def chain(
    ws: Workspace,
    source: Reference,
    targets: Sequence[Reference | Path],
    *,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    dataset: Reference | None = None,
    template: str | None = None,
    training: TrainingConfig | dict[str, Any] | None = None,
    adapter: AdapterConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> list[Run]:
    """Migrate hop after hop: each migrated table is the next hop's source.

    Users are selected anew at each hop from the prompts it starts from. Returns one
    migration run a target, in order.
    """
    if not targets:
        raise MigrationError("A chain needs at least one target backbone; none came.")
    overall = Overall([1.0] * len(targets), progress)
    hops: list[Run] = []
    for number, target in enumerate(targets):
        hops.append(
            migrate(
                ws,
                hops[-1] if hops else source,
                target,
                strategy=strategy,
                budget=budget,
                share=share,
                dataset=dataset,
                template=template,
                training=training,
                adapter=adapter,
                seed=seed,
                device=device,
                progress=overall.part(number),
                should_cancel=should_cancel,
            )
        )
    return hops
