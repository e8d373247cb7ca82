"""The compatibility card of a model: whether soft prompts can be used with it, and at what speed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from puma_engine.backbone.attention.prefix_attention import NAME as PREFIX_ATTENTION
from puma_engine.backbone.loading import TIGHT, gib, refuse_unused_revision
from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.reader import Context, Reader
from puma_engine.backbone.templates import TEMPLATES, Template, get_template
from puma_engine.defaults import DEFAULT_TEMPLATES
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
    template: str | Template | None = None,
    chat_template: bool = False,
    announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Load a backbone and describe it: facts, tokens of each template, speed, warnings.

    seconds: how long to measure the speed on this device (0: not at all). template: a further one
    to describe. chat_template: describe the own template, or the defaults of both tasks, in the
    model's chat template. announce: see `FrozenBackbone.load`. Raises BackboneError with the part
    that fails if the model cannot serve, and for a revision of a model that is not on the hub;
    TemplateError.
    """
    custom = [] if template is None else [get_template(template)]
    if chat_template:
        wrapped = custom or [get_template(name) for name in DEFAULT_TEMPLATES.values()]
        custom = [replace(item, chat_template=True) for item in wrapped]
    refuse_unused_revision(spec, revision)
    backbone = FrozenBackbone.load(
        spec,
        device=device,
        precision=precision,
        revision=revision,
        quantise=quantise,
        announce=announce,
    )
    card = backbone.info.to_dict() | {
        "templates": describe_templates(backbone, *custom),
        "warnings": _warnings(backbone),
    }
    if seconds > 0:
        card["speed"] = measure_speed(backbone, seconds)
    return card


def describe_templates(backbone: FrozenBackbone, *custom: Template) -> dict[str, dict[str, Any]]:
    """Return the answer tokens of each template, the position of its slot and an example as tokens.

    custom: templates that do not ship; they come last. Raises BackboneError for a tokenizer that
    writes tokens which the model does not embed.
    """
    vocabulary = backbone.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    rows = backbone.model.get_input_embeddings().num_embeddings
    if (largest := max(vocabulary.values())) >= rows:
        raise BackboneError(
            f"The tokenizer's vocabulary goes up to token {largest}, but {backbone.info.spec} embeds {rows}; "
            "the tokenizer belongs to another model."
        )
    to_tokens = backbone.tokenizer.convert_ids_to_tokens
    cards = {}
    named = {
        f"{template.name}{' in the chat template' if template.chat_template else ''}": template
        for template in custom
    }
    for name, template in (TEMPLATES | named).items():
        reader = Reader(backbone, template, [EXAMPLE])
        before, after = reader.sequence(0)
        answers = reader.answers.tolist()
        cards[name] = {
            "answer_tokens": dict(zip(reader.task.answers, to_tokens(answers), strict=True)),
            "slot_position": len(before),
            "tokens": [*to_tokens(before), "<prompt>", *to_tokens(after)],
        }
    return cards


def _warnings(backbone: FrozenBackbone) -> list[str]:
    """Return sentences about limits of the model."""
    info, tokenizer, config = backbone.info, backbone.tokenizer, backbone.model.config
    free = free_bytes(None if backbone.spread else backbone.device)
    embedded = backbone.model.get_input_embeddings().num_embeddings
    in_bf16 = "bfloat16" in str(getattr(config, "dtype", ""))
    cases = (
        (
            info.memory_bytes > TIGHT * (free + info.memory_bytes),
            f"The weights take {gib(info.memory_bytes)} and leave {gib(free)} free for cached "
            "keys and values and for batches; use small batches.",
        ),
        (
            0 < info.context < SHORT_CONTEXT,
            f"It reads {info.context} tokens at most; long titles must be cut shorter.",
        ),
        (
            len(tokenizer) > embedded,
            f"The tokenizer's tokens from {embedded} on are not embedded by the model; no text becomes "
            "one of them here, but do not use them elsewhere.",
        ),
        (
            not backbone.start,
            "The tokenizer puts no token in front of a text, so none is put here.",
        ),
        (
            getattr(tokenizer, "chat_template", None),
            "It has a chat template, which is applied with --chat-template alone: templates are read as written.",
        ),
        (
            info.dtype == "fp16" and in_bf16,
            "It was trained in bf16, whose range fp16 lacks; prefer bf16.",
        ),
        (
            config._attn_implementation != PREFIX_ATTENTION,
            "It uses its own attention, which copies cached keys and values and is slower.",
        ),
        (
            bool(info.unread),
            f"Its file has settings that are not read here ({', '.join(info.unread)}), so it may compute "
            "otherwise than in its training. A tokenizer.json beside the file replaces its tokenizer.",
        ),
        (not backbone.has_gates(), "Selection strategies on FFN activations cannot read it."),
    )
    return [sentence for applies, sentence in cases if applies]


def measure_speed(
    backbone: FrozenBackbone,
    seconds: float,
    template: Template = TEMPLATES[SPEED_TEMPLATE],
    contexts: Sequence[Context] = (),
) -> dict[str, Any]:
    """Measure examples a second for some seconds: half training steps, half predictions.

    A training step is a forward and a backward pass to the soft prompts, with the keys and values
    of item texts cached, as in fitting after the first epoch. contexts: the texts (default: an
    example); reading them at first is measured separately. Returns rates and seconds by name.
    """
    contexts = contexts or [Context(f"{EXAMPLE.item}, volume {n}") for n in range(64)]
    reader = Reader(backbone, template, contexts)
    batch = SPEED_BATCH[backbone.device.type]
    rows = torch.arange(batch) % len(contexts)
    prompts = torch.zeros(batch, 1, backbone.width, device=backbone.device)
    started = time.perf_counter()
    reader.prepare(torch.arange(len(contexts)))
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    speed = {
        "template": template.name,
        "items_per_second": len(contexts) / (time.perf_counter() - started),
        "batch": batch,
        "device": str(backbone.device),
        "tokens": float(reader.lengths()[rows.numpy()].mean()),
    }

    def run(name: str) -> None:
        with torch.set_grad_enabled(name == "training"):
            leaf = prompts.clone().requires_grad_() if name == "training" else prompts
            logits = reader.logits(leaf, rows)
        if name == "training":
            logits.sum().backward()
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)

    for name in ("training", "prediction"):
        for _ in range(2):
            run(name)
        start, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds / 2 or not count:
            run(name)
            count += 1
        rate = count * batch / spent
        speed |= {f"{name}_examples_per_second": rate, f"{name}_seconds": spent}
    return speed
