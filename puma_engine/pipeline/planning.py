"""Plans: what a migration would cost by the workspace's own measurements, and doing it whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from puma_engine.config import TrainingConfig
from puma_engine.errors import ConfigError
from puma_engine.evaluation import cost_model
from puma_engine.evaluation.cost_model import Measured, Prediction
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.evaluating import evaluate
from puma_engine.pipeline.migrating import chain, migrate
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find, slug
from puma_engine.pipeline.stage_progress import CancelCheck, Overall, ProgressCallback
from puma_engine.store import Run, Workspace

RETRAINED = ("source", "retrained")  # the same computation
TRAINED = ("migration", "prompts", "calibration")


@dataclass(frozen=True)
class Costs:
    """Predicted costs of both ways; None where nothing alike was measured."""

    retraining: Prediction | None
    migration: Prediction | None
    break_even: int | None
    users: int
    trained: int


def measured(ws: Workspace, kind: str, backbone: str, device: str) -> list[Measured]:
    """Return what finished trainings on a model and device took: kind prompts or migration.

    Calibrations of the same kind of training are among them.
    """
    way = "migration" if kind == "migration" else "retraining"
    found = []
    for run in [*ws.runs(kind, "finished"), *ws.runs("calibration", "finished")]:
        if run.kind == "calibration":
            fits = run.config["way"] == way
        else:
            fits = kind == "migration" or run.config.get("role") in RETRAINED
        here = run.inputs.get("backbone") == backbone and run.device == device
        # Items' prompts take longer, and neither way of a plan has any.
        alike = not run.summary.get("item_tokens")
        if fits and here and alike and run.cost.get("training_seconds"):
            found.append(_measured(run))
    return found


def _measured(run: Run) -> Measured:
    cost, short = run.cost, run.kind == "calibration"
    joined = sum(role.startswith("source_") for role in run.inputs)
    return Measured(
        run.id,
        run.name,
        str(run.device),
        int(run.config["training"]["batch_size"]),
        int(cost["epochs"]),
        int(cost["examples"]),
        float(cost["training_seconds"]),
        float(run.seconds or 0.0),
        len(run.config.get("widths", ())) if short else joined,
        short,
        float(cost.get("cores_of_others", 0.0)) / int(cost.get("cores") or 1),
    )


def devices(ws: Workspace) -> list[str]:
    """Return the devices on which trainings were measured, that of the newest run first."""
    runs = [run for kind in TRAINED for run in ws.runs(kind, "finished")]
    trained = [run for run in runs if run.cost.get("training_seconds") and run.device]
    trained.sort(key=lambda run: run.created, reverse=True)
    return list(dict.fromkeys(str(run.device) for run in trained))


def costs(
    ws: Workspace,
    sources: Sequence[Reference],
    targets: Sequence[Reference],
    *,
    budget: int | None,
    adapter: TrainingConfig,
    retraining: TrainingConfig,
    device: str,
) -> Costs:
    """Predict a migration over targets (several are a chain) and retraining on the last one.

    sources: several are an aggregation, whose adapter reads all of them; only users whom
    each has can train it, so no more than the smallest table holds. budget: users who train the
    adapter at each hop; None for all. Selection and evaluation are left out: the first is
    short, the second is the same for both ways.
    """
    tables = [find(ws, source, *PROMPT_KINDS) for source in sources]
    facts = find(ws, tables[0].inputs["dataset"], "dataset").summary
    users, rows = int(facts["users"]), facts["splits"]["train"] / facts["users"]
    most = min(users, *(int(table.summary["users"]) for table in tables))
    trained = most if budget is None else min(budget, most)
    models = [find(ws, target, "backbone").id for target in targets]
    hops = [
        cost_model.predict(
            rows * trained,
            adapter.epochs,
            adapter.batch_size,
            measured(ws, "migration", model, device),
            len(tables),
        )
        for model in models
    ]
    whole = cost_model.predict(
        rows * users,
        retraining.epochs,
        retraining.batch_size,
        measured(ws, "prompts", models[-1], device),
        0,
    )
    moved = _sum(hops)
    even = None
    if whole and moved:
        even = cost_model.break_even(
            whole.seconds, users, moved.seconds, all_train=trained == users
        )
    return Costs(whole, moved, even, users, trained)


def _sum(parts: Sequence[Prediction | None]) -> Prediction | None:
    total: Prediction | None = None
    for part in parts:
        if part is None:
            return None
        total = part if total is None else total.plus(part)
    return total


def run_plan(
    ws: Workspace,
    sources: Sequence[Reference],
    targets: Sequence[Reference],
    *,
    strategy: str = "all",
    budget: int | None = None,
    training: dict[str, Any] | None = None,
    adapter: dict[str, Any] | None = None,
    seed: int = 0,
    predicted: dict[str, Any] | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Migrate, evaluate, and compare with a finished full retraining if there is one.

    One source and one target are a single migration, several targets a chain, several sources
    an aggregation. predicted: what was expected (seconds), kept with the job. Returns
    the comparison, or the evaluation where there is nothing to compare with.
    """
    if not sources or not targets or (len(sources) > 1 and len(targets) > 1):
        raise ConfigError(
            "A plan has one source and one or more targets, or several sources and one target, not "
            f"{len(sources)} and {len(targets)}."
        )
    parts = _parts(progress, predicted)
    shared: dict[str, Any] = {"training": training, "adapter": adapter, "seed": seed}
    shared |= {"strategy": None if strategy == "all" else strategy, "budget": budget}
    shared |= {"device": device, "should_cancel": should_cancel}
    if len(targets) > 1:
        moved = chain(ws, sources[0], targets, progress=parts[0], **shared)[-1]
    else:
        moved = migrate(ws, sources, targets[0], progress=parts[0], **shared)
    told: dict[str, Any] = {"device": device, "should_cancel": should_cancel}
    found = evaluate(ws, moved, progress=parts[1], **told)
    retrained = retraining_of(ws, moved)
    if retrained is None:
        return found
    others = [find(ws, source, "prompts", "migration") for source in sources]
    scores = [evaluate(ws, run, progress=parts[1], **told) for run in (*others, retrained)]
    return compare(
        ws,
        [*scores, found],
        reference=scores[-1],
        name=slug("plan", moved.name),
        should_cancel=should_cancel,
    )


def _parts(
    progress: ProgressCallback | None, predicted: dict[str, Any] | None
) -> list[ProgressCallback | None]:
    """Callbacks of migrating and of evaluating; of the whole where its duration was predicted."""
    if not predicted or not predicted.get("seconds"):
        return [progress, progress]
    # Evaluating is a pass over a smaller split: a guess that corrects itself as time goes by.
    seconds = float(predicted["seconds"])
    overall = Overall([seconds, 0.25 * seconds], progress)
    return [overall.part(0), overall.part(1)]


def retraining_of(ws: Workspace, moved: Run) -> Run | None:
    """Return the newest finished full retraining that a migration replaces, if any."""
    runs = ws.runs(kind="prompts", status="finished")
    return next((run for run in runs if replaces(moved, run)), None)


def replaces(moved: Run, run: Run) -> bool:
    """Whether a run is full retraining on a migration's model and data, both with item prompts or none."""
    same = all(run.inputs.get(role) == moved.inputs[role] for role in ("backbone", "dataset"))
    alike = run.summary.get("item_tokens") == moved.summary.get("item_tokens")
    return same and alike and run.config.get("role") == "retrained"
