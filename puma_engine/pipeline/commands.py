"""The stages by name, as jobs and scripts call them: plain JSON arguments, a run id back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puma_engine.pipeline.backbones import add_backbone
from puma_engine.pipeline.calibrating import calibrate
from puma_engine.pipeline.comparing import compare
from puma_engine.pipeline.demo import demo
from puma_engine.pipeline.evaluating import evaluate
from puma_engine.pipeline.fitting import fit_prompts
from puma_engine.pipeline.importing_data import import_dataset
from puma_engine.pipeline.importing_prompts import import_prompts
from puma_engine.pipeline.migrating import chain, migrate
from puma_engine.pipeline.planning import run_plan
from puma_engine.pipeline.projecting import project
from puma_engine.pipeline.refining import refine
from puma_engine.pipeline.selecting import select

COMMANDS: dict[str, Callable[..., Any]] = {
    "import_dataset": import_dataset,
    "add_backbone": add_backbone,
    "fit_prompts": fit_prompts,
    "import_prompts": import_prompts,
    "refine": refine,
    "select": select,
    "migrate": migrate,
    "chain": chain,
    "evaluate": evaluate,
    "compare": compare,
    "project": project,
    "run_plan": run_plan,
    "calibrate": calibrate,
    "demo": demo,
}
# Jobs that an earlier version queued keep their command.
COMMANDS["carry_out"] = run_plan
