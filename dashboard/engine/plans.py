"""Plans: what can be migrated, what it would cost, launching it, and what it took."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from dashboard import engine
from dashboard.engine import Job, Run
from dashboard.engine.models import named_models
from puma_engine import jobs as engine_jobs
from puma_engine.defaults import PAIRS_PER_USER
from puma_engine.errors import ConfigError
from puma_engine.evaluation.cost_model import money
from puma_engine.jobs import find_devices
from puma_engine.pipeline import importing_data, planning
from puma_engine.pipeline.planning import Costs, PlanSettings, PlanStage
from puma_engine.pipeline.selecting import asks_model
from puma_engine.pipeline.source_predictions import WITHOUT_RECORDS
from puma_engine.pipeline.stored_prompts import has_model
from puma_engine.requests import PlanRequest
from puma_engine.training.device import device_memory

__all__ = ["PAIRS_PER_USER", "WITHOUT_RECORDS", "Costs", "asks_model", "money"]
COMMANDS = ("run_plan", "carry_out")  # the second is how an earlier version named it
CALIBRATION = "calibrate"


@dataclass(frozen=True)
class Plan:
    """A migration as it is put together on the page; all ids are checked when it is launched.

    topology: single, chain or merge. sources: runs with prompts; fit_on: models on which source
    prompts of the data set are fitted first; models are ids of runs, or names of models that can be
    added. retrain: whether full retraining is fitted too, unless there is one. training and adapter
    hold the settings that somebody changed; all others have the defaults of the engine.
    from_predictions: random items for each user that adapters learn from in place of records, or 0.
    """

    topology: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    strategy: str
    budget: int | None
    training: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    from_predictions: int = 0
    dataset: str | None = None
    fit_on: tuple[str, ...] = ()
    retrain: bool = False

    @property
    def origins(self) -> tuple[str, ...]:
        """Where the prompts come from: runs, then models to fit them on."""
        return (*self.sources, *self.fit_on)

    def request(self, predicted: Mapping[str, Any] | None = None) -> PlanRequest:
        """Return the request that the engine executes. Raises ConfigError."""
        fields = {name: value for name, value in vars(self).items() if name != "topology"}
        return PlanRequest(**fields, predicted=predicted or {})


def problems(plan: Plan) -> list[str]:
    """Return what keeps a plan from being launched, one sentence each."""
    sources = {run.id: run for run in engine.sources()}
    known = models()
    sentences = []
    if plan.topology == "merge" and len(plan.origins) < 2:
        sentences.append("An aggregation needs two sources or more.")
    elif not plan.origins or not (
        set(plan.sources) <= set(sources) and set(plan.fit_on) <= set(known)
    ):
        sentences.append("Choose source prompts that are in the workspace.")
    if plan.topology == "chain" and len(plan.targets) < 2:
        sentences.append("A chain needs two target models or more, in their order.")
    elif not plan.targets or not set(plan.targets) <= set(known):
        sentences.append("Choose a target model that is in the workspace.")
    if plan.fit_on and plan.dataset not in {run.id for run in engine.runs("dataset")}:
        sentences.append("Choose a data set to fit source prompts on.")
    if plan.strategy not in engine.STRATEGIES:
        sentences.append("Choose a known strategy.")
    elif plan.from_predictions and plan.strategy not in WITHOUT_RECORDS:
        sentences.append(
            f"The strategy {plan.strategy} reads records, which a migration from predictions does not; "
            "choose another."
        )
    vectors = [run for run in map(sources.get, plan.sources) if run and not has_model(run)]
    if plan.from_predictions and vectors:
        sentences.append(
            f"{vectors[0].name} holds vectors, and no model that could predict; use records."
        )
    # Users are chosen from the first source.
    first = vectors and vectors[0].id == plan.sources[0] and plan.strategy in engine.STRATEGIES
    if first and asks_model(plan.strategy):
        sentences.append(
            f"The strategy {plan.strategy} needs the source's model, and {vectors[0].name} has none; "
            "choose another."
        )
    data = {sources[id_].inputs["dataset"] for id_ in plan.sources} if not sentences else set()
    if plan.fit_on and data:
        data.add(str(plan.dataset))
    if len(data) > 1:
        sentences.append("The sources were fitted on different data sets; choose those of one.")
    return sentences


def models() -> dict[str, str]:
    """Return the name of each model that a plan may use: those here by id, shipped ones by name."""
    names_by_id = {run.id: run.name for run in engine.runs("backbone")}
    names = set(names_by_id.values())
    return names_by_id | {name: name for name in named_models() if name not in names}


def model_id(model: str) -> str:
    """Return the id of a model's run; its name where it is not in the workspace yet."""
    return planning.model_id(engine.workspace(), model)


def stages(plan: Plan, device: str) -> tuple[PlanStage, ...]:
    """Return the stages of a plan, with what each would take."""
    return planning.plan_stages(engine.workspace(), plan.request(), device)


def at_users(costs: Costs, users: int) -> tuple[float | None, float | None]:
    """Return the seconds of retraining and of a migration at another number of users.

    Retraining grows with the users. A migration does so only where all of them train the adapter;
    else as many train it as now. Mapping the others takes little, and is left out.
    """
    factor = users / costs.users
    of_migration = factor if costs.trained == costs.users else 1.0
    return (
        None if costs.retraining is None else costs.retraining.seconds * factor,
        None if costs.migration is None else costs.migration.seconds * of_migration,
    )


def settings(plan: Plan) -> PlanSettings:
    """Return a plan's settings with the engine's defaults filled in."""
    return planning.plan_settings(engine.workspace(), plan.request())


def costs(plan: Plan, device: str) -> Costs:
    """Predict what a plan and the retraining that it replaces would take."""
    return planning.predict_costs(engine.workspace(), plan.request(), device)


def devices() -> list[str]:
    """Devices on which this workspace has measured trainings, and those that jobs here run on."""
    return list(dict.fromkeys([*planning.devices(engine.workspace()), *local_devices()]))


@st.cache_data(max_entries=1, ttl=600, show_spinner=False)
def local_devices() -> list[str]:
    """Names of this machine's devices on which jobs run, as runs record them."""
    names = {memory.device: memory.name for memory in device_memory()}
    names["cpu"] = "cpu"
    return list(dict.fromkeys(names.get(device, device) for device in find_devices()))


def unmeasured(costs: Costs) -> list[str]:
    """Return what a prediction lacks or only guesses, in words; nothing if all was measured."""
    predictions = {"the retraining": costs.retraining, "the migration": costs.migration}
    missing = [name for name, prediction in predictions.items() if prediction is None]
    guessed = [
        f"{name} with these settings"
        for name, prediction in predictions.items()
        if prediction and prediction.mismatches
    ]
    return [*missing, *guessed]


def calibrate(plan: Plan) -> Job:
    """Queue short trainings that measure what a plan would take. Raises StoreError if it cannot."""
    _check(plan)
    ws, request = engine.workspace(), plan.request()
    title = f"Measure the speed of a migration to {models()[plan.targets[-1]]}"
    # One transaction, so that two browsers cannot both find that nothing is measured yet.
    with ws.transaction():
        for job in engine.jobs(None):
            queued = _calibration_of(job) if job.status in ("queued", "running") else None
            if queued and (queued.origins, queued.targets) == (plan.origins, plan.targets):
                raise engine.StoreError(
                    f"The job {job.id} measures these models already, so nothing was queued; wait "
                    "until it has ended, or cancel it, and measure then what is still missing."
                )
        job = engine_jobs.enqueue(ws, CALIBRATION, request.to_dict(), title=title)
    engine_jobs.ensure_worker(ws)
    return job


def calibrating(plan: Plan) -> Job | None:
    """Return the newest calibration of a plan unless it finished."""
    request = plan.request()
    newest = next((job for job in engine.jobs(200) if _calibration_of(job) == request), None)
    return None if newest is None or newest.status == "finished" else newest


def _calibration_of(job: Job) -> PlanRequest | None:
    """Return what a job calibrates; None for other jobs."""
    if job.command != CALIBRATION:
        return None
    try:
        return PlanRequest.from_dict({k: v for k, v in job.args.items() if k != "device"})
    except (ConfigError, TypeError):
        return None


def task_of(source: str) -> str:
    """The task of a source's data set: rating or click."""
    return importing_data.task_of(engine.workspace(), engine.run(source))


def _check(plan: Plan) -> None:
    sentences = problems(plan)
    if sentences:
        raise engine.StoreError(" ".join(sentences))


def launch(plan: Plan, predicted: dict[str, Any] | None) -> Job:
    """Check a plan again on the server and queue it. Raises StoreError with what is wrong."""
    _check(plan)
    names = models()
    start = engine.run(plan.sources[0]).name if plan.sources else names[plan.fit_on[0]]
    title = f"Migrate {start} to {names[plan.targets[-1]]}"
    return engine.queue(COMMANDS[0], plan.request(predicted).to_dict(), title)


def launched() -> list[Job]:
    """Jobs that execute plans, the newest first."""
    return [job for job in engine.jobs(200) if job.command in COMMANDS]


def migrations_of(job: Job) -> list[Run]:
    """Return the migrations that a finished plan made, hop by hop; empty before it ended."""
    if job.status != "finished" or job.run_id is None:
        return []
    sources = set(job.args.get("sources") or ())
    target_ids = {planning.model_id(engine.workspace(), target) for target in job.args["targets"]}
    lineage = engine.workspace().lineage(job.run_id)
    made = [run for run in lineage if run.kind == "migration" and run.id not in sources]
    return [run for run in made if run.inputs["backbone"] in target_ids][: len(target_ids)][::-1]
