"""Write and read adapters as folders in the hub's conventions; push to and fetch from the hub.

A folder holds config.json, model.safetensors (the network), head.safetensors (the target's
head) and README.md, a model card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.backbone import hub
from puma_engine.errors import ConfigError, MigrationError, StoreError
from puma_engine.exchange.prompt_file import HEAD_FILE, read_head, write_head
from puma_engine.files import load_tensors, read_json, save_tensors, write_json, write_text

if TYPE_CHECKING:
    from puma_engine.migration.adapter import Adapter

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, HEAD_FILE, CARD)
SHAPE = ("d_in", "d_out", "hidden", "depth", "dropout")
ARCHITECTURE = "puma-adapter"


@dataclass(frozen=True)
class AdapterFile:
    """An adapter outside any workspace.

    tensors: of the network; config: its shape, and the models that it maps from and to; head: the
    tensors of the target's head, or None; revision: the commit on the hub, or None.
    """

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    head: dict[str, np.ndarray] | None = None
    revision: str | None = None

    def network(self) -> Adapter:
        """Build the network in eval mode. Raises MigrationError if the tensors do not fit."""
        from puma_engine.migration.adapter import load_adapter

        try:
            return load_adapter(self.tensors, self.config)
        except (RuntimeError, KeyError, ConfigError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise MigrationError(
                f"The adapter's tensors do not fit its config.json ({reason}); export it again."
            ) from error


def write_adapter(folder: Path, adapter: AdapterFile, card: str) -> None:
    """Write an adapter into a folder; card is the text of its README.md. Raises StoreError."""
    save_tensors(folder / WEIGHTS, adapter.tensors)
    write_head(folder, adapter.head)
    write_json(folder / CONFIG, {"architecture": ARCHITECTURE} | adapter.config)
    write_text(folder / CARD, card)


def read_adapter(spec: str | Path, revision: str | None = None) -> AdapterFile:
    """Read an adapter from a folder, or from the hub by owner/name.

    Raises StoreError, MigrationError, or BackboneError with the hub's message, and for a revision
    of a folder.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        hub.refuse_revision(str(spec), revision)
        return _read(folder)
    if not hub.is_hub_id(str(spec)):
        raise StoreError(f"There is no adapter {spec}; give its folder, or owner/name of the hub.")
    return from_hub(str(spec), revision)


def from_hub(repo: str, revision: str | None = None) -> AdapterFile:
    """Fetch an adapter by owner/name, at the commit that the revision (default: main) names."""
    commit = hub.pin(repo, revision)
    return replace(_read(hub.fetch(repo, commit, files=FILES)), revision=commit)


def _read(folder: Path) -> AdapterFile:
    config = _config(folder)
    return AdapterFile(load_tensors(folder / WEIGHTS)[0], config, read_head(folder))


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / CONFIG)
        if config.get("architecture") != ARCHITECTURE or not set(SHAPE) <= set(config):
            raise ValueError(f"it names no {ARCHITECTURE} with {', '.join(SHAPE)}")
    except (StoreError, ValueError) as error:
        raise MigrationError(
            f"The folder {folder} holds no adapter ({error}); make one with puma adapters export."
        ) from error
    config.pop("architecture")
    return config


def push_to_hub(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload an adapter's folder to the hub as owner/name; return the commit's address.

    The repository is made if it is missing. The token is the hub client's own (HF_TOKEN or `hf auth
    login`). Raises StoreError in offline mode, MigrationError for a folder without an adapter, and
    BackboneError with the hub's message.
    """
    if hub.offline():
        raise StoreError("Offline mode is on, so nothing is pushed; leave out --offline.")
    _config(folder)
    with hub.explained_errors(repo, None):
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Add a PUMA adapter",
        )
    return str(commit.commit_url)
