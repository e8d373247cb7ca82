"""A compatibility card of a model: whether it can serve, and what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.tokens import answer_tokens, encode_text
from puma_engine.tasks import get_task
from puma_engine.templates import TEMPLATES, Slot, Template


def inspect_backbone(
    spec: str | Path,
    *,
    device: str | None = None,
    precision: str = "auto",
    revision: str | None = None,
) -> dict[str, Any]:
    """Load a backbone and describe it: facts, answer tokens and the tokens of each template.

    Raises BackboneError with the reason if the model cannot serve.
    """
    backbone = FrozenBackbone.load(spec, device=device, precision=precision, revision=revision)
    return backbone.info.to_dict() | {
        "templates": {name: _template_card(backbone, item) for name, item in TEMPLATES.items()}
    }


def _template_card(backbone: FrozenBackbone, template: Template) -> dict[str, Any]:
    tokenizer = backbone.tokenizer
    task = get_task(template.task)
    cue, answers = answer_tokens(tokenizer, template, task.answers)
    shown = list(tokenizer.convert_ids_to_tokens(backbone.start))
    for piece in template.pieces[:-1]:
        if isinstance(piece, Slot):
            shown.append(f"<{piece.value}>")
        else:
            shown += tokenizer.convert_ids_to_tokens(encode_text(tokenizer, piece))
    shown += tokenizer.convert_ids_to_tokens(cue)
    return {
        "answer_tokens": dict(
            zip(task.answers, tokenizer.convert_ids_to_tokens(answers), strict=True)
        ),
        "tokens": shown,
    }
