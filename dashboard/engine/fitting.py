"""Fitting prompts from the dashboard: what can be fitted, and its job."""

from dashboard import engine
from dashboard.engine import Job
from puma_engine.errors import ConfigError
from puma_engine.requests import FitRequest

ROLES = {
    "source": "source prompts, which a migration starts from",
    "retrained": "full retraining, which a migration is measured against",
    "random": "random prompts, with only the head trained",
}


def launch(dataset: str, backbone: str, role: str) -> Job:
    """Queue fitting one prompt a user. Raises ConfigError for what is not in the workspace."""
    data = {run.id: run for run in engine.runs("dataset")}
    models = {run.id: run for run in engine.runs("backbone")}
    if dataset not in data or backbone not in models or role not in ROLES:
        raise ConfigError(
            "The data set, the model or the purpose is not in this workspace; reload the page and "
            "choose again."
        )
    title = f"Fit {role} prompts of {data[dataset].name} on {models[backbone].name}"
    request = FitRequest(dataset=dataset, backbone=backbone, role=role)
    return engine.queue("fit_prompts", request.to_dict(), title)
