"""Backbones as runs: adding one, and loading it again unchanged."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.errors import BackboneError, NotFoundError
from puma_engine.pipeline import stage
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone

SAMPLE = 1 << 20


def add_backbone(
    ws: Workspace,
    spec: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    quantise: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Check a language model and record it: a zoo name, a folder or a hub id.

    Of a hub id, the commit that the revision (default: main) names now is recorded, and
    used from then on. quantise: "4bit" or "8bit", for models larger than a GPU. Raises
    BackboneError if the model cannot serve as a backbone.
    """
    from puma_engine.backbone import inspect_backbone
    from puma_engine.backbone.hub import is_hub_id, pin
    from puma_engine.zoo import ZOO

    stage.Execution(device, progress, should_cancel).announce(f"inspecting {spec}")
    text, path = str(spec), Path(spec).expanduser()
    if text not in ZOO and path.is_dir():
        text = str(path.resolve())
    if _folder(text) is None and is_hub_id(text):
        revision = pin(text, revision)
    config = {"spec": text, "revision": revision, "fingerprint": fingerprint(text, revision)}
    if quantise is not None:
        config["quantise"] = quantise

    def compute(_run_id: str, _folder: Path, _clock: stage.Clock) -> stage.StageResult:
        return stage.StageResult(
            summary=inspect_backbone(text, device=device, revision=revision, quantise=quantise)
        )

    label = name or Path(text).name
    return stage.run_stage(ws, "backbone", name=label, config=config, inputs={}, compute=compute)


def backbone_run(
    ws: Workspace, reference: stage.Reference | Path, *, device: str | None = None
) -> Run:
    """Return the run of a backbone, adding it first when a model's name or path is given.

    A backbone whose adding was stopped or failed is added again, with the settings of its run.
    """
    named = reference if isinstance(reference, Run) else str(reference)
    try:
        run = stage.look_up(ws, named, "backbone")
    except NotFoundError:
        if isinstance(reference, Run):
            raise
        return add_backbone(ws, reference, device=device)
    if run.status == "finished":
        return run
    settings = {key: run.config.get(key) for key in ("revision", "quantise")}
    return add_backbone(ws, run.config["spec"], name=run.name, device=device, **settings)


def load_backbone(
    ws: Workspace, reference: stage.Reference, *, device: str | None = None, precision: str = "auto"
) -> FrozenBackbone:
    """Load the model of a backbone run; the two used last stay in memory.

    Raises BackboneError when its files are no longer those that were added.
    """
    run = stage.find(ws, reference, "backbone")
    spec, revision = run.config["spec"], run.config["revision"]
    if fingerprint(spec, revision) != run.config["fingerprint"]:
        raise BackboneError(
            f"The files of the backbone {spec} changed since it was added as {run.id}; prompts "
            "fitted on it no longer fit. Restore them, or add it again (puma models add)."
        )
    return _load(spec, revision, device, precision, run.config.get("quantise"))


@lru_cache(maxsize=2)
def _load(
    spec: str, revision: str | None, device: str | None, precision: str, quantise: str | None
) -> FrozenBackbone:
    from puma_engine.backbone import FrozenBackbone

    return FrozenBackbone.load(
        spec, device=device, precision=precision, revision=revision, quantise=quantise
    )


def fingerprint(spec: str, revision: str | None) -> str:
    """Return 16 hexadecimal digits that change when a model's files do.

    Small files count whole; of each large one its size, first and last MiB. A hub id is
    known by its name and commit.
    """
    folder = _folder(spec)
    digest = hashlib.sha256()
    if folder is None:
        digest.update(f"{spec}@{revision}".encode())
        return digest.hexdigest()[:16]
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".model", ".txt") and file.name != "card.json":
            digest.update(f"{file.name}:{file.stat().st_size};".encode())
            with file.open("rb") as stream:
                if file.stat().st_size <= 64 * SAMPLE:
                    digest.update(stream.read())
                else:
                    digest.update(stream.read(SAMPLE))
                    stream.seek(-SAMPLE, os.SEEK_END)
                    digest.update(stream.read(SAMPLE))
    return digest.hexdigest()[:16]


def _folder(spec: str) -> Path | None:
    from puma_engine.zoo import ZOO, zoo_folder

    folder = zoo_folder(spec) if spec in ZOO else Path(spec)
    return folder if folder.is_dir() else None


def list_zoo() -> list[dict[str, Any]]:
    """Return the facts of each zoo backbone: from its card if it is built, else its shape."""
    from puma_engine.zoo import ZOO, zoo_folder

    rows = []
    for name, entry in ZOO.items():
        card = zoo_folder(name) / "card.json"
        built = card.is_file() and (card.parent / "model.safetensors").is_file()
        facts = json.loads(card.read_text(encoding="utf-8")) if built else asdict(entry)
        about = {"built": built, "shipped": entry.shipped, "folder": str(card.parent)}
        rows.append({**facts, "name": name, **about})
    return rows
