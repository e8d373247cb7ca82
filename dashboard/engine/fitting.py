"""Fitting prompts from the dashboard: what can be fitted, and its job."""

from __future__ import annotations

from dashboard import engine
from dashboard.engine import Job
from puma_engine.errors import ConfigError

ROLES = {
    "source": "source prompts, which a migration starts from",
    "retrained": "full retraining, which a migration is measured against",
    "random": "random prompts, with the head alone trained",
}


def launch(dataset: str, backbone: str, role: str) -> Job:
    """Queue fitting one prompt a user. Raises ConfigError for what is not in the workspace."""
    data = {run.id: run for run in engine.runs("dataset")}
    models = {run.id: run for run in engine.runs("backbone")}
    if dataset not in data or backbone not in models or role not in ROLES:
        raise ConfigError(
            "Choose a data set and a model of this workspace, and what the prompts are for; one of "
            "them is no longer here, so reload the page."
        )
    title = f"Fit {role} prompts of {data[dataset].name} on {models[backbone].name}"
    arguments = {"dataset": dataset, "backbone": backbone, "role": role}
    return engine.queue("fit_prompts", arguments, title)
