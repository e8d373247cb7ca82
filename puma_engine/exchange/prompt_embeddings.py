"""Whole prompts as embeddings, in the format of vLLM's --enable-prompt-embeds."""

import base64
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.templates import Template, get_template
from puma_engine.errors import StoreError
from puma_engine.exchange.prompt_file import HEAD, head_of, with_head
from puma_engine.files import atomic_write, parse_json
from puma_engine.prompts.table import PromptTable

NEXT_TOKEN = {"prompt": "", "max_tokens": 1, "temperature": 0, "return_tokens_as_token_ids": True}


@dataclass(frozen=True)
class Embedded:
    """Whole prompts of user and item pairs.

    rows: [user, item] pairs; tensors: embeddings [tokens, width] of each, in the backbone's
    precision; answers: the token id of each answer; head: the task's head, or None.
    """

    model: str
    task: str
    answers: dict[str, int]
    rows: list[list[str]]
    tensors: list[Tensor]
    head: dict[str, np.ndarray] | None


@torch.no_grad()
def embed_prompts(
    backbone: FrozenBackbone,
    table: PromptTable,
    template: str | Template,
    pairs: Sequence[tuple[str, str, Context]],
) -> Embedded:
    """Return the whole prompt of each (user id, item id, context). Raises MigrationError."""
    contexts = list(dict.fromkeys(context for _, _, context in pairs))
    reader = Reader(backbone, get_template(template), contexts)
    number = {context: row for row, context in enumerate(contexts)}
    users, items = [user for user, _, _ in pairs], [item for _, item, _ in pairs]
    vectors = torch.from_numpy(table.take_pairs(users, items))
    tensors = []
    for (_, _, context), vector in zip(pairs, vectors, strict=True):
        before, after = reader.sequence(number[context])
        parts = [_embed(backbone, before), vector.to(backbone.dtype), _embed(backbone, after)]
        tensors.append(torch.cat(parts))
    answers = dict(zip(reader.task.answers, reader.answers.tolist(), strict=True))
    rows = [[user, item] for user, item, _ in pairs]
    return Embedded(backbone.info.spec, reader.task.name, answers, rows, tensors, table.head)


def _embed(backbone: FrozenBackbone, ids: list[int]) -> Tensor:
    embedded = backbone.embed(torch.tensor(ids, dtype=torch.long, device=backbone.device))
    return embedded.cpu().reshape(len(ids), backbone.width)


def write_embedded(path: Path, prompts: Embedded) -> None:
    """Write prompts to one safetensors file: embeddings [all tokens, width] and offsets [n + 1]."""
    lengths = torch.tensor([0, *(len(tensor) for tensor in prompts.tensors)])
    arrays = {"embeddings": torch.cat(prompts.tensors), "offsets": lengths.cumsum(0)}
    arrays |= {name: torch.from_numpy(np.array(v)) for name, v in with_head(prompts.head).items()}
    metadata = {name: getattr(prompts, name) for name in ("model", "task", "answers", "rows")}
    header = {"puma": json.dumps(metadata)}
    atomic_write(path, lambda temporary: save_file(arrays, temporary, metadata=header))


def read_embedded(path: str | Path) -> Embedded:
    """Read what `write_embedded` wrote. Raises StoreError."""
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = parse_json((file.metadata() or {})["puma"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StoreError(
            f"The file {path} holds no embedded prompts ({error}); make it with puma prompts embed."
        ) from error
    bounds = arrays["offsets"].tolist()
    tensors = [arrays["embeddings"][a:b] for a, b in itertools.pairwise(bounds)]
    head = head_of({name: a.numpy() for name, a in arrays.items() if name.startswith(HEAD)})
    return Embedded(
        metadata["model"], metadata["task"], metadata["answers"], metadata["rows"], tensors, head
    )


def requests(prompts: Embedded) -> Iterator[dict[str, Any]]:
    """Yield the body of one POST to vLLM's /v1/completions for each prompt.

    The request allows only answers as next token, and asks for the log-probabilities of all
    answers.
    """
    for tensor in prompts.tensors:
        yield NEXT_TOKEN | {
            "model": prompts.model,
            "prompt_embeds": encode(tensor),
            "allowed_token_ids": list(prompts.answers.values()),
            "logprobs": len(prompts.answers),
        }


def encode(tensor: Tensor) -> str:
    """Return a tensor in the format of vLLM: saved by torch.save, in base64."""
    buffer = io.BytesIO()
    torch.save(tensor.contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
