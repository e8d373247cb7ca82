"""A compatibility card of a model: whether it can serve, and what it would cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from puma_engine.backbone.attention.prefix_attention import NAME as PREFIX_ATTENTION
from puma_engine.backbone.loading import TIGHT, gib
from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.reader import Context, Reader
from puma_engine.backbone.tasks import get_task
from puma_engine.backbone.templates import TEMPLATES, Template
from puma_engine.errors import BackboneError
from puma_engine.training.device import free_bytes

EXAMPLE = Context("The Hobbit by J. R. R. Tolkien", ("Dune by Frank Herbert",))
SHORT_CONTEXT = 512
SPEED_BATCH = {"cpu": 64, "cuda": 512}
SPEED_TEMPLATE = "rating-item-first"


def inspect_backbone(
    spec: str | Path,
    *,
    device: str | None = None,
    precision: str = "auto",
    revision: str | None = None,
    quantise: str | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Load a backbone and describe it: facts, tokens of each template, speed, warnings.

    seconds: how long to measure the speed on this device (0: not at all). Raises
    BackboneError with the part that fails if the model cannot serve.
    """
    backbone = FrozenBackbone.load(
        spec, device=device, precision=precision, revision=revision, quantise=quantise
    )
    card = backbone.info.to_dict() | {
        "templates": describe_templates(backbone),
        "warnings": _warnings(backbone),
    }
    if seconds > 0:
        card["speed"] = measure_speed(backbone, seconds)
    return card


def describe_templates(backbone: FrozenBackbone) -> dict[str, dict[str, Any]]:
    """Return, by template, its answer tokens, its slot's position and an example as tokens."""
    return {name: _template_card(backbone, template) for name, template in TEMPLATES.items()}


def _template_card(backbone: FrozenBackbone, template: Template) -> dict[str, Any]:
    """Answer tokens, slot position and tokens of one template. Raises BackboneError."""
    tokenizer = backbone.tokenizer
    task = get_task(template.task)
    reader = Reader(backbone, template, [EXAMPLE])
    before, after = reader.sequence(0)
    answers = reader.answers.tolist()
    rows = backbone.model.get_input_embeddings().num_embeddings
    largest = max([*before, *after, *answers])
    if largest >= rows:
        raise BackboneError(
            f"The tokenizer writes token {largest} in the template {template.name!r}, but the model "
            f"embeds {rows}; the tokenizer belongs to another model."
        )
    return {
        "answer_tokens": dict(
            zip(task.answers, tokenizer.convert_ids_to_tokens(answers), strict=True)
        ),
        "slot_position": len(before),
        "tokens": [
            *tokenizer.convert_ids_to_tokens(before),
            "<prompt>",
            *tokenizer.convert_ids_to_tokens(after),
        ],
    }


def _warnings(backbone: FrozenBackbone) -> list[str]:
    """Sentences on what works with limits."""
    info, tokenizer = backbone.info, backbone.tokenizer
    warnings = []
    free = free_bytes(None if backbone.spread else backbone.device)
    if info.memory_bytes > TIGHT * (free + info.memory_bytes):
        warnings.append(
            f"The weights take {gib(info.memory_bytes)} and leave {gib(free)} free for cached "
            "keys and values and for batches; use small batches."
        )
    if 0 < info.context < SHORT_CONTEXT:
        warnings.append(f"It reads {info.context} tokens at most; long titles must be cut shorter.")
    if len(tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        warnings.append(
            "The tokenizer has added tokens that the model does not embed; texts never become these "
            "tokens here, but do not use them."
        )
    if not backbone.start:
        warnings.append("The tokenizer puts no token in front of a text, so none is put here.")
    if getattr(tokenizer, "chat_template", None):
        warnings.append(
            "It has a chat template, which is not applied: templates are read as written."
        )
    if info.dtype == "fp16" and "bfloat16" in str(getattr(backbone.model.config, "dtype", "")):
        warnings.append("It was trained in bf16, whose range fp16 lacks; prefer bf16.")
    if backbone.model.config._attn_implementation != PREFIX_ATTENTION:
        warnings.append(
            "It uses its own attention, which copies cached keys and values and is slower."
        )
    if not backbone.has_gates():
        warnings.append("Selection strategies on FFN activations cannot read it.")
    return warnings


def measure_speed(backbone: FrozenBackbone, seconds: float) -> dict[str, Any]:
    """Measure examples a second for some seconds: half training steps, half predictions.

    A training step is a forward and a backward pass to the soft prompts, with the keys and values
    of item texts cached, as in fitting after the first epoch. Returns rates and seconds by name.
    """
    contexts = [Context(f"{EXAMPLE.item}, volume {number}") for number in range(64)]
    reader = Reader(backbone, TEMPLATES[SPEED_TEMPLATE], contexts)
    batch = SPEED_BATCH[backbone.device.type]
    rows = torch.arange(batch) % len(contexts)
    prompts = torch.zeros(batch, 1, backbone.width, device=backbone.device)

    def training() -> None:
        leaf = prompts.clone().requires_grad_()
        reader.logits(leaf, rows).sum().backward()

    @torch.no_grad()
    def predicting() -> None:
        reader.logits(prompts, rows)

    speed = {
        "template": SPEED_TEMPLATE,
        "batch": batch,
        "device": str(backbone.device),
        "tokens": float(reader.lengths()[rows.numpy()].mean()),
    }
    for name, work in (("training", training), ("prediction", predicting)):
        rate, spent = _rate(work, batch, seconds / 2, backbone.device)
        speed |= {f"{name}_examples_per_second": rate, f"{name}_seconds": spent}
    return speed


def _rate(
    work: Callable[[], None], batch: int, seconds: float, device: torch.device
) -> tuple[float, float]:
    """Examples a second and seconds measured, after two calls to warm up."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        run()
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not count:
        run()
        count += 1
    return count * batch / spent, spent
