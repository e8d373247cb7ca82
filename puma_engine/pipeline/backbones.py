"""Backbones as runs: add a model, and load it again unchanged."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.errors import BackboneError, NotFoundError, StoreError
from puma_engine.pipeline import stage
from puma_engine.pipeline.item_cache import item_cache_cost, item_store
from puma_engine.store import Run, Workspace, locks
from puma_engine.training.cpu_threads import use_free_threads

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone

SAMPLE = 1 << 20
LARGE = 64 * SAMPLE
# Seconds between two checks whether another process still adds a model.
WAIT_SECONDS = 0.2
CHAT_SUFFIX = ".jinja"
_ADDING: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
_ADDING_GUARD = threading.Lock()


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
    """Check a language model and record it.

    spec: a zoo name, "smollm2", a folder, a GGUF file, or a hub id. For a hub id, the current
    commit of the revision (default: main) is recorded and used from then on. quantise: "4bit" or
    "8bit", for models larger than a GPU. The memory of the weights is reported as progress before
    they are read. If another process or thread adds the same model, this waits for it. Raises
    BackboneError if the model cannot serve as a backbone.
    """
    from puma_engine.backbone import inspect_backbone
    from puma_engine.backbone.gguf_model import find_parts, model_name
    from puma_engine.backbone.hub import is_hub_id, pin, refuse_revision
    from puma_engine.backbone.packages import PACKAGED
    from puma_engine.zoo import ZOO

    execution = stage.Execution(device, progress, should_cancel)
    execution.announce(f"inspecting {spec}")
    text, path = str(spec), Path(spec).expanduser()
    label = name or path.name
    if text not in ZOO and text not in PACKAGED:
        if (parts := find_parts(path)) is not None:
            # Links are not resolved, since those of the hub's cache lead to files without the model's name.
            text, label = str(parts[0].absolute()), name or model_name(parts[0])
        elif path.is_dir():
            text = str(path.resolve())
    if model_files(text) is None and is_hub_id(text):
        revision = pin(text, revision)
    else:
        refuse_revision(text, revision)
    config = {"spec": text, "revision": revision, "fingerprint": fingerprint(ws, text, revision)}
    if quantise is not None:
        config["quantise"] = quantise
    config = _recorded_config(ws, config)

    def compute(_run_id: str, _folder: Path, _clock: stage.Clock) -> stage.StageResult:
        return stage.StageResult(
            summary=inspect_backbone(
                text,
                device=device,
                revision=revision,
                quantise=quantise,
                announce=execution.announce,
            )
        )

    lock = ws.lock(ws.run_key("backbone", config, {}))
    # Threads of this process, such as those of a study on a cluster, share the file lock.
    with _ADDING_GUARD:
        adding = _ADDING[lock]
    with adding:
        while True:
            _wait_for_others(lock, label, execution)
            try:
                run = stage.run_stage(
                    ws, "backbone", name=label, config=config, inputs={}, compute=compute
                )
            except StoreError:
                # Another waiting process may have begun first.
                if not locks.is_held_elsewhere(lock):
                    raise
            else:
                break
    is_unchanged(ws, run)  # stores the hashes of the files from the hub
    return run


def _wait_for_others(lock: Path, label: str, execution: stage.Execution) -> None:
    """Wait until no other process adds this model. Raises Cancelled."""
    if not locks.is_held_elsewhere(lock):
        return
    waiting = f"waiting for another process that adds {label}"
    execution.announce(waiting)
    while locks.is_held_elsewhere(lock):
        execution.check_cancel(waiting)
        time.sleep(WAIT_SECONDS)


def backbone_run(
    ws: Workspace, reference: stage.Reference | Path, *, device: str | None = None
) -> Run:
    """Return the run of a backbone; a model's name or path is added first.

    A backbone that was not added completely is added again with the settings of its run, unless the
    reference is the name or path of another model.
    """
    named = reference if isinstance(reference, Run) else str(reference)
    try:
        run = stage.look_up(ws, named, "backbone")
    except NotFoundError:
        if isinstance(reference, Run):
            raise
        return add_backbone(ws, reference, device=device)
    if run.status == "finished":
        if run.published is not None and str(reference) == run.config["spec"] != run.id:
            # The model of this name may be another one than that of the published run.
            return run if is_here(ws, run) else add_backbone(ws, run.config["spec"], device=device)
        return run
    if isinstance(named, str) and named not in (run.id, run.config["spec"]) and model_files(named):
        return add_backbone(ws, named, device=device)
    settings = {key: run.config.get(key) for key in ("revision", "quantise")}
    return add_backbone(ws, run.config["spec"], name=run.name, device=device, **settings)


def load_backbone(
    ws: Workspace, reference: stage.Reference, *, device: str | None = None, precision: str = "auto"
) -> FrozenBackbone:
    """Load the model of a backbone run; the last two stay in memory.

    Raises BackboneError if its files have changed since it was added.
    """
    run = check_backbone(ws, reference)
    spec, revision = run.config["spec"], run.config["revision"]
    backbone = _load(spec, revision, device, precision, run.config.get("quantise"))
    backbone.prefix_store = item_store(ws, run, backbone)
    if backbone.device.type == "cpu":
        use_free_threads()
    return backbone


def computing_cost(backbone: FrozenBackbone) -> dict[str, Any]:
    """Return cost entries of a run about its model: model_precision, threads on a CPU, cached items."""
    cost: dict[str, Any] = {"model_precision": backbone.info.dtype} | item_cache_cost(backbone)
    if backbone.device.type == "cpu":
        import torch

        cost["threads"] = torch.get_num_threads()
    return cost


def release_backbones() -> None:
    """Drop the models in memory, so that the next one has room."""
    import torch

    _load.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_backbone(ws: Workspace, reference: stage.Reference) -> Run:
    """Return the run of a backbone. Raises BackboneError if its files have changed since it was added."""
    run = stage.find(ws, reference, "backbone")
    if run.published is not None and not is_here(ws, run):
        raise BackboneError(
            f"The published comparison {run.published.get('name')!r} was measured with the model "
            f"{run.config['spec']}, which is not on this machine{_how_to_get(run)}; without it the "
            "published runs can only be viewed, compared and exported."
        )
    if not is_unchanged(ws, run):
        remedy = "Restore them, or add it again (puma models add)."
        if cached := _hub_files(run.config["spec"], run.config["revision"]):
            folder = next(iter(cached.values())).parents[2]
            remedy = f"Delete {folder}, so that the model is fetched again."
        raise BackboneError(
            f"The files of the backbone {run.config['spec']} changed since it was added as {run.id}; prompts "
            f"fitted on it no longer fit. {remedy}"
        )
    return run


def is_here(ws: Workspace, run: Run) -> bool:
    """Return whether the model of a backbone run is on this machine, unchanged."""
    try:
        return is_unchanged(ws, run)
    except BackboneError:
        return False


def _how_to_get(run: Run) -> str:
    from puma_engine.backbone.packages import PACKAGED

    package = PACKAGED.get(run.config["spec"])
    return f" (`{package.install}` installs it)" if package and package.path is None else ""


@lru_cache(maxsize=2)
def _load(
    spec: str, revision: str | None, device: str | None, precision: str, quantise: str | None
) -> FrozenBackbone:
    from puma_engine.backbone import FrozenBackbone

    return FrozenBackbone.load(
        spec, device=device, precision=precision, revision=revision, quantise=quantise
    )


def fingerprint(
    ws: Workspace, spec: str, revision: str | None = None, *, fresh: bool = False
) -> str:
    """Return the fingerprint of a model: a hash of its files, 16 hexadecimal digits.

    The workspace caches hashes of large files until they change; fresh: read them again. The
    fingerprint of a hub id is made from its name and commit.
    """
    files = model_files(spec)
    if files is None:
        return hashlib.sha256(f"{spec}@{revision}".encode()).hexdigest()[:16]
    return _digest(files, lambda file: ws.file_hash(file, fresh=fresh).encode())


def earlier_fingerprints(
    ws: Workspace, spec: str, revision: str | None = None, *, fresh: bool = False
) -> set[str]:
    """Return the fingerprints of the same files by earlier versions.

    These did not cover a chat template in a separate file, and version 0.1.0 only covered parts of
    large files.
    """
    files, fingerprints = model_files(spec), set()
    if files is not None and any(file.suffix == CHAT_SUFFIX for file in files):
        counted = [file for file in files if file.suffix != CHAT_SUFFIX]
        fingerprints.add(_digest(counted, lambda file: ws.file_hash(file, fresh=fresh).encode()))
    sampled = sampled_fingerprint(spec, revision)
    return fingerprints if sampled is None else fingerprints | {sampled}


def sampled_fingerprint(spec: str, revision: str | None = None) -> str | None:
    """Return the fingerprint of version 0.1.0, or None if there are no large files.

    It covers the size and the first and last MiB of each file above 64 MiB.
    """
    files = model_files(spec)
    files = files and [file for file in files if file.suffix != CHAT_SUFFIX]
    if files is None or all(file.stat().st_size <= LARGE for file in files):
        return None

    def ends(file: Path) -> bytes:
        with file.open("rb") as stream:
            first = stream.read(SAMPLE)
            stream.seek(-SAMPLE, os.SEEK_END)
            return first + stream.read(SAMPLE)

    return _digest(files, ends)


def model_files(spec: str) -> list[Path] | None:
    """Return the files of a model, or None for a hub id."""
    from puma_engine.backbone.gguf_model import find_parts, tokenizer_beside
    from puma_engine.backbone.packages import local_path
    from puma_engine.zoo import ZOO, zoo_folder

    path = zoo_folder(spec) if spec in ZOO else local_path(spec)
    if (parts := find_parts(path)) is not None:
        return [*parts, *tokenizer_beside(parts[0])]
    if not path.is_dir():
        return None
    suffixes = (".safetensors", ".json", ".model", ".txt", CHAT_SUFFIX)
    return sorted(
        file for file in path.iterdir() if file.suffix in suffixes and file.name != "card.json"
    )


def _hub_files(spec: str, revision: str | None) -> dict[str, Path]:
    """Return the files of a hub model in the local cache, by name; none if it was not fetched."""
    from puma_engine.backbone import hub

    if revision is None or model_files(spec) is not None or not hub.is_hub_id(spec):
        return {}
    folder = hub.cached(spec, revision)
    if folder is None:
        return {}
    return {
        file.name: file
        for file in sorted(folder.iterdir())
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in hub.FILES)
    }


def _digest(files: list[Path], large: Callable[[Path], bytes]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        digest.update(file.read_bytes() if size <= LARGE else large(file))
    return digest.hexdigest()[:16]


def _recorded_config(ws: Workspace, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a backbone; for one that an earlier version added, as it recorded them."""
    for earlier in sorted(earlier_fingerprints(ws, config["spec"], config["revision"])):
        old = config | {"fingerprint": earlier}
        with contextlib.suppress(NotFoundError):
            if is_unchanged(ws, ws.run(ws.run_key("backbone", old, {}))):
                return old
    return config


def is_unchanged(ws: Workspace, run: Run, *, fresh: bool = False) -> bool:
    """Return whether the files of a backbone run are unchanged since it was added.

    A run of an earlier version is compared once by the fingerprint of that version; its full
    content is stored then and compared later. Cached files of a hub model are compared with their
    content when they were first seen. fresh: read large files anew.
    """
    spec, revision = run.config["spec"], run.config["revision"]
    if cached := _hub_files(spec, revision):
        return _are_unchanged(ws, run, cached, fresh=fresh)
    current = fingerprint(ws, spec, revision, fresh=fresh)
    recorded = content_fingerprint(ws, run) or run.config["fingerprint"]
    if current == recorded:
        return True
    if recorded not in earlier_fingerprints(ws, spec, revision, fresh=fresh):
        return False
    _store_content(ws, run, current)
    return True


def _are_unchanged(ws: Workspace, run: Run, files: dict[str, Path], *, fresh: bool) -> bool:
    """Compare files of a hub model with their stored hashes, and store hashes of new files."""
    stored = _stored_content(ws, run)
    recorded = json.loads(stored) if stored else {}
    current = {name: ws.file_hash(file, fresh=fresh) for name, file in files.items()}
    if any(recorded.get(name, digest) != digest for name, digest in current.items()):
        return False
    if current.keys() - recorded.keys():
        _store_content(ws, run, json.dumps(recorded | current, sort_keys=True))
    return True


def content_fingerprint(ws: Workspace, run: Run) -> str | None:
    """Return the stored fingerprint of the full content for a run of an earlier version."""
    stored = _stored_content(ws, run)
    return None if stored is None or stored.startswith("{") else stored


def _stored_content(ws: Workspace, run: Run) -> str | None:
    """Return the stored content of a model from the database: a fingerprint, or hashes of files as JSON."""
    rows = ws.query("SELECT content_fingerprint FROM backbones WHERE run_id = ?", [run.id])
    return rows[0]["content_fingerprint"] if rows else None


def _store_content(ws: Workspace, run: Run, content: str) -> None:
    if not ws.read_only:
        with ws.transaction() as db:
            db.execute(
                "UPDATE backbones SET content_fingerprint = ? WHERE run_id = ?", [content, run.id]
            )


def fingerprints(ws: Workspace, run: Run) -> set[str]:
    """Return all fingerprints of a backbone that exported files may contain."""
    known = {run.config["fingerprint"], content_fingerprint(ws, run)}
    if is_unchanged(ws, run):
        known |= {
            fingerprint(ws, run.config["spec"], run.config["revision"]),
            *earlier_fingerprints(ws, run.config["spec"], run.config["revision"]),
        }
    return {text for text in known if text is not None}


def list_zoo() -> list[dict[str, Any]]:
    """Return the properties of each zoo backbone: from its card if it is built, else its shape."""
    from puma_engine.zoo import ZOO, zoo_folder

    rows = []
    for name, entry in ZOO.items():
        card = zoo_folder(name) / "card.json"
        built = card.is_file() and (card.parent / "model.safetensors").is_file()
        properties = json.loads(card.read_text(encoding="utf-8")) if built else asdict(entry)
        status = {"built": built, "shipped": entry.shipped, "folder": str(card.parent)}
        rows.append({**properties, "name": name, **status})
    return rows
