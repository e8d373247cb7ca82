"""Folders of prompts: packed shards with an index, and PEFT prompt tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.errors import DataError
from puma_engine.exchange.prompt_file import PromptFile, checked, head_of
from puma_engine.files import load_tensors

INDEX, ABOUT = "index.parquet", "prompts.json"
PEFT_CONFIG, PEFT_WEIGHTS, PEFT_ABOUT = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "puma.json",
)
PEFT_TENSOR = "prompt_embeddings"


def is_packed(folder: Path) -> bool:
    """Whether a folder holds packed shards with an index."""
    return (folder / INDEX).is_file()


def is_peft(folder: Path) -> bool:
    """Whether a folder holds PEFT prompt tuning, of one user or with a folder each."""
    return (folder / PEFT_CONFIG).is_file() or any(folder.glob(f"*/{PEFT_CONFIG}"))


def read_packed(folder: Path) -> PromptFile:
    """Read packed shards; every user of the index must be in the shard and row it names."""
    import pandas as pd

    index = pd.read_parquet(folder / INDEX)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    ids, blocks = [], []
    for shard, rows in index.groupby("shard", sort=True):
        arrays, meta = load_tensors(folder / str(shard))
        listed = rows.sort_values("row")["user_id"].tolist()
        if meta["user_ids"] != listed or len(arrays["vectors"]) != len(listed):
            raise DataError(
                f"The shard {shard} of {folder} holds other users than its index names; export again."
            )
        ids += listed
        blocks.append(arrays["vectors"])
    head = None
    if (folder / "head.safetensors").is_file():
        head = head_of(load_tensors(folder / "head.safetensors")[0])
    return checked(folder, ids, np.concatenate(blocks), head=head, meta=about, complete=True)


def read_peft(folder: Path) -> PromptFile:
    """Read PEFT prompt tuning: the user is named in puma.json, or is the folder's name.

    The virtual tokens of an export begin with the constant text before the slot; those are
    left out again.
    """
    if (folder / PEFT_CONFIG).is_file():
        folders = [folder]
    else:
        folders = sorted(file.parent for file in folder.glob(f"*/{PEFT_CONFIG}"))
    users = [_peft_user(one) for one in folders]
    shapes = {vectors.shape for _, vectors, _ in users}
    if len(shapes) != 1:
        raise DataError(
            f"The folders of {folder} have prompts of {len(shapes)} shapes ({sorted(shapes)}); all "
            "users need the same tokens and width."
        )
    first = users[0][2]
    meta = {key: value for key, value in first.items() if key not in ("user_id", "prefix_tokens")}
    vectors = np.stack([vectors for _, vectors, _ in users])
    head = None
    for place in (folder, folder.parent):
        if head is None and (place / "head.safetensors").is_file():
            head = head_of(load_tensors(place / "head.safetensors")[0])
    complete = bool(meta.get("template")) and head is not None
    ids = [user for user, _, _ in users]
    return checked(folder, ids, vectors, head=head, meta=meta, complete=complete)


def _peft_user(folder: Path) -> tuple[str, np.ndarray, dict[str, Any]]:
    config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    kind = str(config.get("peft_type", "")).upper()
    if kind != "PROMPT_TUNING":
        raise DataError(
            f"The PEFT folder {folder} is of type {kind or 'unknown'}; only PROMPT_TUNING holds soft "
            "prompts of this kind."
        )
    arrays, _ = load_tensors(folder / PEFT_WEIGHTS)
    if PEFT_TENSOR not in arrays or arrays[PEFT_TENSOR].ndim != 2:
        raise DataError(f"The file {folder / PEFT_WEIGHTS} has no matrix {PEFT_TENSOR}.")
    about: dict[str, Any] = {}
    if (folder / PEFT_ABOUT).is_file():
        about = json.loads((folder / PEFT_ABOUT).read_text(encoding="utf-8"))
    vectors = arrays[PEFT_TENSOR][int(about.get("prefix_tokens", 0)) :]
    return str(about.get("user_id", folder.name)), vectors, about
