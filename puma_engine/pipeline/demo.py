"""The whole story on shipped data: a customer's prompts, a new model, and what each way costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.datasets import data_root
from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.errors import DataError, StoreError
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.exchange.prompt_files import read_prompts
from puma_engine.pipeline.backbones import backbone_run
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.evaluating import evaluate
from puma_engine.pipeline.fitting import fit_prompts
from puma_engine.pipeline.importing_data import import_dataset
from puma_engine.pipeline.importing_prompts import import_prompts
from puma_engine.pipeline.migrating import migrate
from puma_engine.pipeline.stage_progress import CancelCheck, Overall, ProgressCallback, check_cancel
from puma_engine.store import Run, Workspace

DATASET, SOURCE, TARGET = "goodbooks", "llama-small", "llama-medium"
USERS = 600
SHARE = 0.1
PROMPT_FILE = "source-prompts.safetensors"

# Chosen from a grid by the validation rows of these users, with as many epochs as the demo's time
# allows. All epochs run (no patience); the epoch with the best validation value counts.
SOURCE_PROMPTS = TrainingConfig(
    epochs=10, batch_size=256, learning_rate=2e-2, weight_decay=1.0, patience=0
)
RETRAINED = TrainingConfig(
    epochs=8, batch_size=256, learning_rate=1e-2, weight_decay=0.1, patience=0
)
RANDOM = TrainingConfig(epochs=2, batch_size=256, learning_rate=1e-2, patience=0)
ADAPTER_ALL = TrainingConfig(
    epochs=6, batch_size=256, learning_rate=1e-3, weight_decay=0.01, patience=0
)
ADAPTER_FEW = TrainingConfig(
    epochs=8, batch_size=128, learning_rate=1e-3, weight_decay=0.01, patience=0
)
SHAPE_ALL = AdapterConfig(hidden=512, noise=0.1, max_mean_to_std=3.0)
SHAPE_FEW = AdapterConfig(hidden=512, noise=0.3, max_mean_to_std=3.0)


@dataclass
class _Step:
    """One part of the story: expected seconds on two CPU cores, and what it does."""

    title: str
    seconds: float
    work: Callable[[ProgressCallback | None], Run]


@dataclass
class _Story:
    """What the steps share: the workspace, the settings, and the runs made so far."""

    ws: Workspace
    users: int
    device: str | None
    should_cancel: CancelCheck | None
    runs: dict[str, Run] = field(default_factory=dict)

    def common(self, progress: ProgressCallback | None) -> dict[str, Any]:
        return {
            "device": self.device,
            "progress": progress,
            "should_cancel": self.should_cancel,
        }

    def data(self, progress: ProgressCallback | None) -> Run:
        return import_dataset(self.ws, DATASET, users=self.users, progress=progress)

    def backbone(self, spec: str) -> Callable[[ProgressCallback | None], Run]:
        return lambda _progress: backbone_run(self.ws, spec, device=self.device)

    def source(self, progress: ProgressCallback | None) -> Run:
        file = shipped_prompts(self.runs["source backbone"], self.runs["data"])
        data, model = self.runs["data"], self.runs["source backbone"]
        if file is not None:
            return import_prompts(self.ws, data, model, file, progress=progress)
        return fit_prompts(self.ws, data, model, training=SOURCE_PROMPTS, **self.common(progress))

    def fit(self, role: Any, training: TrainingConfig) -> Callable[[ProgressCallback | None], Run]:
        return lambda progress: fit_prompts(
            self.ws,
            self.runs["data"],
            self.runs["target backbone"],
            role=role,
            training=training,
            **self.common(progress),
        )

    def migrate(
        self, training: TrainingConfig, adapter: AdapterConfig, **settings: Any
    ) -> Callable[[ProgressCallback | None], Run]:
        return lambda progress: migrate(
            self.ws,
            self.runs["source"],
            self.runs["target backbone"],
            training=training,
            adapter=adapter,
            **settings,
            **self.common(progress),
        )

    def evaluate(self, subject: str) -> Callable[[ProgressCallback | None], Run]:
        return lambda progress: evaluate(
            self.ws,
            self.runs.get(subject, subject),
            dataset=self.runs["data"],
            **self.common(progress),
        )

    def compare(self, progress: ProgressCallback | None) -> Run:
        evaluations = [run for name, run in self.runs.items() if name.startswith("evaluation of ")]
        return compare(
            self.ws,
            evaluations,
            reference=self.runs["evaluation of retrained"],
            name=f"demo-{self.users}-users",
            progress=progress,
            should_cancel=self.should_cancel,
        )

    def steps(self) -> list[_Step]:
        few = {"strategy": PAPER_STRATEGY, "share": SHARE}
        methods = ("source", "migrated few", "migrated all", "retrained", "random", "shuffled")
        return [
            _Step("data", 1, self.data),
            _Step("source backbone", 4, self.backbone(SOURCE)),
            _Step("target backbone", 1, self.backbone(TARGET)),
            _Step("source", 1 if prompt_file().is_file() else 60, self.source),
            _Step("migrated few", 16, self.migrate(ADAPTER_FEW, SHAPE_FEW, **few)),
            _Step("migrated all", 72, self.migrate(ADAPTER_ALL, SHAPE_ALL)),
            _Step("retrained", 67, self.fit("retrained", RETRAINED)),
            _Step("random", 30, self.fit("random", RANDOM)),
            _Step("shuffled", 16, self.migrate(ADAPTER_FEW, SHAPE_FEW, shuffled=True, **few)),
            *(_Step(f"evaluation of {name}", 10, self.evaluate(name)) for name in methods),
            *(_Step(f"evaluation of {name}", 1, self.evaluate(name)) for name in BASELINES),
            _Step("comparison", 3, self.compare),
        ]


def demo(
    ws: Workspace,
    *,
    users: int = USERS,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Run the whole story and return its comparison; what exists is not done again.

    Source prompts on the small model, migration to the larger one on a small budget and
    with all users, full retraining, random prompts, the shuffled control and baselines,
    all evaluated on the test split of a goodbooks subset.
    """
    story = _Story(ws, users, device, should_cancel)
    steps = story.steps()
    overall = Overall([step.seconds for step in steps], progress)
    for number, step in enumerate(steps):
        check_cancel(should_cancel, step.title)
        begun = time.monotonic()
        story.runs[step.title] = step.work(overall.part(number))
        if time.monotonic() - begun < 0.05 * step.seconds:
            overall.skip(number)
    return story.runs["comparison"]


def prompt_file() -> Path:
    """Return where the shipped source prompts belong: demo/ in the data folder."""
    return data_root() / "demo" / PROMPT_FILE


def shipped_prompts(model: Run, data: Run) -> Path | None:
    """Return the shipped source prompts if they suit this backbone and these users."""
    path = prompt_file()
    try:
        file = read_prompts(path)
    except (StoreError, DataError):
        return None
    suits = file.meta.get("backbone", {}).get("fingerprint") == model.config["fingerprint"]
    return path if suits and len(file.user_ids) >= data.summary["users"] else None
