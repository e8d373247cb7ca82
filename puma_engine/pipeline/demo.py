"""The demo: every method on shipped data, from a customer's prompts to the comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from puma_engine.datasets import data_root
from puma_engine.defaults import (
    DEMO_ADAPTERS,
    DEMO_SHARE,
    DEMO_TRAINING,
    DEMO_USERS,
    PAPER_STRATEGY,
)
from puma_engine.errors import DataError, StoreError
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, fingerprints
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.evaluating import run_evaluation
from puma_engine.pipeline.fitting import run_fit
from puma_engine.pipeline.importing_data import import_dataset
from puma_engine.pipeline.importing_prompts import import_prompts
from puma_engine.pipeline.migrating import run_migration
from puma_engine.pipeline.publishing import add_published
from puma_engine.requests import EvaluationRequest, FitRequest, MigrationRequest
from puma_engine.store import Run, Workspace
from puma_engine.store.archives import subject_of

DATASET, SOURCE, TARGET = "goodbooks", "llama-small", "llama-medium"
PROMPT_FILE = "source-prompts.safetensors"
Step = Callable[[stage.Execution], Run]


def demo(
    ws: Workspace,
    *,
    users: int = DEMO_USERS,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Run every method on shipped data and return their comparison; finished runs are reused.

    Source prompts on the small model, migration to the larger one with few users and with all, full
    retraining, random prompts, the shuffled control and baselines, all evaluated on the test split
    of a goodbooks subset of so many users. Comparisons that ship as archives are added first.
    """
    execution = stage.Execution(device, progress, should_cancel)
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
                training=DEMO_TRAINING[role].to_dict(),
            ),
            part,
        )

    def source(part: stage.Execution) -> Run:
        data, model = runs["data"], runs["source backbone"]
        file = shipped_prompts(ws, model, data)
        if file is None:
            return fit("source", "source backbone")(part)
        return import_prompts(ws, data, model, file, progress=part.progress)

    def migrate(who: str, *, shuffled: bool = False) -> Step:
        return lambda part: run_migration(
            ws,
            MigrationRequest(
                sources=(runs["source"].id,),
                target=runs["target backbone"].id,
                strategy=PAPER_STRATEGY if who == "few" else None,
                share=DEMO_SHARE if who == "few" else None,
                training=DEMO_TRAINING[who].to_dict(),
                adapter=DEMO_ADAPTERS[who].to_dict(),
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
            name=f"demo-{users}-users",
            **part.callbacks,
        )

    methods = ("source", "migrated few", "migrated all", "retrained", "random", "shuffled")
    # Title, seconds on two CPU cores, and what is done.
    steps: list[tuple[str, float, Step]] = [
        ("data", 1, lambda part: import_dataset(ws, DATASET, users=users, progress=part.progress)),
        ("source backbone", 4, add_backbone(SOURCE)),
        ("target backbone", 1, add_backbone(TARGET)),
        ("source", 1 if prompt_file().is_file() else 25, source),
        ("migrated few", 10, migrate("few")),
        ("migrated all", 13, migrate("all")),
        ("retrained", 13, fit("retrained", "target backbone")),
        ("random", 6, fit("random", "target backbone")),
        ("shuffled", 10, migrate("few", shuffled=True)),
        *((f"evaluation of {name}", 3, evaluate(name)) for name in methods),
        *((f"evaluation of {name}", 1, evaluate(name)) for name in BASELINES),
        ("comparison", 3, comparison),
    ]
    parts = [stage.Part(title, seconds) for title, seconds, _ in steps]
    overall = stage.OverallProgress(parts, progress)
    for number, (title, _, step) in enumerate(steps):
        runs[title] = overall.do(number, execution, step)
    return runs["comparison"]


def prompt_file() -> Path:
    """Return the path of the shipped source prompts: in demo/ of the data folder."""
    return data_root() / "demo" / PROMPT_FILE


def add_shipped_comparisons(ws: Workspace) -> None:
    """Add the comparisons that ship as archives in demo/ of the data folder, where they are not here.

    Raises StoreError for a damaged archive.
    """
    there = {run.id for run in ws.runs(kind="comparison", status="finished")}
    for file in sorted((data_root() / "demo").glob("*.zip")):
        if subject_of(file) not in there:
            add_published(ws, file)


def shipped_prompts(ws: Workspace, model: Run, data: Run) -> Path | None:
    """Return the shipped source prompts if they were made for this backbone and these users."""
    path = prompt_file()
    try:
        file = read_prompts(path)
    except (StoreError, DataError):
        return None
    suits = file.meta.get("backbone", {}).get("fingerprint") in fingerprints(ws, model)
    return path if suits and len(file.user_ids) >= data.summary["users"] else None
