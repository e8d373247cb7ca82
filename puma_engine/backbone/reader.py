"""One backbone, one template, many contexts: answers for soft prompts about items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.prefix import PackedKeysValues, Ragged
from puma_engine.backbone.tokens import answer_tokens, clean_text, encode_text
from puma_engine.errors import DataError, TemplateError
from puma_engine.tasks import Task, get_task
from puma_engine.templates import Piece, Slot, Template

DEFAULT_CACHE_BYTES = {"cpu": 3 * 2**30, "cuda": 24 * 2**30}


@dataclass(frozen=True)
class Context:
    """What fills a template besides the prompt: an item's text and, perhaps, earlier ones."""

    item: str
    history: tuple[str, ...] = ()


class Reader:
    """Reads soft prompts about contexts with a frozen backbone under one template.

    What stands before the prompt slot is run once for each distinct text and its keys and
    values are kept if they fit in `cache_bytes`; otherwise they are recomputed for each
    batch. Titles are cut to `item_tokens`, histories to `history_tokens`; the slot and
    the answer cue never are. Raises TemplateError, BackboneError or DataError.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        template: Template,
        contexts: Sequence[Context],
        *,
        item_tokens: int = 48,
        history_tokens: int = 128,
        cache_bytes: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.template = template
        self.contexts = contexts
        self.task: Task = get_task(template.task)
        self._encode = cache(self._encode_text)
        self._budget = {Slot.ITEM: item_tokens, Slot.HISTORY: history_tokens}
        cue, answers = answer_tokens(backbone.tokenizer, template, self.task.answers)
        self.answers = torch.tensor(answers, device=backbone.device)
        before = [backbone.start + self._join(template.before, row) for row in contexts]
        after = [self._join(template.after[:-1], row) + cue for row in contexts]
        self._before_row, self._before = self._unique(before)
        self._after_row, self._after = self._unique(after)
        self._before_length = self._before.lengths.cpu()[self._before_row]
        self._after_length = self._after.lengths.cpu()[self._after_row]
        self._check_length()
        if cache_bytes is None:
            cache_bytes = DEFAULT_CACHE_BYTES[backbone.device.type]
        self._cache: PackedKeysValues | None = None
        self._cache_fits = self._bytes_needed() <= cache_bytes

    def slot_ids(self, slot: Slot, context: Context) -> list[int]:
        """Return the token ids that fill the item or history slot for a context, cut to budget."""
        if slot is Slot.ITEM:
            text = clean_text(context.item)
            if not text:
                raise DataError("An item has an empty text; every item needs one.")
        else:
            text = clean_text(", ".join(context.history)) or "nothing yet"
        return self._encode(text)[: self._budget[slot]]

    def _encode_text(self, text: str) -> list[int]:
        return encode_text(self.backbone.tokenizer, text)

    def _join(self, pieces: Sequence[Piece], context: Context) -> list[int]:
        joined: list[int] = []
        for piece in pieces:
            joined += (
                self.slot_ids(piece, context) if isinstance(piece, Slot) else self._encode(piece)
            )
        return joined

    def _unique(self, rows: list[list[int]]) -> tuple[Tensor, Ragged]:
        number: dict[tuple[int, ...], int] = {}
        index = [number.setdefault(tuple(row), len(number)) for row in rows]
        packed = Ragged.pack([list(row) for row in number], self.backbone.device)
        return torch.tensor(index, dtype=torch.long), packed

    def _check_length(self) -> None:
        context = self.backbone.info.context
        longest = int((self._before_length + self._after_length).max())
        if context and longest + 16 > context:
            raise TemplateError(
                f"The template {self.template.name!r} takes up to {longest} tokens and a soft prompt, but "
                f"{self.backbone.info.spec} reads {context}; lower the item or history budget."
            )

    def _bytes_needed(self) -> int:
        config = self.backbone.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * size * self.backbone.dtype.itemsize
        return int(self._before.ids.numel()) * token

    def __len__(self) -> int:
        return len(self._before_row)

    def lengths(self) -> np.ndarray:
        """Tokens of work for each context, [n]: what batches should be sorted by."""
        return (self._before_length if self.template.item_first else self._after_length).numpy()

    def prepare(self) -> None:
        """Run and keep the prefixes now, if they fit; otherwise this does nothing."""
        if self._cache is None and self._cache_fits:
            self._cache = self.backbone.prefix(self._before)

    def logits(self, prompts: Tensor, contexts: Tensor) -> Tensor:
        """Return answer logits [B, A] in fp32 for prompts [B, l, width] and context rows [B].

        The context rows are on the CPU, so that shapes are known without waiting for a GPU.
        """
        device = self.backbone.device
        width = int(self._after_length[contexts].max())
        rows = self._after_row[contexts].to(device, non_blocking=True)
        index, real = self._after.index(rows, width, left=False)
        suffix = self.backbone.embed(self._after.ids[index].masked_fill(~real, 0))
        prompts = prompts.to(device, suffix.dtype)
        past, past_real = self._past(contexts)
        hidden = self.backbone.last_hidden(
            torch.cat([prompts, suffix], dim=1),
            self._after.lengths[rows] + prompts.shape[1],
            past,
            past_real,
        )
        return self.backbone.answer_logits(hidden, self.answers)

    def _past(self, contexts: Tensor) -> tuple[list[tuple[Tensor, Tensor]] | None, Tensor | None]:
        width = int(self._before_length[contexts].max())
        if width == 0:
            return None, None
        self.prepare()
        rows = self._before_row[contexts].to(self.backbone.device, non_blocking=True)
        if self._cache is not None:
            index, real = self._before.index(rows, width, left=True)
            return self._cache.gather(index), real
        unique, inverse = torch.unique(rows, return_inverse=True)
        spans = [
            self._before.ids[self._before.offset[row] : self._before.offset[row + 1]].tolist()
            for row in unique.tolist()
        ]
        few = Ragged.pack(spans, rows.device)
        index, real = few.index(inverse, width, left=True)
        return self.backbone.prefix(few).gather(index), real
