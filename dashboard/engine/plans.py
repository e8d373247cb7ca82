"""Plans: what can be migrated, what it would cost, launching it, and what it really took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from dashboard import engine
from dashboard.engine import Job, Run
from puma_engine import jobs as engine_jobs
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import (
    PAPER_ADAPTER,
    PAPER_PROMPTS,
    PROMPT_TRAINING,
    adapter_shape,
    adapter_training,
    prompt_training,
    small_adapter_training,
)
from puma_engine.evaluation.cost_model import Measured, Prediction, hours, money
from puma_engine.jobs import find_devices
from puma_engine.pipeline import importing_data, planning
from puma_engine.pipeline.migrating import SMALL_SHARE
from puma_engine.pipeline.planning import Costs
from puma_engine.training.device import device_memory

__all__ = ["Costs", "Measured", "Prediction", "TrainingConfig", "hours", "money"]
COMMAND = "run_plan"
CALIBRATION = "calibrate"
SEED = 0


@dataclass(frozen=True)
class Preset:
    """Settings to start from: the adapter's training and shape, and the retraining's.

    Trainings follow the number of users and the task, the shape follows the task.
    """

    label: str
    training: Callable[[int, str], TrainingConfig]
    adapter: Callable[[str], AdapterConfig]
    retraining: Callable[[int, str], TrainingConfig]


PRESETS = {
    "paper": Preset(
        "The paper's (3-billion models)",
        lambda *_: PAPER_ADAPTER,
        lambda _: AdapterConfig(),
        lambda *_: PAPER_PROMPTS,
    ),
    "small": Preset(
        "Small models, few users",
        small_adapter_training,
        lambda task: adapter_shape(task, few=True),
        prompt_training,
    ),
    "large": Preset("Small models, many users", adapter_training, adapter_shape, prompt_training),
}


@dataclass(frozen=True)
class Plan:
    """A migration as it is put together on the page; all ids are checked when it is launched."""

    topology: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    strategy: str
    budget: int | None
    training: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    retraining: TrainingConfig = PROMPT_TRAINING


def usual_preset(trained: int, users: int) -> str:
    """The preset whose settings a migration of small models takes when none are given."""
    return "small" if trained < SMALL_SHARE * users else "large"


def problems(plan: Plan) -> list[str]:
    """Return what keeps a plan from being launched, one sentence each."""
    known = {run.id: run for run in engine.sources()}
    models = {run.id for run in engine.backbones()}
    found = []
    if plan.topology == "merge" and len(plan.sources) < 2:
        found.append("An aggregation needs two sources or more.")
    elif not plan.sources or not set(plan.sources) <= set(known):
        found.append("Choose source prompts that are in the workspace.")
    if plan.topology == "chain" and len(plan.targets) < 2:
        found.append("A chain needs two target models or more, in their order.")
    elif not plan.targets or not set(plan.targets) <= models:
        found.append("Choose a target model that is in the workspace.")
    if plan.strategy not in engine.STRATEGIES:
        found.append("Choose a known strategy.")
    if not found and len({known[one].inputs["dataset"] for one in plan.sources}) > 1:
        found.append("The sources were fitted on different data sets; choose those of one.")
    return found


def costs(plan: Plan, device: str) -> Costs:
    """Predict what a plan and the retraining that it replaces would take."""
    return planning.costs(
        engine.workspace(),
        plan.sources,
        plan.targets,
        budget=plan.budget,
        adapter=TrainingConfig(**plan.training),
        retraining=plan.retraining,
        device=device,
    )


def devices() -> list[str]:
    """Devices on which this workspace has measured trainings, and those that jobs here run on."""
    return list(dict.fromkeys([*planning.devices(engine.workspace()), *own_devices()]))


@st.cache_data(max_entries=1, ttl=600, show_spinner=False)
def own_devices() -> list[str]:
    """Names of the devices of this machine on which jobs run, as runs tell them."""
    names = {one.device: one.name for one in device_memory()}
    return list(
        dict.fromkeys(names.get(one, one) if one != "cpu" else one for one in find_devices())
    )


def unmeasured(costs: Costs) -> list[str]:
    """Return what a prediction lacks or only guesses, in words; nothing if all was measured."""
    ways = {"the retraining": costs.retraining, "the migration": costs.migration}
    found = [way for way, one in ways.items() if one is None]
    guessed = [way for way, one in ways.items() if one and (one.other_batches or one.other_sources)]
    return [*found, *(f"{way} with these settings" for way in guessed)]


def _trials(plan: Plan) -> dict[str, Any]:
    return {
        "sources": list(plan.sources),
        "targets": list(plan.targets),
        "training": TrainingConfig(**plan.training).to_dict(),
        "adapter": AdapterConfig(**plan.adapter).to_dict(),
        "retraining": plan.retraining.to_dict(),
    }


def calibrate(plan: Plan) -> Job:
    """Queue short trainings that measure what a plan would take. Raises StoreError if it cannot."""
    _check(plan)
    ws, trials = engine.workspace(), _trials(plan)
    title = f"Measure the speed of a migration to {engine.run(plan.targets[-1]).name}"
    # One transaction, so that two browsers cannot both find that nothing is measured yet.
    with ws.transaction():
        busy = next((job for job in engine.jobs(None) if _is_measuring(job, trials)), None)
        if busy is not None:
            raise engine.StoreError(
                f"The job {busy.id} measures these models already, so nothing was queued; wait "
                "until it has ended, or cancel it, and measure then what is still missing."
            )
        job = engine_jobs.enqueue(ws, CALIBRATION, trials, title=title)
    engine_jobs.ensure_worker(ws)
    return job


def _is_measuring(job: Job, trials: dict[str, Any]) -> bool:
    """Say whether a job waits to measure, or measures, the models of a plan."""
    active = job.command == CALIBRATION and job.status in ("queued", "running")
    return active and all(job.args[name] == trials[name] for name in ("sources", "targets"))


def calibrating(plan: Plan) -> Job | None:
    """Return the newest calibration of a plan unless it finished."""
    wanted = _trials(plan)
    found = (job for job in engine.jobs(200) if job.command == CALIBRATION and job.args == wanted)
    newest = next(found, None)
    return None if newest is None or newest.status == "finished" else newest


def users_of(source: str) -> int:
    """How many users a source holds prompts for."""
    return int(engine.run(source).summary["users"])


def task_of(source: str) -> str:
    """What a source's users gave: rating or click."""
    return importing_data.task_of(engine.workspace(), engine.run(source))


def _check(plan: Plan) -> None:
    wrong = problems(plan)
    if wrong:
        raise engine.StoreError(" ".join(wrong))


def launch(plan: Plan, predicted: dict[str, Any] | None) -> Job:
    """Check a plan again on the server and queue it. Raises StoreError with what is wrong."""
    _check(plan)
    args = {
        "sources": list(plan.sources),
        "targets": list(plan.targets),
        "strategy": plan.strategy,
        "budget": plan.budget,
        "training": TrainingConfig(**plan.training).to_dict(),
        "adapter": AdapterConfig(**plan.adapter).to_dict(),
        "seed": SEED,
        "predicted": predicted,
    }
    target = engine.run(plan.targets[-1]).name
    title = f"Migrate {engine.run(plan.sources[0]).name} to {target}"
    return engine.queue(COMMAND, args, title)


def launched() -> list[Job]:
    """Jobs that carry out plans, the newest first."""
    return [job for job in engine.jobs(200) if job.command == COMMAND]


def really(job: Job) -> list[Run]:
    """Return the migrations that a finished plan made, hop by hop; empty before it ended."""
    if job.status != "finished" or job.run_id is None:
        return []
    targets = job.args["targets"]
    lineage = engine.workspace().lineage(job.run_id)
    made = [run for run in lineage if run.kind == "migration" and run.id not in job.args["sources"]]
    return [run for run in made if run.inputs["backbone"] in targets][: len(targets)][::-1]
