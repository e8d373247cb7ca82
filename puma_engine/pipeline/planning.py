"""Plans: the stages of a migration, and their predicted costs from measurements in the workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any

from puma_engine.backbone.templates import Template, template_label
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import (
    DEFAULT_TEMPLATES,
    EARLY_STOPPING_USERS,
    fit_defaults,
    held_out_pairs,
    migration_defaults,
)
from puma_engine.errors import NotFoundError
from puma_engine.evaluation import cost_model
from puma_engine.evaluation.cost_model import CostPrediction, MeasuredRun
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import list_zoo
from puma_engine.pipeline.evaluating import is_of_prompts_alone
from puma_engine.pipeline.fitting import find_fit
from puma_engine.pipeline.source_predictions import refuse_records
from puma_engine.pipeline.stored_prompts import (
    has_model,
    item_settings,
    model_of,
    template_of,
    template_of_sources,
)
from puma_engine.requests import FitRequest, PlanRequest, Role, training_of
from puma_engine.store import Run, Workspace


@dataclass(frozen=True)
class PlanSettings:
    """A plan's settings with every default filled in.

    users: number in the data set; trained: number who train the adapter at each hop. sources:
    existing runs with source prompts; fit_on: backbones on which more are fitted first, as run ids,
    or as named if they are not in the workspace; data: the data set; training and adapter: of each
    hop; retraining: of the full retraining that the plan is compared with. template: of every
    training. predicted_pairs: number of pairs that each source predicts for a hop, if adapters
    learn from predictions.
    """

    sources: list[Run]
    fit_on: tuple[str, ...]
    data: Run
    users: int
    trained: int
    training: TrainingConfig
    adapter: AdapterConfig
    retraining: TrainingConfig
    template: Template
    item_prompts: dict[str, Any]
    predicted_pairs: int = 0

    @property
    def item_tokens(self) -> int:
        return int(self.item_prompts.get("item_tokens", 0))


@dataclass(frozen=True)
class Costs:
    """Predicted costs of retraining and of a migration; None where nothing comparable was measured."""

    retraining: CostPrediction | None
    migration: CostPrediction | None
    break_even: int | None
    users: int
    trained: int


def plan_settings(ws: Workspace, request: PlanRequest) -> PlanSettings:
    """Fill in the settings that a plan leaves open, as its migrations will. Raises NotFoundError, StoreError.

    Only users whom every source and the data set have can train an adapter. If it learns from
    predictions, the data set need not have them; then a strategy that reads records raises
    ConfigError.
    """
    sources = [stage.find(ws, source, *stage.PROMPT_KINDS) for source in request.sources]
    data = stage.find(ws, request.dataset or sources[0].inputs["dataset"], "dataset")
    task, users = data.summary["task"], int(data.summary["users"])
    # Prompts that are fitted first include every user of the data set.
    of_sources = [int(source.summary["users"]) for source in sources]
    of_sources += [users] * len(request.fit_on)
    candidates = min(of_sources)
    if not request.from_predictions:
        candidates = min(users, candidates)
    elif request.strategy is not None:
        refuse_records(request.strategy)
    if request.strategy is None:
        trained = candidates
        population, budget = of_sources[0], None
    else:
        share = 1.0 if request.share is None else request.share
        trained = request.budget or max(1, round(share * candidates))
        trained = min(trained, candidates)
        population, budget = candidates, trained
    default, network = migration_defaults(task, population, budget)
    item_prompts = item_settings(ws, sources[0]) if sources else {}
    retraining = fit_defaults(task, users, item_tokens=item_prompts.get("item_tokens", 0))
    return PlanSettings(
        sources,
        tuple(model_id(ws, model) for model in request.fit_on),
        data,
        users,
        trained,
        training_of(default, request.training, request.seed),
        replace(network, **request.adapter),
        training_of(retraining, request.retraining, request.seed),
        template_of_sources(sources, task, request),
        item_prompts,
        _predicted_pairs(request.from_predictions, trained, candidates),
    )


def _predicted_pairs(pairs: int, trained: int, candidates: int) -> int:
    """Return the number of pairs that a source predicts for a hop: to learn from, and held out."""
    held_out = trained if trained == candidates else min(EARLY_STOPPING_USERS, candidates)
    return pairs and trained * pairs + held_out * held_out_pairs(pairs)


def teachers(plan: PlanSettings, models: Sequence[str]) -> list[tuple[str, Template]]:
    """Return the backbones that predict pairs for a plan over these models, in order.

    Each is an id and the template with which it predicts; a source's prompts have their own.
    """
    if not plan.predicted_pairs:
        return []
    sources = [(model_of(source), template_of(source)) for source in plan.sources]
    return [*sources, *((model, plan.template) for model in (*plan.fit_on, *models[:-1]))]


def model_id(ws: Workspace, reference: str) -> str:
    """Return the id of a backbone's run, or the reference itself if it is not in the workspace.

    A path or a hub id stands for the newest run that was added from it.
    """
    try:
        return stage.look_up(ws, reference, "backbone").id
    except NotFoundError:
        specs = (reference, str(Path(reference).expanduser().resolve()))
        added = (run for run in ws.runs("backbone") if run.config.get("spec") in specs)
        return next((run.id for run in added), reference)


def measured_trainings(
    ws: Workspace, kind: str, backbone: str, device: str, item_tokens: int = 0
) -> list[MeasuredRun]:
    """Return the measured costs of finished trainings on a model and device. kind: prompts or migration.

    Calibrations of the same kind are included. item_tokens: of each item; trainings with item
    prompts take longer.
    """
    work = "migration" if kind == "migration" else "retraining"
    measurements = []
    for run in [*ws.runs(kind, "finished"), *ws.runs("calibration", "finished")]:
        if run.kind == "calibration":
            fits = run.config["way"] == work
        else:  # fitting source prompts is the same computation as full retraining
            fits = kind == "migration" or run.config.get("role") in ("source", "retrained")
        same_setup = run.inputs.get("backbone") == backbone and run.device == device
        comparable = (run.summary.get("item_tokens") or 0) == item_tokens
        if fits and same_setup and comparable and run.cost.get("training_seconds"):
            measurements.append(_measured(run))
    return measurements


def _measured(run: Run) -> MeasuredRun:
    cost, short = run.cost, run.kind == "calibration"
    sources = sum(role.startswith("source_") for role in run.inputs)
    return MeasuredRun(
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
        _other_load(run),
        template=_template_key(run.config),
    )


def _template_key(config: Mapping[str, Any]) -> str:
    """Return a label of the text around an example, which the work depends on: template and chat template."""
    return template_label({key: config.get(key) for key in ("template", "chat_template")})


def _other_load(run: Run) -> float:
    """Return the share of the cores that other processes used; 0 where it was not measured."""
    return float(run.cost.get("cores_of_others", 0.0)) / int(run.cost.get("cores") or 1)


def _prediction_seconds(run: Run) -> float:
    names = ("prediction_item_seconds", "prediction_pair_seconds")
    return sum(float(run.cost.get(name, 0.0)) for name in names)


def measured_predictions(ws: Workspace, backbone: str, device: str) -> list[MeasuredRun]:
    """Return the measured costs of predicting random pairs on a model and device.

    They come from migrations from one source and from calibrations.
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
            MeasuredRun(
                run.id,
                run.name,
                device,
                batch_size=0,
                epochs=1,
                examples=int(run.cost["predicted_pairs"]),
                training_seconds=float(run.cost["prediction_pair_seconds"]),
                seconds=_prediction_seconds(run),
                short=short,
                other_load=_other_load(run),
                items=int(run.cost["predicted_items"]),
                template=_template_key(model.config),
            )
        )
    return measurements


def devices(ws: Workspace) -> list[str]:
    """Return the devices on which trainings were measured, the most recent first."""
    runs = [
        run for kind in ("migration", "prompts", "calibration") for run in ws.runs(kind, "finished")
    ]
    trained = [run for run in runs if run.cost.get("training_seconds") and run.device]
    trained.sort(key=lambda run: run.created, reverse=True)
    return list(dict.fromkeys(str(run.device) for run in trained))


def costs(
    ws: Workspace,
    sources: stage.Reference | Sequence[stage.Reference] = (),
    targets: stage.Reference | Sequence[stage.Reference] = (),
    *,
    device: str | None = None,
    **settings: Any,
) -> Costs:
    """Predict a migration over targets (several are a chain) and retraining on the last one.

    settings: those of `run_plan`; a budget or share needs no strategy here. device: cpu or the name
    of a GPU, as in runs (None: that of the newest training). Selection and evaluation are left out,
    since the first is short and the second is the same for both. Raises ConfigError, NotFoundError.
    """
    if isinstance(settings.get("adapter"), TrainingConfig):  # the name of earlier versions
        settings["training"] = settings.pop("adapter")
    if (settings.get("budget"), settings.get("share")) != (None, None):
        settings.setdefault("strategy", "random")
    request = PlanRequest.from_dict({"sources": sources, "targets": targets, **settings})
    return predict_costs(ws, request, device)


def predict_costs(ws: Workspace, request: PlanRequest, device: str | None = None) -> Costs:
    """Predict the costs of a plan and of the retraining that it replaces; see `costs`.

    Fitting source prompts is left out, since it is not part of a migration.
    """
    settings = plan_settings(ws, request)
    device = device or next(iter(devices(ws)), "cpu")
    users, trained = settings.users, settings.trained
    models = [model_id(ws, target) for target in request.targets]
    hops = _predict_hops(ws, request, settings, models, device)
    known = [hop for hop in hops if hop is not None]
    migration = reduce(CostPrediction.plus, known) if len(known) == len(hops) else None
    retraining = _predict_retraining(ws, settings, models[-1], device)
    break_even = None
    if retraining and migration:
        break_even = cost_model.break_even(
            retraining.seconds, users, migration.seconds, all_train=trained == users
        )
    return Costs(retraining, migration, break_even, users, trained)


def _train_rows(settings: PlanSettings) -> float:
    return float(settings.data.summary["splits"].get("train", 0))


def _predict_fit(
    ws: Workspace,
    settings: PlanSettings,
    training: TrainingConfig,
    model: str,
    device: str,
    item_tokens: int = 0,
) -> CostPrediction | None:
    """Predict fitting a prompt of every user on a model, and of every item if item_tokens > 0."""
    return cost_model.predict_training_time(
        _train_rows(settings),
        training.epochs,
        training.batch_size,
        measured_trainings(ws, "prompts", model, device, item_tokens),
        0,
        _template_key(settings.template.to_config()),
    )


def _predict_retraining(
    ws: Workspace, settings: PlanSettings, model: str, device: str
) -> CostPrediction | None:
    """Predict the full retraining on a model."""
    return _predict_fit(ws, settings, settings.retraining, model, device, settings.item_tokens)


def _predict_hops(
    ws: Workspace, request: PlanRequest, settings: PlanSettings, models: list[str], device: str
) -> list[CostPrediction | None]:
    """Predict each hop: its adapter, and the predictions that it learns from."""
    rows = request.from_predictions or _train_rows(settings) / settings.users
    hops = [
        cost_model.predict_training_time(
            rows * settings.trained,
            settings.training.epochs,
            settings.training.batch_size,
            measured_trainings(ws, "migration", model, device, settings.item_tokens),
            len(request.origins) if number == 0 else 1,
            _template_key(settings.template.to_config()),
        )
        for number, model in enumerate(models)
    ]
    pairs = settings.predicted_pairs
    items = min(int(settings.data.summary["items"]), pairs)
    of_sources = len(request.origins)
    for number, (teacher, template) in enumerate(teachers(settings, models)):
        reading = cost_model.predict_inference_time(
            pairs,
            items,
            measured_predictions(ws, teacher, device),
            _template_key(template.to_config()),
        )
        # The teachers of the first hop are its sources, the teacher of a later hop is the model before it.
        hop = max(0, number - of_sources + 1)
        before = hops[hop]
        hops[hop] = before.plus(reading) if before is not None and reading is not None else None
    return hops


@dataclass(frozen=True)
class PlanStage:
    """One stage of a plan.

    kind: model (adding it), fit, migrate, retrain, evaluate or compare. model: the backbone, as the
    request names it, "" for none. prediction: of its seconds; None if nothing comparable was
    measured. work: its arithmetic in rows times parameters, the weight of stages that were not
    measured.
    """

    kind: str
    model: str
    title: str
    prediction: CostPrediction | None
    work: float


# Arithmetic of a training step against that of a prediction: forward, and backward by both operands.
_TRAINING = 3.0
# Resampling users takes little time compared with predicting their rows.
_COMPARING = 0.1


def plan_stages(
    ws: Workspace, request: PlanRequest, device: str | None = None
) -> tuple[PlanStage, ...]:
    """Return the stages of a plan in order, with their predicted times on a device.

    device: as in `costs`. Raises what `plan_settings` raises.
    """
    settings = plan_settings(ws, request)
    device = device or next(iter(devices(ws)), "cpu")
    models = [model_id(ws, target) for target in request.targets]
    rows, users = _train_rows(settings), settings.users
    tested = float(settings.data.summary["splits"].get("test", 0))
    task = settings.data.summary["task"]
    # Vectors without a model are not evaluated; prompts are read in the template of their fit.
    origins = [
        (model_of(source), template_of(source)) for source in settings.sources if has_model(source)
    ]
    origins += [(model, settings.template) for model in settings.fit_on]
    stages = []

    def add(
        kind: str, model_name: str, title: str, seconds: CostPrediction | None, work: float
    ) -> None:
        stages.append(PlanStage(kind, model_name, title, seconds, work))

    for model in dict.fromkeys((*settings.fit_on, *models)):
        if _run_of(ws, model) is None:
            add("model", model, f"Add {_name(ws, model)}", None, rows * _parameters(ws, model) / 10)
    for named, model in zip(request.fit_on, settings.fit_on, strict=True):
        title = f"Fit source prompts on {_name(ws, model)}"
        fitted = training_of(fit_defaults(task, users), {}, request.seed)
        work = _TRAINING * rows * fitted.epochs * _parameters(ws, model)
        add("fit", named, title, _predict_fit(ws, settings, fitted, model, device), work)
    trained_rows = (request.from_predictions or rows / users) * settings.trained
    hops = _predict_hops(ws, request, settings, models, device)
    for named, model, hop in zip(request.targets, models, hops, strict=True):
        title = f"Migrate to {_name(ws, model)}, {settings.trained:,} users train it"
        work = _TRAINING * trained_rows * settings.training.epochs * _parameters(ws, model)
        add("migrate", named, title, hop, work)
    requested = requested_retraining(ws, request, settings, models[-1])
    other = None if requested else other_retraining(ws, request, settings, models[-1])
    if request.retrain and requested is None:
        title = f"Retrain all {users:,} users on {_name(ws, models[-1])}"
        work = _TRAINING * rows * settings.retraining.epochs * _parameters(ws, models[-1])
        seconds = _predict_retraining(ws, settings, models[-1], device)
        add("retrain", request.targets[-1], title, seconds, work)
    compared = request.retrain or requested is not None or other is not None
    target = (models[-1], settings.template)
    scored = [target, *origins, target] if compared else [target]
    evaluations = [_predict_evaluation(ws, *method, tested, device) for method in scored]
    known = [item for item in evaluations if item is not None]
    add(
        "evaluate",
        "",
        f"Evaluate {len(scored)} methods on held-out records" if compared else "Evaluate it",
        reduce(CostPrediction.plus, known) if len(known) == len(evaluations) else None,
        sum(tested * _parameters(ws, model) for model, _ in scored),
    )
    if compared:
        work = _COMPARING * tested * _parameters(ws, models[-1])
        title = "Compare with full retraining: the verdict"
        if other is not None:
            title = f"Compare with {other.name}, a full retraining with other settings: the verdict"
        add("compare", "", title, None, work)
    return tuple(stages)


def _run_of(ws: Workspace, model: str) -> Run | None:
    """Return the finished run of a backbone; None if it must be added first."""
    try:
        run = stage.look_up(ws, model, "backbone")
    except NotFoundError:
        return None
    return run if run.status == "finished" else None


def _name(ws: Workspace, model: str) -> str:
    run = _run_of(ws, model)
    return Path(model).name if run is None else run.name


def _parameters(ws: Workspace, model: str) -> float:
    """Return the number of parameters of a backbone; for an unknown one, that of the smallest shipped model."""
    run = _run_of(ws, model)
    if run is not None:
        return float(run.summary["parameters"])
    shipped = {row["name"]: float(row["parameters"]) for row in list_zoo() if row["built"]}
    return shipped.get(model, min(shipped.values(), default=1.0))


def _predict_evaluation(
    ws: Workspace, model: str, template: Template, rows: float, device: str
) -> CostPrediction | None:
    """Predict the time of evaluating `rows` rows on a model, from evaluations of prompts on it.

    Those with the same template are preferred.
    """
    in_template, all_rates = [], []
    for run in ws.runs("evaluation", "finished"):
        count = int(run.summary.get("rows") or 0)
        if run.device != device or not count or not run.seconds or not is_of_prompts_alone(run):
            continue
        if ws.run(run.inputs["prompts"]).inputs.get("backbone") == model:
            all_rates.append(run.seconds / count)
            if _template_key(run.config) == _template_key(template.to_config()):
                in_template.append(run.seconds / count)
    rates = in_template or all_rates
    if not rates:
        return None
    return CostPrediction(
        rows * median(rates),
        rows * min(rates),
        rows * max(rates),
        evidence=(),
        other_batches=False,
        other_templates=not in_template,
    )


def fit_request(
    request: PlanRequest, settings: PlanSettings, backbone: str, role: Role
) -> FitRequest:
    """Return a plan's request to fit prompts on a backbone, as source or as full retraining."""
    template = settings.template.spec
    retrained = role == "retrained"
    return FitRequest(
        dataset=settings.data.id,
        backbone=backbone,
        role=role,
        # Defaults are left open, so that the request equals the one that `fit_prompts` builds.
        template=None if template == DEFAULT_TEMPLATES[settings.data.summary["task"]] else template,
        training=request.retraining if retrained else {},
        prompt=settings.item_prompts if retrained else {},
        seed=request.seed,
    )


def requested_retraining(
    ws: Workspace, request: PlanRequest, settings: PlanSettings, model: str
) -> Run | None:
    """Return the finished run of a plan's full retraining, or None."""
    backbone = _run_of(ws, model)
    if backbone is None:
        return None
    return find_fit(ws, fit_request(request, settings, backbone.id, "retrained"), backbone)


def other_retraining(
    ws: Workspace, request: PlanRequest, settings: PlanSettings, model: str
) -> Run | None:
    """Return a finished full retraining with other settings for the comparison of a plan, or None.

    It is only used if the plan names neither a retraining nor settings of one. It has the plan's
    model, data, template and number of item prompts; the newest with the plan's seed is preferred,
    then the newest.
    """
    backbone = _run_of(ws, model)
    if backbone is None or request.retrain or request.retraining:
        return None
    template = template_label(settings.template.to_config())
    others = [
        run
        for run in ws.runs("prompts", "finished")
        if _retrains(run, backbone.id, settings.data.id, template, settings.item_tokens)
    ]
    return min(others, key=lambda run: run.seed != settings.retraining.seed, default=None)


def _retrains(run: Run, model: str, data: str, template: str, item_tokens: int) -> bool:
    """Return whether a run is a full retraining of this kind. template: its `template_label`."""
    return (
        run.config.get("role") == "retrained"
        and (run.inputs.get("backbone"), run.inputs.get("dataset")) == (model, data)
        and template_label(run.config) == template
        and (run.summary.get("item_tokens") or 0) == item_tokens
    )


def replaces(migration: Run, run: Run) -> bool:
    """Return whether a run is a full retraining that a migration replaces.

    It has the same model, data, template and number of item prompts.
    """
    model, data = migration.inputs["backbone"], migration.inputs["dataset"]
    items = migration.summary.get("item_tokens") or 0
    return _retrains(run, model, data, template_label(migration.config), items)
