"""Backbones: properties, memory, fitted prompts, and adding one."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import engine
from puma_engine import jobs as engine_jobs
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.errors import BackboneError
from puma_engine.jobs import Job
from puma_engine.pipeline.backbones import list_zoo
from puma_engine.store import Run
from puma_engine.training.device import DTYPES, DeviceMemory, device_memory

TIGHT = 0.85  # above this share of the free memory, little is left for batches
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
FOLDERS = "PUMA_MODEL_FOLDERS"


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
    """Return the memory of a backbone's weights on each device: bf16 on a GPU, fp32 on a CPU.

    For a quantised backbone it is the measured memory.
    """
    result = []
    for device in devices:
        precision = "fp32" if device.device == "cpu" else "bf16"
        need = run.summary["parameters"] * DTYPES[precision].bytes
        if run.summary.get("quantised"):
            precision, need = run.summary["quantised"], run.summary["memory_bytes"]
        result.append(MemoryNeed(precision, int(need), device))
    return result


def fitted(backbone: Run, prompts: list[Run], names: dict[str, str]) -> list[dict[str, Any]]:
    """Return one row per prompt table of a backbone: kind, name, users, data set, validation."""
    return [
        {
            "kind": run.config.get("role", "migrated"),
            "name": run.name,
            "users": run.summary.get("users"),
            "data set": names.get(run.inputs.get("dataset", ""), ""),
            "template": run.config.get("template"),
            "validation": run.summary.get("best_validation"),
        }
        for run in prompts
        if run.inputs.get("backbone") == backbone.id
    ]


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
        "From": run.config["spec"],
        "Revision": run.config.get("revision") or "–",
    }


def template_names(run: Run) -> dict[str, str]:
    """Return labels of the templates that a backbone was checked with, by name."""
    return {
        name: f"{name}, for {TEMPLATES[name].task}s"
        for name in run.summary.get("templates", {})
        if name in TEMPLATES
    }


def visible_tokens(card: dict[str, Any]) -> str:
    """Return the tokens of a template's example, with visible spaces."""
    return " ".join(card["tokens"]).replace("Ġ", "␣").replace("▁", "␣")


def default_pair(backbones: list[Run], prompts: list[Run]) -> tuple[str, str]:
    """Return the ids of the newest backbone with source prompts, and of the newest other one."""
    sources = {run.inputs.get("backbone") for run in prompts if run.config.get("role") == "source"}
    source = next((run.id for run in backbones if run.id in sources), backbones[-1].id)
    return source, next((run.id for run in backbones if run.id != source), source)


def zoo() -> dict[str, str]:
    """Return the family and size of each shipped model that is built, by name."""
    return {
        row["name"]: f"{row['family']}, {row['parameters'] / 1e6:.1f} M parameters"
        for row in list_zoo()
        if row["built"]
    }


def is_public() -> bool:
    """Say whether other machines can reach the dashboard."""
    return bool(os.environ.get("PUMA_PUBLIC"))


def checked_spec(spec: str, revision: str | None) -> tuple[str, str | None]:
    """Return the spec and revision of a model for a job. Raises BackboneError for wrong ones.

    It checks what can be checked without loading the model; the job checks the rest.
    """
    spec, revision = spec.strip(), (revision or "").strip() or None
    if not spec:
        raise BackboneError("Give the name of a shipped model, a hub id, or a model folder.")
    if spec in zoo():
        return spec, None
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise BackboneError(
            f"{revision[:60]!r} is no revision; give a branch, a tag or a commit of the model."
        )
    folder = Path(spec).expanduser()
    if folder.is_absolute() or spec.startswith((".", "~")):
        return str(_checked_folder(folder)), None
    if not HUB_ID.fullmatch(spec) or ".." in spec:
        raise BackboneError(
            f"{spec[:100]!r} is neither a shipped model ({', '.join(zoo())}), nor a hub id such as "
            "owner/name, nor the absolute path of a folder."
        )
    return spec, revision


def _checked_folder(folder: Path) -> Path:
    real = folder.resolve()
    allowed = [
        Path(text).resolve() for text in os.environ.get(FOLDERS, "").split(os.pathsep) if text
    ]
    if (is_public() or allowed) and not any(real.is_relative_to(path) for path in allowed):
        raise BackboneError(
            f"Models are only read from the folders that {FOLDERS} names on the server; give a hub "
            "id, or ask the administrator."
        )
    if not (real / "config.json").is_file():
        raise BackboneError(
            f"The folder {real} holds no model: it has no config.json. Give the folder that "
            "save_pretrained wrote."
        )
    return real


def add(spec: str, revision: str | None, name: str | None) -> Job:
    """Queue the check and the addition of a model. Raises BackboneError for a wrong spec."""
    spec, revision = checked_spec(spec, revision)
    engine.workspace(create=True)
    arguments = {"spec": spec, "revision": revision, "name": (name or "").strip() or None}
    return engine.queue("add_backbone", arguments, f"Add the model {Path(spec).name[:80]}")


def refused() -> list[Job]:
    """Return failed jobs that add a model, the newest first."""
    if not engine.has_workspace():
        return []
    failed = engine_jobs.jobs(engine.workspace(), status="failed")
    return [job for job in failed if job.command == "add_backbone"]
