"""What the demos have in common: steps, each of which makes one run from those of earlier steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.demo_files import shipped_prompts
from puma_engine.pipeline.evaluating import run_evaluation
from puma_engine.pipeline.fitting import run_fit
from puma_engine.pipeline.importing_data import import_dataset
from puma_engine.pipeline.importing_prompts import import_prompts
from puma_engine.pipeline.migrating import run_migration
from puma_engine.requests import EvaluationRequest, FitRequest, MigrationRequest
from puma_engine.store import Run, Workspace

DATASET, SOURCE = "goodbooks", "llama-small"

MakeRun = Callable[[stage.Execution], Run]


@dataclass(frozen=True)
class Step:
    """One run of a demo. seconds: how long it will take."""

    title: str
    seconds: float
    make: MakeRun


class DemoRuns:
    """The runs of a demo by the titles of their steps, and the functions that make further ones.

    Data, source model and source prompts have the titles data, source model and source.
    """

    def __init__(self, ws: Workspace, users: int, device: str | None) -> None:
        self.ws, self.users, self.device = ws, users, device
        self.runs: dict[str, Run] = {}

    def import_data(self) -> MakeRun:
        return lambda part: import_dataset(
            self.ws, DATASET, users=self.users, progress=part.progress
        )

    def add_backbone(self, spec: str) -> MakeRun:
        return lambda _part: backbone_run(self.ws, spec, device=self.device)

    def fit(self, role: str, model: str, **settings: Any) -> MakeRun:
        """Fit prompts on the model with this title. settings: fields of the request."""
        return lambda part: run_fit(
            self.ws,
            FitRequest(
                dataset=self.runs["data"].id,
                backbone=self.runs[model].id,
                role=role,  # type: ignore[arg-type]  # one of Role
                **settings,
            ),
            part,
        )

    def import_or_fit_source(self, fit: MakeRun) -> MakeRun:
        """Import the source prompts that ship; where they are of another model or fewer users, fit some."""

        def make(part: stage.Execution) -> Run:
            data, model = self.runs["data"], self.runs["source model"]
            file = shipped_prompts(self.ws, model, data)
            if file is None:
                return fit(part)
            return import_prompts(self.ws, data, model, file, progress=part.progress)

        return make

    def migrate(self, sources: Iterable[str], target: str, **settings: Any) -> MakeRun:
        """Migrate prompts to the model with this title. settings: fields of the request."""
        return lambda part: run_migration(
            self.ws,
            MigrationRequest(
                sources=tuple(self.runs[source].id for source in sources),
                target=self.runs[target].id,
                **settings,
            ),
            part,
        )

    def evaluate(self, method: str) -> MakeRun:
        """Evaluate the prompts of a step, or a baseline."""

        def make(part: stage.Execution) -> Run:
            scored = self.runs[method].id if method in self.runs else method
            data = self.runs["data"].id
            return run_evaluation(self.ws, EvaluationRequest(subject=scored, dataset=data), part)

        return make

    def compare(self, methods: Iterable[str], name: str) -> MakeRun:
        """Compare evaluated methods with the full retraining."""
        return lambda part: compare(
            self.ws,
            [self.runs[evaluation_of(method)] for method in methods],
            reference=self.runs[evaluation_of("retrained")],
            name=name,
            **part.callbacks,
        )


def evaluation_of(method: str) -> str:
    """Return the title of the step that evaluates a method."""
    return f"evaluation of {method}"
