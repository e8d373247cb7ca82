"""PEFT prompt-tuning folders, one a user, that give the engine's logits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.templates import Slot, Template, get_template
from puma_engine.errors import TemplateError
from puma_engine.exchange.prompt_folders import PEFT_ABOUT, PEFT_TENSOR, PEFT_WEIGHTS
from puma_engine.exchange.prompt_writers import write_head
from puma_engine.files import save_tensors, write_json
from puma_engine.prompts.table import PromptTable

PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")


def write_peft(
    folder: Path,
    backbone: FrozenBackbone,
    table: PromptTable,
    template: str,
    users: Sequence[str],
    meta: dict[str, Any],
) -> None:
    """Write one PEFT folder a user below `folder`.

    PEFT puts virtual tokens in front of a text. So they are the embeddings of the constant
    text before the slot, then the soft prompt; a text to ask about is `input_ids`.
    Raises TemplateError when items stand before the slot.
    """
    prefix = prefix_embeddings(backbone, get_template(template))
    for user, vectors in zip(users, table.take(users), strict=True):
        place = folder / folder_name(user)
        virtual = np.concatenate([prefix, vectors])
        _config(backbone, len(virtual)).save_pretrained(place)
        save_tensors(place / PEFT_WEIGHTS, {PEFT_TENSOR: virtual})
        about = meta | {"user_id": user, "prefix_tokens": len(prefix)}
        write_json(place / PEFT_ABOUT, about)
    write_head(folder, table.head)


def prefix_embeddings(backbone: FrozenBackbone, template: Template) -> np.ndarray:
    """Return the embeddings [p, width] float32 of what stands before the slot, start included."""
    if any(slot in template.before for slot in (Slot.ITEM, Slot.HISTORY)):
        raise TemplateError(
            f"The template {template.name!r} has the item or history before the slot, and PEFT puts "
            "prompts in front; export prompts fitted with the template rating or click, or use "
            "puma prompts embed."
        )
    before, _ = Reader(backbone, template, [Context("an item")]).sequence(0)
    with torch.no_grad():
        ids = torch.tensor(before, dtype=torch.long, device=backbone.device)
        found: np.ndarray = backbone.embed(ids).float().cpu().numpy()
    return found.reshape(len(before), backbone.width)


def input_ids(backbone: FrozenBackbone, template: str, context: Context) -> list[int]:
    """Return the token ids that a PEFT model with an exported prompt reads about an item."""
    return Reader(backbone, get_template(template), [context]).sequence(0)[1]


def folder_name(user: str) -> str:
    """Return a name for a user's folder that no file system misreads."""
    if PLAIN_NAME.fullmatch(user):
        return user
    return "user-" + hashlib.sha256(user.encode()).hexdigest()[:16]


def _config(backbone: FrozenBackbone, tokens: int) -> Any:
    from peft import PromptTuningConfig, TaskType

    config = backbone.model.config.get_text_config()
    return PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=tokens,
        token_dim=backbone.width,
        num_transformer_submodules=1,
        num_attention_heads=config.num_attention_heads,
        num_layers=config.num_hidden_layers,
        base_model_name_or_path=backbone.info.spec,
        revision=backbone.info.revision,
        inference_mode=True,
    )
