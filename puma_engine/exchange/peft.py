"""PEFT prompt tuning: a folder for each user, which `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.errors import DataError, TemplateError
from puma_engine.exchange.prompt_file import PromptFile, checked, read_head, write_head
from puma_engine.files import load_tensors, read_json, save_tensors, write_json

if TYPE_CHECKING:
    from puma_engine.backbone import Context, FrozenBackbone
    from puma_engine.backbone.templates import Template
    from puma_engine.prompts.table import PromptTable

CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "puma.json"
TENSOR = "prompt_embeddings"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")


def is_peft(folder: Path) -> bool:
    """Return whether a folder holds PEFT prompt tuning, of one user or with a folder for each user."""
    return (folder / CONFIG).is_file() or any(folder.glob(f"*/{CONFIG}"))


def read_peft(folder: Path) -> PromptFile:
    """Read PEFT prompt tuning. The user id is in puma.json, otherwise it is the folder's name.

    The virtual tokens of our export begin with the constant text before the slot, which is left
    out. meta["base_model"] is the model that the configurations name. Raises DataError for another
    PEFT method, and for prompts of different shapes, models or templates.
    """
    if (folder / CONFIG).is_file():
        folders = [folder]
    else:
        folders = sorted(file.parent for file in folder.glob(f"*/{CONFIG}"))
    ids, prompts, about_users = [], [], []
    for user_folder in folders:
        config = read_json(user_folder / CONFIG)
        kind = str(config.get("peft_type", "")).upper()
        if kind != "PROMPT_TUNING":
            raise DataError(
                f"The PEFT folder {user_folder} is of type {kind or 'unknown'}; only PROMPT_TUNING "
                "holds soft prompts of this kind."
            )
        arrays, _ = load_tensors(user_folder / WEIGHTS)
        if TENSOR not in arrays or arrays[TENSOR].ndim != 2:
            raise DataError(f"The file {user_folder / WEIGHTS} has no matrix {TENSOR}.")
        _check_shape(user_folder, config, arrays[TENSOR])
        metadata: dict[str, Any] = {}
        if (user_folder / ABOUT).is_file():
            metadata = read_json(user_folder / ABOUT)
        metadata["base_model"] = config.get("base_model_name_or_path")
        ids.append(metadata.pop("user_id", user_folder.name))
        prefix = metadata.pop("prefix_tokens", 0)
        if not isinstance(prefix, int) or not 0 <= prefix < len(arrays[TENSOR]):
            raise DataError(
                f"The file {user_folder / ABOUT} has prefix_tokens = {prefix!r}, but the prompt has "
                f"{len(arrays[TENSOR])} virtual tokens; export it again."
            )
        prompts.append(arrays[TENSOR][prefix:])
        about_users.append(metadata)
    shapes = {vectors.shape for vectors in prompts}
    if len(shapes) != 1:
        raise DataError(
            f"The folders of {folder} have prompts of {len(shapes)} shapes ({sorted(shapes)}); all "
            "users need the same tokens and width."
        )
    meta = about_users[0]
    for user_folder, metadata in zip(folders, about_users, strict=True):
        for name, value in _origin(metadata).items():
            if value != _origin(meta)[name]:
                raise DataError(
                    f"The prompts in {folders[0].name} and {user_folder.name} of {folder} differ in "
                    f"{name} ({_origin(meta)[name]!r} and {value!r}); import those of one model and "
                    "template at a time."
                )
    # Our export stores the head beside the folders of the users.
    head = read_head(folder.parent if folders == [folder] else folder)
    complete = bool(meta.get("template")) and head is not None
    return checked(folder, ids, np.stack(prompts), head=head, meta=meta, complete=complete)


def _origin(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that all prompts of one import must share."""
    model = metadata.get("backbone")
    fingerprint = model.get("fingerprint") if isinstance(model, dict) else None
    names = ("template", "template_text", "reading", "answers", "chat_template")
    return {"model": fingerprint or metadata.get("base_model")} | {
        n: metadata.get(n) for n in names
    }


def _check_shape(folder: Path, config: dict[str, Any], prompt: np.ndarray) -> None:
    """Raise DataError if the shape of a prompt is not that of its configuration."""
    if config.get("num_transformer_submodules") not in (None, 1):
        raise DataError(
            f"The PEFT folder {folder} holds prompts for {config['num_transformer_submodules']} parts of a "
            "model, such as its encoder and its decoder; only prompts of one part can be read."
        )
    declared = config.get("num_virtual_tokens"), config.get("token_dim")
    for value, actual, label in zip(
        declared, prompt.shape, ("num_virtual_tokens", "token_dim"), strict=True
    ):
        if value not in (None, actual):
            raise DataError(
                f"The file {folder / CONFIG} has {label} = {value!r}, but the prompt has {actual}; export it "
                "again."
            )


def write_peft(
    folder: Path,
    backbone: FrozenBackbone,
    table: PromptTable,
    template: str | Template,
    users: Sequence[str],
    meta: dict[str, Any],
) -> None:
    """Write one PEFT folder for each user below `folder`.

    PEFT puts virtual tokens in front of a text. They are the embeddings of the constant text before
    the slot, followed by the soft prompt; `input_ids` returns the text after it. Raises
    TemplateError when the item or history stands before the slot.
    """
    import torch
    from peft import PromptTuningConfig, TaskType

    from puma_engine.backbone import Context, Reader
    from puma_engine.backbone.loading import max_over_layers
    from puma_engine.backbone.templates import Slot, get_template

    template = get_template(template)
    before_slot = template.before
    if Slot.ITEM in before_slot or Slot.HISTORY in before_slot:
        raise TemplateError(
            f"The template {template.name!r} has the item or history in front of the soft prompt, and PEFT "
            "puts prompts in front; export prompts fitted with the template rating or click, or use "
            "puma prompts embed."
        )
    before, _ = Reader(backbone, template, [Context("an item")]).sequence(0)
    with torch.no_grad():
        ids = torch.tensor(before, dtype=torch.long, device=backbone.device)
        prefix = backbone.embed(ids).float().cpu().numpy().reshape(len(before), backbone.width)
    config = backbone.model.config.get_text_config()
    tuning = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(prefix) + table.tokens,
        token_dim=backbone.width,
        num_transformer_submodules=1,
        num_attention_heads=max_over_layers(config, "num_attention_heads"),
        num_layers=config.num_hidden_layers,
        base_model_name_or_path=backbone.info.spec,
        revision=backbone.info.revision,
        inference_mode=True,
    )
    for user, vectors in zip(users, table.take(users), strict=True):
        # A file name that every file system accepts.
        hashed = "user-" + hashlib.sha256(user.encode()).hexdigest()[:16]
        user_folder = folder / (user if PLAIN_NAME.fullmatch(user) else hashed)
        tuning.save_pretrained(str(user_folder))
        save_tensors(user_folder / WEIGHTS, {TENSOR: np.concatenate([prefix, vectors])})
        write_json(user_folder / ABOUT, meta | {"user_id": user, "prefix_tokens": len(prefix)})
    write_head(folder, table.head)


def input_ids(backbone: FrozenBackbone, template: str | Template, context: Context) -> list[int]:
    """Return the token ids that a PEFT model with an exported prompt reads about an item."""
    from puma_engine.backbone import Reader
    from puma_engine.backbone.templates import get_template

    return Reader(backbone, get_template(template), [context]).sequence(0)[1]
