"""Backbones: their facts, what is fitted on them, memory, and adding one."""

from __future__ import annotations

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
class Need:
    """What a backbone's weights take in one precision, and whether a device has that free."""

    precision: str
    need: int
    device: DeviceMemory

    @property
    def verdict(self) -> str:
        """fits, tight (little is left for batches), or too large."""
        if self.need > self.device.free:
            return "too large"
        return "tight" if self.need > TIGHT * self.device.free else "fits"


def needs(run: Run, devices: list[DeviceMemory]) -> list[Need]:
    """Return the need of a backbone's weights on each device, in that device's precision.

    A GPU computes in bf16, a CPU in fp32. A quantised backbone takes what was measured.
    """
    found = []
    for device in devices:
        precision = "fp32" if device.device == "cpu" else "bf16"
        need = run.summary["parameters"] * DTYPES[precision].bytes
        if run.summary.get("quantised"):
            precision, need = run.summary["quantised"], run.summary["memory_bytes"]
        found.append(Need(precision, int(need), device))
    return found


def fitted(backbone: Run, prompts: list[Run], names: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row a prompt table on this backbone: kind, name, users, data set, validation."""
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
    """Return the facts of a backbone as labelled text, in the order of a card."""
    known = run.summary
    starts = ", ".join(known.get("starts_with") or ()) or "nothing"
    return {
        "Family": f"{known['family']} ({known['architecture']})",
        "Parameters": f"{known['parameters']:,}",
        "Width (of a soft prompt)": f"{known['width']:,}",
        "Layers": f"{known['layers']:,}",
        "Vocabulary (tokens)": f"{known['vocabulary']:,}",
        "Longest text (tokens)": f"{known['context']:,}" if known.get("context") else "unknown",
        "Puts in front of a text": starts,
        "Output head": "shared with the input" if known.get("tied_head") else "its own",
        "Quantised": known.get("quantised") or "no",
        "From": run.config["spec"],
        "Revision": run.config.get("revision") or "–",
    }


def template_names(run: Run) -> dict[str, str]:
    """Return the templates that a backbone was checked with: name, and its task."""
    return {
        name: f"{name}, for {TEMPLATES[name].task}s"
        for name in run.summary.get("templates", {})
        if name in TEMPLATES
    }


def as_read(card: dict[str, Any]) -> str:
    """Return the tokens of a template's example, the space inside tokens made visible."""
    return " ".join(card["tokens"]).replace("Ġ", "␣").replace("▁", "␣")


def default_pair(backbones: list[Run], prompts: list[Run]) -> tuple[str, str]:
    """Return likely source and target: the newest with source prompts, and the newest other."""
    sources = {run.inputs.get("backbone") for run in prompts if run.config.get("role") == "source"}
    source = next((run.id for run in backbones if run.id in sources), backbones[-1].id)
    return source, next((run.id for run in backbones if run.id != source), source)


def zoo() -> dict[str, str]:
    """Return the shipped models that are built: name, and family with parameters."""
    return {
        row["name"]: f"{row['family']}, {row['parameters'] / 1e6:.1f} M parameters"
        for row in list_zoo()
        if row["built"]
    }


def is_public() -> bool:
    """Say whether the dashboard serves people beyond this machine."""
    return bool(os.environ.get("PUMA_PUBLIC"))


def checked_spec(spec: str, revision: str | None) -> tuple[str, str | None]:
    """Return a model's spec and revision as a job takes them, or raise BackboneError.

    What can be told without loading the model is told here; the job tells the rest.
    """
    spec, revision = spec.strip(), (revision or "").strip() or None
    if not spec:
        raise BackboneError("Give the name of a shipped model, a hub id, or a model folder.")
    if spec in zoo():
        return spec, None
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise BackboneError(
            f"{revision[:60]!r} is no revision; it is a branch, a tag or a commit of the model."
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
    allowed = [Path(one).resolve() for one in os.environ.get(FOLDERS, "").split(os.pathsep) if one]
    if (is_public() or allowed) and not any(real.is_relative_to(one) for one in allowed):
        raise BackboneError(
            f"Models are only read from the folders that {FOLDERS} names on the server; give a hub "
            "id, or ask whoever runs it."
        )
    if not (real / "config.json").is_file():
        raise BackboneError(
            f"The folder {real} holds no model: it has no config.json. Give the folder that "
            "save_pretrained wrote."
        )
    return real


def add(spec: str, revision: str | None, name: str | None) -> Job:
    """Queue the check and the record of a model. Raises BackboneError for what cannot work."""
    spec, revision = checked_spec(spec, revision)
    engine.workspace(create=True)
    arguments = {"spec": spec, "revision": revision, "name": (name or "").strip() or None}
    return engine.queue("add_backbone", arguments, f"Add the model {Path(spec).name[:80]}")


def refused() -> list[Job]:
    """Return failed attempts at adding a model, the newest first."""
    if not engine.has_workspace():
        return []
    failed = engine_jobs.jobs(engine.workspace(), status="failed")
    return [job for job in failed if job.command == "add_backbone"]
