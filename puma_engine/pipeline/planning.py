"""Plans: what a migration would cost by the workspace's own measurements, and executing one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from puma_engine.backbone.templates import Template
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import (
    EARLY_STOPPING_USERS,
    fit_defaults,
    held_out_pairs,
    migration_defaults,
)
from puma_engine.evaluation import cost_model
from puma_engine.evaluation.cost_model import Measured, Prediction
from puma_engine.pipeline import stage
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.evaluating import run_evaluation
from puma_engine.pipeline.migrating import run_chain, run_migration
from puma_engine.pipeline.source_predictions import refuse_records
from puma_engine.pipeline.stored_prompts import (
    has_model,
    model_of,
    template_of,
    template_of_sources,
)
from puma_engine.requests import ChainRequest, EvaluationRequest, PlanRequest, training_of
from puma_engine.store import Run, Workspace


@dataclass(frozen=True)
class PlanSettings:
    """A plan's settings with every default filled in.

    users: of the data set; trained: those who train the adapter at each hop. sources: the runs with
    source prompts; data: the data set; training and adapter: of each hop; retraining: of the full
    retraining that the plan is measured against. template: of every training. predicted_pairs: those
    that each source predicts for a hop, where adapters learn from predictions.
    """

    sources: list[Run]
    data: Run
    users: int
    trained: int
    training: TrainingConfig
    adapter: AdapterConfig
    retraining: TrainingConfig
    template: Template
    predicted_pairs: int = 0


@dataclass(frozen=True)
class Costs:
    """Predicted costs of retraining and of a migration; None where nothing comparable was measured."""

    retraining: Prediction | None
    migration: Prediction | None
    break_even: int | None
    users: int
    trained: int


def plan_settings(ws: Workspace, request: PlanRequest) -> PlanSettings:
    """Fill in what a plan leaves open, as its migrations will. Raises NotFoundError, StoreError.

    Only users whom every source and the data set have can train an adapter; where it learns from
    predictions, all whom every source has. Raises ConfigError for a strategy that reads records then.
    """
    sources = [stage.find(ws, source, *stage.PROMPT_KINDS) for source in request.sources]
    data = stage.find(ws, request.dataset or sources[0].inputs["dataset"], "dataset")
    task, users = data.summary["task"], int(data.summary["users"])
    candidates = min(int(source.summary["users"]) for source in sources)
    if not request.from_predictions:
        candidates = min(users, candidates)
    elif request.strategy is not None:
        refuse_records(request.strategy)
    if request.strategy is None:
        trained = candidates
        default, network = migration_defaults(task, int(sources[0].summary["users"]))
    else:
        share = 1.0 if request.share is None else request.share
        trained = request.budget or max(1, round(share * candidates))
        trained = min(trained, candidates)
        default, network = migration_defaults(task, candidates, trained)
    return PlanSettings(
        sources,
        data,
        users,
        trained,
        training_of(default, request.training, request.seed),
        replace(network, **request.adapter),
        training_of(fit_defaults(task, users), request.retraining),
        template_of_sources(sources, task, request.template),
        _predicted_pairs(request.from_predictions, trained, candidates),
    )


def _predicted_pairs(pairs: int, trained: int, candidates: int) -> int:
    """Return the pairs that a source predicts for a hop: those to learn from, and held-out ones."""
    held_out = trained if trained == candidates else min(EARLY_STOPPING_USERS, candidates)
    return pairs and trained * pairs + held_out * held_out_pairs(pairs)


def teachers(plan: PlanSettings, models: Sequence[str]) -> list[tuple[str, Template]]:
    """Return the backbones that predict pairs for a plan over these models, in order.

    Each is an id and the template with which it predicts: a source's prompts keep their own.
    """
    if not plan.predicted_pairs:
        return []
    sources = [(model_of(source), template_of(source)) for source in plan.sources]
    return [*sources, *((model, plan.template) for model in models[:-1])]


def measured(ws: Workspace, kind: str, backbone: str, device: str) -> list[Measured]:
    """Return what finished trainings on a model and device took: kind prompts or migration.

    Calibrations of the same kind of training are among them.
    """
    way = "migration" if kind == "migration" else "retraining"
    measurements = []
    for run in [*ws.runs(kind, "finished"), *ws.runs("calibration", "finished")]:
        if run.kind == "calibration":
            fits = run.config["way"] == way
        else:  # fitting source prompts is the same computation as full retraining
            fits = kind == "migration" or run.config.get("role") in ("source", "retrained")
        here = run.inputs.get("backbone") == backbone and run.device == device
        # Item prompts take longer, and no plan has any.
        comparable = not run.summary.get("item_tokens")
        if fits and here and comparable and run.cost.get("training_seconds"):
            measurements.append(_measured(run))
    return measurements


def _measured(run: Run) -> Measured:
    cost, short = run.cost, run.kind == "calibration"
    sources = sum(role.startswith("source_") for role in run.inputs)
    return Measured(
        run.id,
        run.name,
        str(run.device),
        int(run.config["training"]["batch_size"]),
        int(cost["epochs"]),
        int(cost["examples"]),
        float(cost["training_seconds"]),
        float(run.seconds or 0.0) - _prediction_seconds(run),
        len(run.config.get("widths", ())) if short else sources,
        short,
        _share_of_others(run),
        template=str(run.config["template"]),
    )


def _share_of_others(run: Run) -> float:
    """Return the share of the cores that other processes used; 0 where it was not measured."""
    return float(run.cost.get("cores_of_others", 0.0)) / int(run.cost.get("cores") or 1)


def _prediction_seconds(run: Run) -> float:
    names = ("prediction_item_seconds", "prediction_pair_seconds")
    return sum(float(run.cost.get(name, 0.0)) for name in names)


def measured_predictions(ws: Workspace, backbone: str, device: str) -> list[Measured]:
    """Return what predictions of random pairs took on a model and device.

    They are those of migrations from one source, and of calibrations.
    """
    measurements = []
    for run in [*ws.runs("migration", "finished"), *ws.runs("calibration", "finished")]:
        if not run.cost.get("predicted_pairs") or run.device != device or "source_1" in run.inputs:
            continue
        short = run.kind == "calibration"
        model = run if short else ws.run(run.inputs["source_0"])
        if model.inputs.get("backbone") != backbone:
            continue
        measurements.append(
            Measured(
                run.id,
                run.name,
                device,
                batch_size=0,
                epochs=1,
                examples=int(run.cost["predicted_pairs"]),
                training_seconds=float(run.cost["prediction_pair_seconds"]),
                seconds=_prediction_seconds(run),
                short=short,
                others=_share_of_others(run),
                items=int(run.cost["predicted_items"]),
                template=str(model.config["template"]),
            )
        )
    return measurements


def devices(ws: Workspace) -> list[str]:
    """Return the devices on which trainings were measured, that of the newest run first."""
    runs = [
        run for kind in ("migration", "prompts", "calibration") for run in ws.runs(kind, "finished")
    ]
    trained = [run for run in runs if run.cost.get("training_seconds") and run.device]
    trained.sort(key=lambda run: run.created, reverse=True)
    return list(dict.fromkeys(str(run.device) for run in trained))


def costs(
    ws: Workspace,
    sources: stage.Reference | Sequence[stage.Reference],
    targets: stage.Reference | Sequence[stage.Reference],
    *,
    device: str | None = None,
    **settings: Any,
) -> Costs:
    """Predict a migration over targets (several are a chain) and retraining on the last one.

    settings: those of `run_plan`, filled in as it does; a budget or share needs no strategy here.
    device: cpu or the name of a GPU, as runs record it (None: that of the newest training).
    Selection and evaluation are left out: the first is short, the second is the same for both.
    Raises ConfigError, NotFoundError.
    """
    if isinstance(settings.get("adapter"), TrainingConfig):  # the name of earlier versions
        settings["training"] = settings.pop("adapter")
    if (settings.get("budget"), settings.get("share")) != (None, None):
        settings.setdefault("strategy", "random")
    request = PlanRequest.from_dict({"sources": sources, "targets": targets, **settings})
    return predict_costs(ws, request, device)


def predict_costs(ws: Workspace, request: PlanRequest, device: str | None = None) -> Costs:
    """Predict what a plan and the retraining that it replaces would take; see `costs`."""
    settings = plan_settings(ws, request)
    device = device or next(iter(devices(ws)), "cpu")
    users, trained = settings.users, settings.trained
    rows = settings.data.summary["splits"].get("train", 0) / users
    models = [stage.look_up(ws, target, "backbone").id for target in request.targets]
    hops = [
        cost_model.predict(
            (request.from_predictions or rows) * trained,
            settings.training.epochs,
            settings.training.batch_size,
            measured(ws, "migration", model, device),
            len(settings.sources),
            settings.template.name,
        )
        for model in models
    ]
    pairs = settings.predicted_pairs
    items = min(int(settings.data.summary["items"]), pairs)
    hops += [
        cost_model.predict_reading(
            pairs, items, measured_predictions(ws, teacher, device), template.name
        )
        for teacher, template in teachers(settings, models)
    ]
    known = [hop for hop in hops if hop is not None]
    migration = reduce(Prediction.plus, known) if len(known) == len(hops) else None
    retraining = cost_model.predict(
        rows * users,
        settings.retraining.epochs,
        settings.retraining.batch_size,
        measured(ws, "prompts", models[-1], device),
        0,
        settings.template.name,
    )
    break_even = None
    if retraining and migration:
        break_even = cost_model.break_even(
            retraining.seconds, users, migration.seconds, all_train=trained == users
        )
    return Costs(retraining, migration, break_even, users, trained)


def run_plan(
    ws: Workspace,
    sources: stage.Reference | Sequence[stage.Reference],
    targets: stage.Reference | Sequence[stage.Reference],
    *,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    dataset: stage.Reference | None = None,
    template: str | None = None,
    training: TrainingConfig | dict[str, Any] | None = None,
    adapter: AdapterConfig | dict[str, Any] | None = None,
    from_predictions: int = 0,
    retraining: TrainingConfig | dict[str, Any] | None = None,
    seed: int | None = None,
    predicted: dict[str, Any] | None = None,
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Migrate, evaluate, and compare with a finished full retraining if there is one.

    One source and one target are a single migration, several targets a chain, several sources an
    aggregation. strategy, budget (or share), training, adapter and from_predictions are those of `migrate`;
    retraining only changes what `costs` predicts. predicted: the expected seconds, for the estimate
    of the time left. name: that of the comparison. Returns the comparison, or the evaluation where there is nothing to compare
    with. Raises what `migrate` raises.
    """
    request = PlanRequest.from_arguments(locals())
    migrating = evaluating = execution = stage.Execution(device, progress, should_cancel)
    seconds = float(request.predicted.get("seconds") or 0.0)
    if seconds:
        # A guess: evaluating is a pass over a smaller split. It corrects itself as time goes by.
        overall = stage.OverallProgress([seconds, 0.25 * seconds], execution.progress)
        migrating, evaluating = execution.part(overall, 0), execution.part(overall, 1)
    if len(request.targets) > 1:
        settings = request.adapter_settings()
        hops = ChainRequest(source=request.sources[0], targets=request.targets, **settings)
        migration = run_chain(ws, hops, migrating)[-1]
    else:
        hop = request.hop(request.sources, request.targets[0])
        migration = run_migration(ws, hop, migrating)

    def score(run: Run) -> Run:
        return run_evaluation(ws, EvaluationRequest(subject=run.id), evaluating)

    evaluation = score(migration)
    runs = ws.runs(kind="prompts", status="finished")
    retrained = next((run for run in runs if replaces(migration, run)), None)
    if retrained is None:
        return evaluation
    originals = [stage.find(ws, source, *stage.PROMPT_KINDS) for source in request.sources]
    scores = [score(run) for run in (*filter(has_model, originals), retrained)]
    methods = [*scores, evaluation]
    name = name or stage.slug("plan", migration.name)
    return compare(ws, methods, reference=scores[-1], name=name, should_cancel=should_cancel)


def replaces(migration: Run, run: Run) -> bool:
    """Return whether a run is the full retraining that a migration replaces.

    It has the same model and data, and item prompts if the migration has some.
    """
    same = all(run.inputs.get(role) == migration.inputs[role] for role in ("backbone", "dataset"))
    same &= run.summary.get("item_tokens") == migration.summary.get("item_tokens")
    return same and run.config.get("role") == "retrained"
