"""The demo on a pre-trained language model: every method on a few users of shipped data."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from puma_engine.backbone.packages import local_path
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import (
    PAPER_STRATEGY,
    REAL_DEMO_ADAPTERS,
    REAL_DEMO_SHARE,
    REAL_DEMO_TRAINING,
    REAL_DEMO_USERS,
)
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.formatting import format_duration
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.demo_files import (
    add_shipped_comparisons,
    prompt_file,
    shipped_prompts,
)
from puma_engine.pipeline.evaluating import run_evaluation
from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed, measure_model
from puma_engine.pipeline.fitting import run_fit
from puma_engine.pipeline.importing_data import import_dataset, load_dataset
from puma_engine.pipeline.importing_prompts import import_prompts
from puma_engine.pipeline.migrating import run_migration
from puma_engine.requests import EvaluationRequest, FitRequest, MigrationRequest
from puma_engine.store import Run, Workspace

DATASET, SOURCE = "goodbooks", "llama-small"
Step = Callable[[stage.Execution], Run]
METHODS = ("source", "migrated few", "migrated all", "retrained", "random", "shuffled")

_log = logging.getLogger("puma_engine.demo")


@dataclass(frozen=True)
class Recipe:
    """Settings of the demo on a real model: the target model, users, the share of few users, and all settings."""

    name: str
    target: str
    users: int
    share: float
    training: Mapping[str, TrainingConfig]
    adapters: Mapping[str, AdapterConfig]


REAL_DEMO = Recipe(
    "demo-real",
    "smollm2",
    REAL_DEMO_USERS,
    REAL_DEMO_SHARE,
    REAL_DEMO_TRAINING,
    REAL_DEMO_ADAPTERS,
)


def real_demo(ws: Workspace, users: int | None, execution: stage.Execution) -> Run:
    """Run every method with SmolLM2 as the target, and return their comparison.

    users: default: 60. The log says how long it takes, from a short measurement. Raises BackboneError
    where the model's package is missing.
    """
    recipe, device = REAL_DEMO, execution.device
    users, target = users or recipe.users, recipe.target
    local_path(target)  # raises where its package is missing, before anything is done
    execution.announce("adding published comparisons")
    add_shipped_comparisons(ws)
    runs: dict[str, Run] = {}

    def add_backbone(spec: str) -> Step:
        return lambda _part: backbone_run(ws, spec, device=device)

    def fit(role: str, backbone: str) -> Step:
        return lambda part: run_fit(
            ws,
            FitRequest(
                dataset=runs["data"].id,
                backbone=runs[backbone].id,
                role=role,
                training=recipe.training[role].to_dict(),
            ),
            part,
        )

    def source(part: stage.Execution) -> Run:
        data, model = runs["data"], runs["source backbone"]
        file = shipped_prompts(ws, model, data)
        if file is None:
            return fit("source", "source backbone")(part)
        return import_prompts(ws, data, model, file, progress=part.progress)

    def migrate(trained_on: str, *, shuffled: bool = False) -> Step:
        return lambda part: run_migration(
            ws,
            MigrationRequest(
                sources=(runs["source"].id,),
                target=runs["target backbone"].id,
                strategy=PAPER_STRATEGY if trained_on == "few" else None,
                share=recipe.share if trained_on == "few" else None,
                training=recipe.training[trained_on].to_dict(),
                adapter=recipe.adapters[trained_on].to_dict(),
                shuffled=shuffled,
            ),
            part,
        )

    def evaluate(method: str) -> Step:
        return lambda part: run_evaluation(
            ws,
            EvaluationRequest(
                subject=runs[method].id if method in runs else method, dataset=runs["data"].id
            ),
            part,
        )

    def comparison(part: stage.Execution) -> Run:
        return compare(
            ws,
            [run for name, run in runs.items() if name.startswith("evaluation of ")],
            reference=runs["evaluation of retrained"],
            name=f"{recipe.name}-{users}-users",
            **part.callbacks,
        )

    started = time.monotonic()
    execution.announce(f"measuring the speed of {target}")
    model = backbone_run(ws, target, device=device)
    data = import_dataset(ws, DATASET, users=users)
    dataset = load_dataset(ws, data)
    speed = measure_model(ws, model, dataset, device=device)
    # What a step takes besides its work on the model is about what the import took, where it was measured.
    short = data.seconds or 0.0
    seconds = expected_seconds(speed, DataCounts.of(dataset), recipe, short)
    # Title, expected seconds, and what is done.
    steps: list[tuple[str, float, Step]] = [
        ("data", 0, lambda part: import_dataset(ws, DATASET, users=users, progress=part.progress)),
        ("source backbone", short, add_backbone(SOURCE)),
        ("target backbone", 0, add_backbone(target)),
        # Fitted on two CPU cores where no file of prompts ships.
        ("source", short if prompt_file().is_file() else 25, source),
        ("migrated few", seconds["migrated few"], migrate("few")),
        ("migrated all", seconds["migrated all"], migrate("all")),
        ("retrained", seconds["retrained"], fit("retrained", "target backbone")),
        ("random", seconds["random"], fit("random", "target backbone")),
        ("shuffled", seconds["shuffled"], migrate("few", shuffled=True)),
        *(
            (f"evaluation of {name}", seconds[f"evaluation of {name}"], evaluate(name))
            for name in METHODS
        ),
        *((f"evaluation of {name}", short / 2, evaluate(name)) for name in BASELINES),
        ("comparison", short, comparison),
    ]
    total = sum(weight for _, weight, _ in steps)
    _log.info(
        "The demo on %s with %d users takes about %s from now on, less where parts of it are "
        "there already (measured: %s).",
        *(target, users, format_duration(total), speed),
    )
    parts = [stage.Part(title, weight, measured=False) for title, weight, _ in steps]
    overall = stage.OverallProgress(parts, execution.progress)
    measured = time.monotonic()
    for number, (title, _, step) in enumerate(steps):
        runs[title] = overall.do(number, execution, step)
    seconds_taken = time.monotonic() - measured
    _log.info(
        "It took %s, and measuring before it %s.",
        format_duration(seconds_taken),
        format_duration(measured - started),
    )
    return runs["comparison"]


def expected_seconds(
    speed: ModelSpeed, counts: DataCounts, recipe: Recipe, short: float
) -> dict[str, float]:
    """Return the seconds that the steps of a demo take on its target model, by their titles.

    short: what each takes besides, in seconds.
    """
    share = recipe.share

    def fit(role: str, rows: float, validated: float, items: float = 0.0) -> float:
        epochs = recipe.training[role].epochs
        # The head alone is trained on random prompts, so no gradient passes through the model.
        passes = {"prediction" if role == "random" else "training": rows * epochs}
        passes["prediction"] = passes.get("prediction", 0.0) + validated * epochs
        return speed.seconds(items=items, **passes) + short

    # The first adapter reads the items of few users' train rows and of others' validation rows.
    first = min(counts.fitted_items, share * counts.train + (1 - share) * counts.validation)
    few_users = fit("few", share * counts.train, (1 - share) * counts.validation)
    seconds = {
        "migrated few": few_users + speed.seconds(items=first),
        "migrated all": fit(
            "all", counts.train, counts.validation, max(0.0, counts.fitted_items - first)
        ),
        "retrained": fit("retrained", counts.train, counts.validation),
        "random": fit("random", counts.train, counts.validation),
        "shuffled": few_users,
    }
    for name in METHODS:
        test = 0 if name == "source" else counts.test
        seconds[f"evaluation of {name}"] = speed.seconds(prediction=test) + short
    # The first evaluation on the target reads the items of test rows.
    unread = counts.items - counts.fitted_items
    seconds["evaluation of migrated few"] += speed.seconds(items=unread)
    return seconds
