"""Backbones: properties, memory, adding one, prompts on them, and fitting more."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import comparisons, people
from puma_engine.backbone.gguf_model import find_parts
from puma_engine.backbone.packages import PACKAGED, local_path
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.errors import BackboneError, ConfigError
from puma_engine.jobs import Job
from puma_engine.pipeline.backbones import list_zoo
from puma_engine.requests import FitRequest
from puma_engine.store import Run
from puma_engine.training.device import DTYPES, DeviceMemory, device_memory, is_bf16_on_cpu

UNKNOWN = "–"
TIGHT = 0.85  # above this share of the free memory, little is left for batches
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
FOLDERS = "PUMA_MODEL_FOLDERS"
ROLES = {
    "source": "source prompts, which a migration starts from",
    "retrained": "full retraining, which a migration is measured against",
    "random": "random prompts, with only the head trained",
}


@st.cache_data(ttl=20, show_spinner=False)
def memory() -> list[DeviceMemory]:
    """Return the memory of this machine's devices, at most 20 seconds old."""
    return device_memory()


@dataclass(frozen=True)
class MemoryNeed:
    """The memory of a backbone's weights in one precision, and the device to hold them."""

    precision: str
    need: int
    device: DeviceMemory

    @property
    def verdict(self) -> str:
        """Return fits, tight (little is left for batches), or too large."""
        if self.need > self.device.free:
            return "too large"
        return "tight" if self.need > TIGHT * self.device.free else "fits"


def needs(run: Run, devices: list[DeviceMemory]) -> list[MemoryNeed]:
    """Return the memory of a backbone's weights on each device, in the precision that "auto" is there.

    For a quantised backbone it is the measured memory.
    """
    result = []
    for device in devices:
        parameters = run.summary["parameters"]
        on_cpu = device.device == "cpu"
        precision = "fp32" if on_cpu and not is_bf16_on_cpu(parameters) else "bf16"
        need = parameters * DTYPES[precision].bytes
        if run.summary.get("quantised"):
            precision, need = run.summary["quantised"], run.summary["memory_bytes"]
        result.append(MemoryNeed(precision, int(need), device))
    return result


def prompt_table(prompts: list[Run]) -> pd.DataFrame:
    """Return one row per prompt table by kind, with its backbone, data set and cost."""
    names = {run.id: run.name for kind in ("dataset", "backbone") for run in engine.runs(kind)}
    rows = [
        {
            "kind": run.config.get("role", "migrated"),
            "name": run.name,
            "users": run.summary.get("users"),
            "trained on": run.cost.get("users_trained"),
            "backbone": names.get(run.inputs.get("backbone", ""), ""),
            "data set": names.get(run.inputs.get("dataset", ""), ""),
            "template": run.config.get("template"),
            "validation": run.summary.get("best_validation"),
            "by epoch": _validation_by_epoch(run),
            "seconds": run.cost.get("fitting_seconds", run.seconds),
            "created": pd.to_datetime(run.created),
        }
        for run in prompts
    ]
    table = pd.DataFrame(rows).sort_values(
        "kind", key=lambda kinds: kinds.map(engine.rank), kind="stable"
    )
    labels = {name: kind.label for name, kind in engine.KINDS.items()}
    return table.assign(kind=table["kind"].replace(labels))


def _validation_by_epoch(run: Run) -> list[float] | None:
    """Return the validation value after each epoch of a training; None without two of them."""
    history = run.summary.get("history") or ()
    values = [epoch["validation"] for epoch in history if epoch.get("validation") is not None]
    return values if len(values) > 1 else None


def facts(run: Run) -> dict[str, str]:
    """Return the properties of a backbone as texts by label, in the order of display."""
    summary = run.summary
    starts = ", ".join(summary.get("starts_with") or ()) or "nothing"
    return {
        "Family": f"{summary['family']} ({summary['architecture']})",
        "Parameters": f"{summary['parameters']:,}",
        "Width (of a soft prompt)": f"{summary['width']:,}",
        "Layers": f"{summary['layers']:,}",
        "Vocabulary (tokens)": f"{summary['vocabulary']:,}",
        "Maximum length (tokens)": f"{summary['context']:,}"
        if summary.get("context")
        else "unknown",
        "Tokens added before a text": starts,
        "Output head": "shared with the input embeddings"
        if summary.get("tied_head")
        else "separate",
        "Quantised": summary.get("quantised") or "no",
        "Stored as": f"GGUF {summary['file_type']}" if summary.get("file_type") else "safetensors",
        "Licence": summary.get("licence") or UNKNOWN,
        "Origin": summary.get("origin") or UNKNOWN,
        "From": run.config["spec"],
        "Revision": run.config.get("revision") or UNKNOWN,
    }


def template_names(run: Run) -> dict[str, str]:
    """Return labels of the templates that a backbone was checked with, by name."""
    return {
        name: f"{name}, for {TEMPLATES[name].task}s"
        for name in run.summary.get("templates", {})
        if name in TEMPLATES
    }


def default_pair(backbones: list[Run], prompts: list[Run]) -> tuple[str, str]:
    """Return the ids of the old and the new backbone to begin with.

    They are those of the Summary's verdict, else the newest with source prompts and the newest other.
    """
    known = [run.id for run in backbones]
    decided = _decided_pair()
    if decided is not None and set(decided) <= set(known):
        return decided
    sources = {run.inputs.get("backbone") for run in prompts if run.config.get("role") == "source"}
    source = next((run_id for run_id in known if run_id in sources), known[-1])
    return source, next((run_id for run_id in known if run_id != source), source)


def _decided_pair() -> tuple[str, str] | None:
    """Return the backbones of the migration that the Summary's verdict is about; None without one.

    A chain begins with its first backbone, an aggregation with that of its first source prompts.
    """
    judged = comparisons.judged_migration()
    if judged is None:
        return None
    try:
        migration = first = engine.run(judged)
        while sources := people.sources_of(first):
            first = sources[0]
    except engine.NotFoundError:
        return None
    return first.inputs.get("backbone", ""), migration.inputs.get("backbone", "")


def named_models() -> dict[str, str]:
    """Return a description of each model that a name suffices for: the zoo's, and packaged ones."""
    built = {
        row["name"]: f"{row['family']}, {row['parameters'] / 1e6:.1f} M parameters"
        for row in list_zoo()
        if row["built"]
    }
    packaged = {
        name: f"{model.file}, {model.licence}" for name, model in PACKAGED.items() if model.path
    }
    return built | packaged


def checked_spec(spec: str, revision: str | None) -> tuple[str, str | None]:
    """Return the spec and revision of a model for a job. Raises BackboneError for wrong ones.

    It checks what can be checked without loading the model; the job checks the rest.
    """
    spec, revision = spec.strip(), (revision or "").strip() or None
    if not spec:
        raise BackboneError(
            "Give the name of a shipped model, a hub id, a model folder or a GGUF file."
        )
    if spec in PACKAGED:
        local_path(spec)
    if spec in named_models() or spec in PACKAGED:
        return spec, None
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise BackboneError(
            f"{revision[:60]!r} is not a revision; give a branch, a tag or a commit of the model."
        )
    folder = Path(spec).expanduser()
    if folder.is_absolute() or spec.startswith((".", "~")):
        _check_readable([folder])
        if (parts := find_parts(folder)) is not None:
            _check_readable(parts)
            return str(parts[0].absolute()), None
        folder = folder.resolve()
        if not (folder / "config.json").is_file():
            raise BackboneError(
                f"The path {folder} holds no model: it is no GGUF file, and has no config.json. Give a "
                "GGUF file, or the folder that save_pretrained wrote."
            )
        return str(folder), None
    if not HUB_ID.fullmatch(spec) or ".." in spec:
        raise BackboneError(
            f"{spec[:100]!r} is neither a shipped model ({', '.join(named_models())}), nor a hub id such "
            "as owner/name, nor the absolute path of a folder or a GGUF file."
        )
    return spec, revision


def _check_readable(paths: list[Path]) -> None:
    """Raise BackboneError for a path outside the folders that the server may read models from."""
    names = os.environ.get(FOLDERS, "").split(os.pathsep)
    allowed = [Path(name).resolve() for name in names if name]
    if not allowed and not os.environ.get("PUMA_PUBLIC"):
        return
    for path in paths:
        if not any(path.resolve().is_relative_to(folder) for folder in allowed):
            raise BackboneError(
                f"Models are only read from the folders that {FOLDERS} names on the server; give a "
                "hub id, or ask the administrator."
            )


def add(spec: str, revision: str | None, name: str | None) -> Job:
    """Queue the check and the addition of a model. Raises BackboneError for a wrong spec."""
    spec, revision = checked_spec(spec, revision)
    engine.workspace(create=True)
    arguments = {"spec": spec, "revision": revision, "name": (name or "").strip() or None}
    return engine.queue("add_backbone", arguments, f"Add the model {Path(spec).name[:80]}")


def refused() -> list[Job]:
    """Return failed jobs that add a model, the newest first."""
    return [
        job for job in engine.jobs(None) if job.command == "add_backbone" and job.status == "failed"
    ]


def usual_role(dataset: str, backbone: str) -> str:
    """Return what prompts of a data set on a model are usually fitted for.

    They are retrained where another model has source prompts of the data set and this one has none.
    """
    tables = [run for run in engine.runs("prompts") if run.config.get("role") == "source"]
    with_sources = {
        run.inputs.get("backbone") for run in tables if run.inputs["dataset"] == dataset
    }
    return "retrained" if with_sources and backbone not in with_sources else "source"


def fit(dataset: str, backbone: str, role: str) -> Job:
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
