"""The demo: every kind of migration on shipped data, from a customer's prompts to the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from puma_engine.defaults import (
    DEMO_ADAPTERS,
    DEMO_PROMPT_START,
    DEMO_REFINED,
    DEMO_SEEDS,
    DEMO_SHARE,
    DEMO_SHARES,
    DEMO_TRAINING,
    DEMO_USERS,
    PAPER_STRATEGY,
)
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.pipeline import stage
from puma_engine.pipeline.anchors import run_anchors
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.demo_files import (
    add_shipped_comparisons,
    archive_file,
    prompt_file,
)
from puma_engine.pipeline.demo_real import real_demo
from puma_engine.pipeline.demo_steps import (
    DATASET,
    SOURCE,
    DemoRuns,
    MakeRun,
    Step,
    evaluation_of,
)
from puma_engine.pipeline.projecting import project
from puma_engine.pipeline.publishing import add_published
from puma_engine.pipeline.refining import refine
from puma_engine.requests import AnchorRequest
from puma_engine.store import Run, Workspace
from puma_engine.store.archives import runs_of

TARGET, THIRD = "llama-medium", "qwen2-small"
SHIPPED_NAME = "demo-controls-second-seed-other-routes"
# Seconds until the libraries of the first steps are loaded.
START_SECONDS = 6.0
# Seconds of a migration by the share of users who train it.
SECONDS = dict(zip(DEMO_SHARES, (3.0, 4.0, 10.0, 8.0, 13.0), strict=True))


def demo(
    ws: Workspace,
    *,
    users: int | None = None,
    real: bool = False,
    umap: bool = False,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Run every method on shipped data and return their comparison; finished runs are reused.

    On a goodbooks subset: source prompts on the small model, migrations to the larger one trained
    on 1 % to all of the users, one of them refined, full retraining, random prompts, the shuffled
    control and baselines, all evaluated on the test split; a second seed, random users against
    representative ones, a chain over a third model and an aggregation with it; predictions of
    anchor items; maps of the prompts by PCA. Runs that would take too long ship with PUMA, marked
    as published (see `archive_file`); with another number of users they are computed. umap: finally
    draw the maps by UMAP, too, which takes a minute or two. Comparisons that ship as archives are
    added first. real: migrate to SmolLM2, a pre-trained language model, instead; see `real_demo`.
    Raises BackboneError if its package is missing.
    """
    execution = stage.Execution(device, progress, should_cancel)
    if real:
        return real_demo(ws, users, execution)
    users = users or DEMO_USERS
    execution.announce("adding published comparisons")
    add_shipped_comparisons(ws)
    plan = Demo(ws, users, device, archive=archive_file())
    steps = plan.steps() + (plan.umaps() if umap else [])
    # The seconds of steps were measured on another machine.
    parts = [stage.Part(step.title, step.seconds, measured=False) for step in steps]
    overall = stage.OverallProgress(parts, progress)
    for number, step in enumerate(steps):
        plan.runs[step.title] = overall.do(number, execution, step.make)
    return plan.runs["comparison"]


def demo_seconds(users: int = DEMO_USERS) -> float:
    """Return how long the demo takes on two free CPU cores, from measured seconds of its steps."""
    steps = Demo(None, users, None, archive=archive_file()).steps()  # type: ignore[arg-type]  # no step is done
    return START_SECONDS + sum(step.seconds for step in steps) * max(1.0, users / DEMO_USERS)


class Demo(DemoRuns):
    """The steps of the demo in their order, and the runs of those that are done, by title.

    Seconds of steps were measured on two free CPU cores. prepare: called with each prompt run that
    ships before it is evaluated. archive: file of the runs that ship, or None to compute them; it
    may not exist.
    """

    def __init__(
        self,
        ws: Workspace,
        users: int,
        device: str | None,
        prepare: Callable[[Run], None] = lambda _run: None,
        archive: Path | None = None,
    ) -> None:
        super().__init__(ws, users, device)
        self.prepare = prepare
        self.archive = archive if archive is not None and archive.is_file() else None

    def steps(self) -> list[Step]:
        """Return the steps up to the comparison; the caller puts their results into `runs`."""
        return [*self._inputs(), *self._prompts(), *self._results()]

    def umaps(self) -> list[Step]:
        """Return the maps by UMAP, which come after the steps."""
        return [
            Step(f"UMAP of {title}", seconds, self._project(title, "umap"))
            for title, seconds in ((_migrated(DEMO_SHARE), 90), (_migrated(DEMO_SHARES[-1]), 10))
        ]

    def shipped(self) -> list[Step]:
        """Return the steps whose runs ship with PUMA, prompts first."""
        prompts = list(self._shipped_prompts())
        return prompts + [
            Step(evaluation_of(step.title), 0.5, self.evaluate(step.title)) for step in prompts
        ]

    def _inputs(self) -> Iterator[Step]:
        yield Step("data", 1, self.import_data())
        for title, spec, seconds in (
            ("source model", SOURCE, 4),
            ("target model", TARGET, 1),
            ("third model", THIRD, 1),
        ):
            yield Step(title, seconds, self.add_backbone(spec))
        source = self.import_or_fit_source(self._fit("source", "source model"))
        yield Step("source", 1 if prompt_file().is_file() else 25, source)

    def _prompts(self) -> Iterator[Step]:
        for share in DEMO_SHARES:
            yield Step(_migrated(share), SECONDS[share], self._migrate(share))
        yield Step("retrained", 13, self._fit("retrained", "target model"))
        yield Step("refined", 3, self._refine)
        ships = self.users == DEMO_USERS and self.archive is not None
        seconds = 2.0 if ships else sum(step.seconds for step in self.shipped())
        yield Step("controls, second seed, other routes", seconds, self._add_or_compute_shipped)

    def _shipped_prompts(self) -> Iterator[Step]:
        everybody = DEMO_SHARES[-1]
        yield Step("random", 6, self._fit("random", "target model"))
        yield Step("shuffled", 10, self._migrate(DEMO_SHARE, shuffled=True))
        for seed in DEMO_SEEDS[1:]:
            for share in DEMO_SHARES:
                title = f"{_migrated(share)} seed {seed}"
                yield Step(title, SECONDS[share], self._migrate(share, title, seed=seed))
            title = _retrained(seed)
            yield Step(title, 13, self._fit("retrained", "target model", title, seed=seed))
        for seed in DEMO_SEEDS:
            title = f"random users seed {seed}"
            make = self._migrate(DEMO_SHARE, title, strategy="random", seed=seed)
            yield Step(title, SECONDS[DEMO_SHARE], make)
        yield Step("third source", 25, self._fit("source", "third model"))
        for title, sources, target in (
            (f"migrated to {THIRD}", ("source",), "third model"),
            (f"chain over {THIRD}", (f"migrated to {THIRD}",), "target model"),
            (f"migrated from {THIRD}", ("third source",), "target model"),
            ("aggregation of both", ("source", "third source"), "target model"),
        ):
            make = self._migrate(everybody, title, sources=sources, target=target)
            yield Step(title, 14, make)

    def _results(self) -> Iterator[Step]:
        methods = ["source", *map(_migrated, DEMO_SHARES), "retrained", "refined"]
        for name in methods:
            seconds = 3 if name == methods[0] else 0.5
            yield Step(evaluation_of(name), seconds, self.evaluate(name))
        for name in methods:
            yield Step(f"anchors of {name}", 2, self._predict_anchors(name))
        for name in BASELINES:
            yield Step(evaluation_of(name), 1, self.evaluate(name))
        for title in (_migrated(DEMO_SHARE), _migrated(DEMO_SHARES[-1])):
            yield Step(f"map of {title}", 2, self._project(title, "pca"))
        # Last, so that it is the newest comparison of the workspace.
        compared = [*methods, "random", "shuffled", *BASELINES]
        yield Step("comparison", 4, self.compare(compared, f"demo-{self.users}-users"))

    def _add_or_compute_shipped(self, part: stage.Execution) -> Run:
        """Add the runs that ship, if they have the same data and models; compute those that are missing.

        This step comes after the trainings of this machine, so that only missing runs are added.
        Returns the last run.
        """
        titles = ("data", "source model", "target model", "third model", "source")
        needed = {self.runs[title].id for title in titles}
        if self.archive is not None and runs_of(self.archive) >= needed:
            part.announce("adding runs that ship with PUMA")
            add_published(self.ws, self.archive)
        steps = self.shipped()
        overall = stage.OverallProgress([step.seconds for step in steps], part.progress)
        for number, step in enumerate(steps):
            part.check_cancel(step.title)
            run = step.make(part.part(overall, number))
            if run.kind in stage.PROMPT_KINDS:
                self.prepare(run)
            self.runs[step.title] = run
        return self.runs[steps[-1].title]

    def _fit(self, role: str, model: str, name: str | None = None, *, seed: int = 0) -> MakeRun:
        return self.fit(
            role,
            model,
            training=DEMO_TRAINING[role].to_dict(),
            prompt={"start": DEMO_PROMPT_START},
            seed=seed,
            name=self._name(name),
        )

    def _migrate(
        self,
        share: float,
        name: str | None = None,
        *,
        sources: tuple[str, ...] = ("source",),
        target: str = "target model",
        strategy: str = PAPER_STRATEGY,
        shuffled: bool = False,
        seed: int = 0,
    ) -> MakeRun:
        selects, settings = share < 1, f"{share:g}"
        return self.migrate(
            sources,
            target,
            strategy=strategy if selects else None,
            share=share if selects else None,
            training=DEMO_TRAINING[settings].to_dict(),
            adapter=DEMO_ADAPTERS[settings].all_settings(),
            shuffled=shuffled,
            seed=seed,
            name=self._name(name),
        )

    def _name(self, title: str | None) -> str | None:
        """Return the name of a run with this title; None if its generated name is unique."""
        return title and stage.slug(title.replace(" %", " percent"), DATASET, self.users)

    def _refine(self, part: stage.Execution) -> Run:
        start = self.runs[_migrated(DEMO_SHARE)]
        return refine(self.ws, start, share=DEMO_REFINED, device=self.device, **part.callbacks)

    def _predict_anchors(self, method: str) -> MakeRun:
        return lambda part: run_anchors(self.ws, AnchorRequest(prompts=self.runs[method].id), part)

    def _project(self, migrated: str, method: str) -> MakeRun:
        return lambda part: project(
            self.ws, self.runs["source"], self.runs[migrated], method=method, **part.callbacks
        )


def compare_shipped(plan: Demo) -> Run:
    """Compare the runs that ship, after they are computed, with the retraining that ships.

    So the archive of this comparison has no run that the demo computes itself.
    """
    evaluations = [plan.runs[step.title] for step in plan.shipped()]
    evaluations = [run for run in evaluations if run.kind == "evaluation"]
    reference = plan.runs[evaluation_of(_retrained(DEMO_SEEDS[1]))]
    return compare(plan.ws, evaluations, reference=reference, name=SHIPPED_NAME)


def _migrated(share: float) -> str:
    return f"migrated {100 * share:g} %"


def _retrained(seed: int) -> str:
    return f"retrained seed {seed}"
