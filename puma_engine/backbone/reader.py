"""One backbone, one template, many contexts: answers for soft prompts about items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone.attention.cuda_graphs import GraphedCalls
from puma_engine.backbone.attention.kv_cache import PackedKeysValues, Ragged
from puma_engine.backbone.memory import free_bytes
from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.tasks import Task, get_task
from puma_engine.backbone.templates import Piece, Slot, Template
from puma_engine.backbone.tokens import answer_tokens, clean_text, encode_many, encode_text
from puma_engine.errors import DataError, TemplateError
from puma_engine.training.device import collection_paused

BEFORE_STEP, AFTER_STEP = 32, 8
# Padding costs a large model more than another captured width does.
LARGE_AFTER_STEP = 4
CPU_CACHE_BYTES = 3 * 2**30
GPU_CACHE_SHARE = 0.5
# Of what kept keys and values leave free, for the rows that are predicted together.
BATCH_SHARE = 0.25
MOST_ROWS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Context:
    """What fills a template besides the prompt: an item's text and, perhaps, earlier ones."""

    item: str
    history: tuple[str, ...] = ()


def slot_text(slot: Slot, context: Context) -> str:
    """Return the cleaned text that fills a slot; an empty item raises DataError."""
    if slot is Slot.ITEM:
        text = clean_text(context.item)
        if not text:
            raise DataError("An item has an empty text; every item needs one.")
        return text
    return clean_text(", ".join(context.history)) or "nothing yet"


def _cache_bytes(device: torch.device) -> int:
    """What kept keys and values may take."""
    if device.type == "cpu":
        return CPU_CACHE_BYTES
    return int(GPU_CACHE_SHARE * free_bytes(device))


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
        self._budget = {Slot.ITEM: item_tokens, Slot.HISTORY: history_tokens}
        cue, answers = answer_tokens(backbone.tokenizer, template, self.task.answers)
        self.answers = torch.tensor(answers, device=backbone.device)
        with collection_paused():
            self._ids = self._encode(contexts)
            before = [backbone.start + self._join(template.before, row) for row in contexts]
            after = [self._join(template.after[:-1], row) + cue for row in contexts]
            self._before_row, self._before = self._unique(before)
            self._after_row, self._after = self._unique(after)
        self._before_length = self._before.lengths.cpu()[self._before_row]
        self._after_length = self._after.lengths.cpu()[self._after_row]
        self._longest = int((self._before_length + self._after_length).max())
        self._check_length(1)
        if cache_bytes is None:
            cache_bytes = _cache_bytes(backbone.device)
        self._cached = self._bytes_needed() <= cache_bytes
        self._free = free_bytes(backbone.device) - self._cached * self._bytes_needed()
        self._store = PackedKeysValues([])
        self._ready = torch.zeros(len(self._before), dtype=torch.bool)
        self._answers = GraphedCalls(backbone.device)
        # A graph is captured on one device.
        self._answers.enabled &= not backbone.spread

    def slot_ids(self, slot: Slot, context: Context) -> list[int]:
        """Return the token ids that fill the item or history slot for a context, cut to budget."""
        return self._ids[slot_text(slot, context)][: self._budget[slot]]

    def sequence(self, context: int) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the prompt slot of context row `context`."""
        parts = (self._before, self._before_row), (self._after, self._after_row)
        spans = [(tokens, int(row[context])) for tokens, row in parts]
        before, after = (t.ids[t.offset[row] : t.offset[row + 1]].tolist() for t, row in spans)
        return before, after

    def _encode(self, contexts: Sequence[Context]) -> dict[str, list[int]]:
        """Token ids of every constant piece and of every text that fills a slot."""
        pieces = [piece for piece in self.template.pieces if isinstance(piece, str)]
        ids = {piece: encode_text(self.backbone.tokenizer, piece) for piece in pieces}
        slots = [slot for slot in self._budget if slot in self.template.pieces]
        texts = list({slot_text(slot, context) for slot in slots for context in contexts})
        return ids | dict(zip(texts, encode_many(self.backbone.tokenizer, texts), strict=True))

    def _join(self, pieces: Sequence[Piece], context: Context) -> list[int]:
        joined: list[int] = []
        for piece in pieces:
            joined += self.slot_ids(piece, context) if isinstance(piece, Slot) else self._ids[piece]
        return joined

    def _unique(self, rows: list[list[int]]) -> tuple[Tensor, Ragged]:
        number: dict[tuple[int, ...], int] = {}
        index = [number.setdefault(tuple(row), len(number)) for row in rows]
        packed = Ragged.pack([list(row) for row in number], self.backbone.device)
        return torch.tensor(index, dtype=torch.long), packed

    def _check_length(self, prompt: int) -> None:
        context = self.backbone.info.context
        if context and self._longest + prompt > context:
            raise TemplateError(
                f"The template {self.template.name!r} takes up to {self._longest} tokens and a soft "
                f"prompt of {prompt}, but {self.backbone.info.spec} reads {context}; use shorter "
                "soft prompts or another template."
            )

    def _bytes_needed(self) -> int:
        return int(self._before.ids.numel()) * self._token_bytes()

    def _token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        config = self.backbone.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * size * self.backbone.dtype.itemsize)

    def rows_at_once(self, prompt: int) -> int:
        """How many rows with prompts of `prompt` tokens may be read at once without gradient.

        Each takes a copy of its keys and values, and what one layer computes.
        """
        before, after = self.shape(torch.arange(len(self)), prompt)
        config, size = self.backbone.model.config.get_text_config(), self.backbone.dtype.itemsize
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        # A layer's hidden states, some of them in fp32, its gate and its feed-forward part.
        layer = (6 * config.hidden_size + 3 * inner) * size
        row = (before + after + prompt) * self._token_bytes() + (after + prompt) * layer
        fits = max(1, int(BATCH_SHARE * self._free / row))
        return min(MOST_ROWS[self.backbone.device.type], 1 << (fits.bit_length() - 1))

    def __len__(self) -> int:
        return len(self._before_row)

    def lengths(self) -> np.ndarray:
        """Tokens of work for each context, [n]: what batches should be sorted by."""
        return (self._before_length if self.template.item_first else self._after_length).numpy()

    def positions(self, contexts: Tensor) -> Tensor:
        """Tokens behind the prompt slot for context rows [n]: what is read anew for every user."""
        return self._after_length[contexts]

    @property
    def kept_tokens(self) -> int:
        """Tokens before the prompt slot that were read once and are kept."""
        return int(self._before.lengths.cpu()[self._ready].sum())

    def prepare(self, contexts: Tensor) -> None:
        """Run and keep the prefixes of context rows [n] (CPU) that are not kept yet.

        This does nothing where the cache would not fit.
        """
        rows = self._before_row[contexts]
        if self._cached and not self._ready[rows].all():
            missing = torch.unique(rows[~self._ready[rows]])
            self.backbone.prefix(self._before, missing.to(self.backbone.device), self._store)
            self._ready[missing] = True

    def logits(self, prompts: Tensor, contexts: Tensor) -> Tensor:
        """Return answer logits [B, A] in fp32 for prompts [B, l, width] and context rows [B].

        The context rows are on the CPU, so that shapes are known without waiting for a GPU.
        Under a CUDA graph the next call of the same shape overwrites the result.
        """
        shape = self.shape(contexts, prompts.shape[1])
        rows = self.rows(contexts).to(self.backbone.device, non_blocking=True)
        if self.waits:
            return self._read(self._uncached, prompts, rows, shape)
        self.prepare(contexts)
        return self._read(partial(self._answers, self._answer_logits), prompts, rows, shape)

    def logits_at(self, prompts: Tensor, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return what `logits` does for `rows` [2, B] (device) of contexts that are prepared.

        Nothing waits for the device, so that this may be part of a CUDA graph.
        """
        return self._read(self._answer_logits, prompts, rows, shape)

    def rows(self, contexts: Tensor) -> Tensor:
        """Rows [2, n] of the distinct texts before and after the slot, for context rows [n] (CPU)."""
        return torch.stack([self._before_row[contexts], self._after_row[contexts]])

    def shape(self, contexts: Tensor, prompt: int) -> tuple[int, int]:
        """Tokens that are read before and after a prompt of `prompt` tokens, for context rows (CPU)."""
        self._check_length(prompt)
        before = int(self._before_length[contexts].max())
        after = int(self._after_length[contexts].max())
        if self.template.item_first:
            return self._rounded(before, BEFORE_STEP), after
        step = LARGE_AFTER_STEP if self.backbone.fused else AFTER_STEP
        return self._rounded(before, AFTER_STEP), self._rounded(after + prompt, step) - prompt

    @property
    def waits(self) -> bool:
        """Whether reading waits for the device, since prefixes do not fit and are run anew."""
        return not self._cached and bool(self._before.ids.numel())

    def _read(
        self, read: Callable[..., Tensor], prompts: Tensor, rows: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        prompts = prompts.to(self.backbone.device, self.backbone.dtype)
        # The frozen weights have their precision already; autocast would only recast them.
        with torch.autocast(self.backbone.device.type, enabled=False):
            return read(prompts, rows, shape=shape)

    def _rounded(self, width: int, step: int) -> int:
        """Few widths make few CUDA graphs; a CPU is better off without the padding."""
        return width if self.backbone.device.type == "cpu" else -(-width // step) * step

    def _answer_logits(self, prompts: Tensor, rows: Tensor, *, shape: tuple[int, ...]) -> Tensor:
        before, after = shape
        if not before:
            return self._finish(prompts, rows[1], after, None, None)
        index, real = self._before.index(rows[0], before, left=True)
        return self._finish(prompts, rows[1], after, self._store.gather(index), real)

    def _uncached(self, prompts: Tensor, rows: Tensor, *, shape: tuple[int, ...]) -> Tensor:
        before, after = shape
        unique, inverse = torch.unique(rows[0], return_inverse=True)
        few = self._before.take(unique)
        index, real = few.index(inverse, before, left=True)
        every = torch.arange(len(few), device=rows.device)
        past = self.backbone.prefix(few, every, PackedKeysValues([])).gather(index)
        return self._finish(prompts, rows[1], after, past, real)

    def _finish(
        self,
        prompts: Tensor,
        rows: Tensor,
        width: int,
        past: list[tuple[Tensor, Tensor]] | None,
        past_real: Tensor | None,
    ) -> Tensor:
        index, real = self._after.index(rows, width, left=False)
        suffix = self.backbone.embed(self._after.ids[index].masked_fill(~real, 0))
        hidden = self.backbone.last_hidden(
            torch.cat([prompts, suffix.to(prompts.dtype)], dim=1),
            self._after.lengths[rows] + prompts.shape[1],
            past,
            past_real,
        )
        return self.backbone.answer_logits(hidden, self.answers)
