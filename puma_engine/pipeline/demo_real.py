"""The demo on a pre-trained language model: every method on a few users of shipped data."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
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
from puma_engine.pipeline.demo_files import add_shipped_comparisons, shipped_prompts
from puma_engine.pipeline.demo_steps import SOURCE, DemoRuns, MakeRun, Step, evaluation_of
from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed, measure_model
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.store import Run, Workspace

METHODS = (
    "source",
    "migrated, few users",
    "migrated, all users",
    "retrained",
    "random",
    "shuffled",
)

_log = logging.getLogger("puma_engine.demo")


@dataclass(frozen=True)
class Recipe:
    """Settings of the demo on a real model. share: of the users who train the migration on few users."""

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

    users: default: 60. The expected time is measured and logged before it begins. Raises
    BackboneError if the model's package is missing.
    """
    recipe = REAL_DEMO
    local_path(recipe.target)  # raises where its package is missing, before anything is done
    execution.announce("adding published comparisons")
    add_shipped_comparisons(ws)
    demo = RealDemo(ws, users or recipe.users, execution.device, recipe)
    started = time.monotonic()
    steps = demo.measured_steps(execution)
    _log.info(
        "The demo on %s with %d users takes about %s from now on, less where parts of it are "
        "there already (measured: %s).",
        recipe.target,
        demo.users,
        format_duration(sum(step.seconds for step in steps)),
        demo.speed,
    )
    parts = [stage.Part(step.title, step.seconds, measured=False) for step in steps]
    overall = stage.OverallProgress(parts, execution.progress)
    measured = time.monotonic()
    for number, step in enumerate(steps):
        demo.runs[step.title] = overall.do(number, execution, step.make)
    _log.info(
        "It took %s, and measuring before it %s.",
        format_duration(time.monotonic() - measured),
        format_duration(measured - started),
    )
    return demo.runs["comparison"]


class RealDemo(DemoRuns):
    """The steps of the demo on a real model, and the runs of those that are done, by title.

    speed: of the target model, set by `measured_steps`.
    """

    speed: ModelSpeed

    def __init__(self, ws: Workspace, users: int, device: str | None, recipe: Recipe) -> None:
        super().__init__(ws, users, device)
        self.recipe = recipe

    def measured_steps(self, execution: stage.Execution) -> list[Step]:
        """Add data and models, measure the models' speed, and return the steps with their seconds."""
        execution.announce("adding data and models")
        self.runs["data"] = self.import_data()(execution)
        for title, spec in (("source model", SOURCE), ("target model", self.recipe.target)):
            self.runs[title] = self.add_backbone(spec)(execution)
        dataset = load_dataset(self.ws, self.runs["data"])

        def measure(title: str) -> ModelSpeed:
            execution.announce(f"measuring the speed of the {title}")
            return measure_model(self.ws, self.runs[title], dataset, device=self.device)

        self.speed, source_speed = measure("target model"), None
        if shipped_prompts(self.ws, self.runs["source model"], self.runs["data"]) is None:
            source_speed = measure("source model")
        # The overhead of a step besides its work on a model is about the time of the import.
        short = self.runs["data"].seconds or 0.0
        counts = DataCounts.of(dataset)
        seconds = expected_seconds(self.speed, counts, self.recipe, short, source_speed)
        return [Step(title, seconds[title], make) for title, make in self._steps()]

    def _steps(self) -> Iterator[tuple[str, MakeRun]]:
        yield "source", self.import_or_fit_source(self._fit("source", "source model"))
        yield "migrated, few users", self._migrate("few users")
        yield "migrated, all users", self._migrate("all users")
        yield "retrained", self._fit("retrained", "target model")
        yield "random", self._fit("random", "target model")
        yield "shuffled", self._migrate("few users", shuffled=True)
        methods = (*METHODS, *BASELINES)
        for method in methods:
            yield evaluation_of(method), self.evaluate(method)
        yield "comparison", self.compare(methods, f"{self.recipe.name}-{self.users}-users")

    def _fit(self, role: str, model: str) -> MakeRun:
        return self.fit(role, model, training=self.recipe.training[role].to_dict())

    def _migrate(self, trained_on: str, *, shuffled: bool = False) -> MakeRun:
        selects = trained_on == "few users"
        return self.migrate(
            ("source",),
            "target model",
            strategy=PAPER_STRATEGY if selects else None,
            share=self.recipe.share if selects else None,
            training=self.recipe.training[trained_on].to_dict(),
            adapter=self.recipe.adapters[trained_on].to_dict(),
            shuffled=shuffled,
        )


def expected_seconds(
    speed: ModelSpeed,
    counts: DataCounts,
    recipe: Recipe,
    short: float,
    source_speed: ModelSpeed | None = None,
) -> dict[str, float]:
    """Return the seconds that the steps of a demo take, by their titles.

    speed: of the target model. short: seconds of a step besides its work on a model. source_speed:
    of the source model if source prompts are fitted; None if they are imported.
    """

    def fit(
        role: str,
        rows: float,
        validated: float,
        items: float = 0.0,
        model: ModelSpeed = speed,
    ) -> float:
        epochs = recipe.training[role].epochs
        # The head alone is trained on random prompts, so no gradient passes through the model.
        passes = {"prediction" if role == "random" else "training": rows * epochs}
        passes["prediction"] = passes.get("prediction", 0.0) + validated * epochs
        return model.seconds(items=items, **passes) + short

    source = short
    if source_speed is not None:
        items = counts.fitted_items
        source = fit("source", counts.train, counts.validation, items, source_speed)
    # The first adapter reads the items of few users' train rows and of others' validation rows.
    share = recipe.share
    first = min(counts.fitted_items, share * counts.train + (1 - share) * counts.validation)
    few_users = fit("few users", share * counts.train, (1 - share) * counts.validation)
    seconds = {
        "source": source,
        "migrated, few users": few_users + speed.seconds(items=first),
        "migrated, all users": fit(
            "all users", counts.train, counts.validation, max(0.0, counts.fitted_items - first)
        ),
        "retrained": fit("retrained", counts.train, counts.validation),
        "random": fit("random", counts.train, counts.validation),
        "shuffled": few_users,
    }
    for name in METHODS:
        test = 0 if name == "source" else counts.test
        seconds[evaluation_of(name)] = speed.seconds(prediction=test) + short
    # The first evaluation on the target reads the items of test rows.
    unread = counts.items - counts.fitted_items
    seconds[evaluation_of("migrated, few users")] += speed.seconds(items=unread)
    seconds |= {evaluation_of(name): short / 2 for name in BASELINES}
    return seconds | {"comparison": short}
