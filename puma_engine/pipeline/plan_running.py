"""Run plans: from a data set or existing prompts to a comparison with retraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.errors import StoreError
from puma_engine.pipeline import stage
from puma_engine.pipeline.anchors import is_cheap, run_anchors
from puma_engine.pipeline.backbones import backbone_run
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.evaluating import run_evaluation
from puma_engine.pipeline.fitting import device_name, run_fit
from puma_engine.pipeline.migrating import run_migration
from puma_engine.pipeline.planning import (
    PlanStage,
    fit_request,
    other_retraining,
    plan_settings,
    plan_stages,
    requested_retraining,
)
from puma_engine.pipeline.stored_prompts import has_model
from puma_engine.requests import AnchorRequest, EvaluationRequest, PlanRequest
from puma_engine.store import Run, Workspace


def run_plan(
    ws: Workspace,
    sources: stage.Reference | Sequence[stage.Reference] = (),
    targets: stage.Reference | Sequence[stage.Reference] = (),
    *,
    fit_on: stage.Reference | Sequence[stage.Reference] = (),
    retrain: bool = False,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    dataset: stage.Reference | None = None,
    template: str | None = None,
    chat_template: bool = False,
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
    """Migrate, evaluate, and compare with full retraining.

    One source and one target are a single migration, several targets a chain, several sources an
    aggregation. sources: runs with prompts; fit_on: backbones on which source prompts of the data
    set are fitted first. retrain: also fit the full retraining on the last target, unless that run
    exists. Without retrain, the comparison is with an existing retraining: that of this request or,
    if retraining is not given, one with other settings and the same template. strategy, budget (or
    share), chat_template, training, adapter and from_predictions are those of `migrate`; retraining
    overrides the settings of the full retraining. predicted: the seconds that were predicted when
    the plan was launched, stored with its job. name: of the comparison. Returns the comparison, or
    the evaluation if there is nothing to compare with. Raises what `migrate` and `fit_prompts`
    raise.
    """
    request = PlanRequest.from_arguments(locals())
    return execute_plan(ws, request, stage.Execution(device, progress, should_cancel))


def execute_plan(ws: Workspace, request: PlanRequest, execution: stage.Execution) -> Run:
    """Execute a plan; see `run_plan`."""
    stages = plan_stages(ws, request, _device_name(execution.device))
    overall = stage.OverallProgress(_parts(stages), execution.progress)
    steps = _Steps(ws, request, stages)
    result: Any = None
    for number, item in enumerate(stages):
        result = overall.do(number, execution, steps.of(item))
    return result[0] if isinstance(result, list) else result


class _Steps:
    """The computation of each stage of a plan, and the runs so far."""

    def __init__(self, ws: Workspace, request: PlanRequest, stages: Sequence[PlanStage]) -> None:
        self.ws, self.request = ws, request
        self.settings = plan_settings(ws, request)
        self.compared = any(item.kind == "compare" for item in stages)
        self.sources = [source.id for source in self.settings.sources]
        self.scored = [source.id for source in self.settings.sources if has_model(source)]
        self.hops: list[Run] = []
        self.retrained: Run | None = None
        self.evaluations: list[Run] = []

    def of(self, item: PlanStage) -> Callable[[stage.Execution], Run | list[Run]]:
        """Return the work of a stage."""
        work = getattr(self, f"_{item.kind}")
        return lambda part: work(item.model, part)

    def _model(self, model: str, part: stage.Execution) -> Run:
        part.announce(f"adding the model {model}")
        return backbone_run(self.ws, model, device=part.device)

    def _fit(self, model: str, part: stage.Execution) -> Run:
        run = run_fit(self.ws, fit_request(self.request, self.settings, model, "source"), part)
        self.sources.append(run.id)
        self.scored.append(run.id)
        return run

    def _migrate(self, model: str, part: stage.Execution) -> Run:
        start = (self.hops[-1].id,) if self.hops else tuple(self.sources)
        self.hops.append(run_migration(self.ws, self.request.hop(start, model), part))
        return self.hops[-1]

    def _retrain(self, model: str, part: stage.Execution) -> Run:
        fitting = fit_request(self.request, self.settings, model, "retrained")
        self.retrained = run_fit(self.ws, fitting, part)
        return self.retrained

    def _evaluate(self, _subject: str, part: stage.Execution) -> list[Run]:
        subjects = [self.hops[-1].id]
        if self.compared:
            arguments = (self.ws, self.request, self.settings, self.hops[-1].inputs["backbone"])
            # It existed when the stages were planned, or one of them made it.
            retrained = (
                self.retrained or requested_retraining(*arguments) or other_retraining(*arguments)
            )
            if retrained is None:
                raise StoreError(
                    "The full retraining to compare with was deleted, or was made on other files of the "
                    "model; run the plan again with retrain (--retrain)."
                )
            subjects += [*self.scored, retrained.id]
        # Behaviour is compared between models, so it needs the anchor items of more than one.
        with_anchors = [run for run in subjects if self.compared and is_cheap(self.ws, run)]
        overall = stage.OverallProgress([1.0] * len(subjects + with_anchors), part.progress)
        for number, run in enumerate(with_anchors, start=len(subjects)):
            run_anchors(self.ws, AnchorRequest(prompts=run), part.part(overall, number))
        self.evaluations = [
            run_evaluation(self.ws, EvaluationRequest(subject=run), part.part(overall, number))
            for number, run in enumerate(subjects)
        ]
        return self.evaluations

    def _compare(self, _subject: str, part: stage.Execution) -> Run:
        return compare(
            self.ws,
            self.evaluations,
            reference=self.evaluations[-1],
            baselines=self.request.retrain,
            name=self.request.name or stage.slug("plan", self.hops[-1].name),
            **part.callbacks,
        )


def _parts(stages: Sequence[PlanStage]) -> list[stage.Part]:
    """Return the stages as parts, weighted by predicted seconds, or by arithmetic if those are unknown.

    Arithmetic is converted to seconds with the speed of the measured stages.
    """
    known = [item for item in stages if item.prediction is not None]
    seconds = sum(item.prediction.seconds for item in known if item.prediction)
    work = sum(item.work for item in known)
    pace = seconds / work if seconds and work else 1.0
    return [
        stage.Part(item.title, item.prediction.seconds)
        if item.prediction is not None
        else stage.Part(item.title, item.work * pace, measured=False)
        for item in stages
    ]


def _device_name(device: str | None) -> str:
    """Return the device as runs record it."""
    from puma_engine.training.device import resolve_device

    return device_name(resolve_device(device))
