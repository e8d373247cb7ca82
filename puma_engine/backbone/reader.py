"""Read soft prompts about items with one backbone and one template: logits of the answers."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone.attention.cuda_graphs import GraphedCalls
from puma_engine.backbone.attention.kv_cache import CachedPrefix, KVCache, RaggedTensor
from puma_engine.backbone.loading import max_over_layers
from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.prefix_store import PrefixStore
from puma_engine.backbone.tasks import Task, get_task
from puma_engine.backbone.templates import Slot, Template
from puma_engine.backbone.tokens import Ids, clean_text, encode_template
from puma_engine.errors import BackboneError, DataError, TemplateError
from puma_engine.training.device import free_bytes, gc_paused

# On a GPU, padded lengths are multiples of these, so that few shapes occur.
BEFORE_STEP, AFTER_STEP = 32, 8
# In a compiled (large) model, padding costs more than capturing further lengths.
COMPILED_AFTER_STEP = 4
CPU_CACHE_BYTES = 3 * 2**30
GPU_CACHE_SHARE = 0.5
# One batch of predictions may take this share of the memory that the cache leaves free.
BATCH_SHARE = 0.25
# Tokens of a batch of texts that is computed and then stored; a kill loses one batch, a few seconds of work.
STORED_BATCH_TOKENS = 1024
# Tokens at which the text of a history is cut.
HISTORY_TOKENS = 128
MAX_BATCH = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Context:
    """The texts that fill a template: an item's text and the texts of earlier items (the history)."""

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


class Reader:
    """Computes answer logits of soft prompts in contexts, with a frozen backbone and one template.

    Each distinct text before the prompt slot is run once, and its keys and values are cached. If
    all do not fit into `cache_bytes` (default: 3 GiB on a CPU, half of the free memory of a GPU),
    they are recomputed for each batch. Titles are cut to `item_tokens`, histories to
    HISTORY_TOKENS; the slot and the answer cue never are. store: keeps keys and values between
    runs; give it only for contexts of a data set's items. It is not used where a history stands
    before the slot. Raises TemplateError, BackboneError or DataError.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        template: Template,
        contexts: Sequence[Context],
        *,
        item_tokens: int = 48,
        cache_bytes: int | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        self.backbone = backbone
        self.template = template
        self.contexts = contexts
        self.task: Task = get_task(template.task)
        self._max_tokens = {Slot.ITEM: item_tokens, Slot.HISTORY: HISTORY_TOKENS}
        encoded = encode_template(backbone.tokenizer, template, self.task.answers)
        self.answers = torch.tensor(encoded.answers, device=backbone.device)
        self.encoded = encoded
        with gc_paused():
            # The token ids of every text that fills a slot.
            self._filled: dict[Slot, dict[str, list[int]]] = {}
            for slot in (slot for slot in self._max_tokens if slot in template.pieces):
                texts = list({slot_text(slot, context) for context in contexts})
                self._filled[slot] = dict(zip(texts, encoded.fill(slot, texts), strict=True))
            slots = [piece for piece in encoded.before if isinstance(piece, Slot)]
            self._store = store if slots == [Slot.ITEM] else None
            # Tokens that every text before the slot begins with, whatever the items are.
            # A chat template contains the tokens that start a sequence.
            start = [] if template.chat_template else backbone.start
            self._fixed = len(start)
            for piece in itertools.takewhile(lambda part: part not in slots, encoded.before):
                self._fixed += len(piece)  # type: ignore[arg-type]
            before = [start + self._join(encoded.before, row) for row in contexts]
            after = [self._join(encoded.after, row) for row in contexts]
            self._before_row, self._before = self._unique(before, share=True)
            self._after_row, self._after = self._unique(after)
        self._check_embedded(encoded.answers)
        # Rows [2, n] of the distinct texts before and after the slot, by context.
        self._rows = torch.stack([self._before_row, self._after_row]).to(backbone.device)
        self._before_length = self._before.lengths.cpu()[self._before_row]
        self._after_length = self._after.lengths.cpu()[self._after_row]
        self._max_length = int((self._before_length + self._after_length).max())
        self._max_before = int(self._before_length.max())
        self._check_length(1)
        if cache_bytes is None:
            cache_bytes = CPU_CACHE_BYTES
            if backbone.device.type == "cuda":
                cache_bytes = int(GPU_CACHE_SHARE * free_bytes(backbone.device))
        needed = int(self._before.ids.numel()) * backbone.token_bytes
        self._cached = needed <= cache_bytes
        self._free = free_bytes(backbone.device) - self._cached * needed
        self._cache = KVCache()
        self._computed = torch.zeros(len(self._before), dtype=torch.bool)
        self._graphed = GraphedCalls(backbone.device)
        # A CUDA graph is captured on one device.
        self._graphed.graphs.enabled &= not backbone.spread

    def slot_ids(self, slot: Slot, context: Context) -> list[int]:
        """Return the token ids that fill the item or history slot for a context, cut to length."""
        return self._filled[slot][slot_text(slot, context)][: self._max_tokens[slot]]

    def is_cut(self, slot: Slot, context: Context) -> bool:
        """Return whether a context's text is longer than its slot allows."""
        return len(self._filled[slot][slot_text(slot, context)]) > self._max_tokens[slot]

    def sequence(self, context: int) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the prompt slot of context row `context`."""
        parts = (self._before, self._before_row), (self._after, self._after_row)
        before, after = (tokens.row(int(row[context])) for tokens, row in parts)
        return before, after

    def _join(self, pieces: Sequence[Ids | Slot], context: Context) -> list[int]:
        joined: list[int] = []
        for piece in pieces:
            joined += self.slot_ids(piece, context) if isinstance(piece, Slot) else piece
        return joined

    def _check_embedded(self, answers: Sequence[int]) -> None:
        """Raise BackboneError for a token beyond the model's embeddings."""
        rows = self.backbone.model.get_input_embeddings().num_embeddings
        parts = [part.ids for part in (self._before, self._after) if part.ids.numel()]
        largest = max([*answers, *(int(ids.max()) for ids in parts)])
        if largest >= rows:
            raise BackboneError(
                f"The tokenizer writes token {largest}, but {self.backbone.info.spec} embeds {rows}; the "
                "tokenizer belongs to another model."
            )

    def _unique(self, rows: list[list[int]], *, share: bool = False) -> tuple[Tensor, RaggedTensor]:
        number: dict[tuple[int, ...], int] = {}
        index = [number.setdefault(tuple(row), len(number)) for row in rows]
        packed = RaggedTensor.pack(list(number), self.backbone.device, share=share)
        return torch.tensor(index, dtype=torch.long), packed

    def _check_length(self, prompt: int) -> None:
        context = self.backbone.info.context
        if context and self._max_length + prompt > context:
            raise TemplateError(
                f"The template {self.template.name!r} takes up to {self._max_length} tokens and a soft "
                f"prompt of {prompt}, but {self.backbone.info.spec} reads {context}; use shorter "
                "soft prompts or another template."
            )

    def max_batch(self, prompt: int) -> int:
        """Return the batch size that fits into memory without gradients, a power of two.

        prompt: tokens of a soft prompt. Each row takes the activations of one layer and, where
        attention does not read them in place, a copy of its keys and values.
        """
        before, after = self.widths(torch.arange(len(self)), prompt)
        config, size = self.backbone.model.config.get_text_config(), self.backbone.dtype.itemsize
        inner = max_over_layers(config, "intermediate_size") or 4 * config.hidden_size
        # A layer's hidden states, some of them in fp32, its gate and its feed-forward part.
        layer = (6 * config.hidden_size + 3 * inner) * size
        copied = 0 if self.backbone.reads_in_place(after + prompt, before) else before
        row = (copied + after + prompt) * self.backbone.token_bytes + (after + prompt) * layer
        fits = max(1, int(BATCH_SHARE * self._free / row))
        return min(MAX_BATCH[self.backbone.device.type], 1 << (fits.bit_length() - 1))

    def __len__(self) -> int:
        return len(self._before_row)

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each context, [n]; batches of similar length are formed by it."""
        return (self._before_length if self.template.item_first else self._after_length).numpy()

    def suffix_lengths(self, contexts: Tensor) -> Tensor:
        """Return the number of tokens behind the prompt slot, which are read for every user, for context rows [n]."""
        return self._after_length[contexts]

    @property
    def cached_tokens(self) -> int:
        """Number of tokens before the prompt slot whose keys and values are cached."""
        common = self._before.common
        beyond_common = self._before.lengths.cpu()[self._computed] - common
        return int(beyond_common.sum()) + common * bool(len(beyond_common))

    def prepare(self, contexts: Tensor) -> None:
        """Cache the prefixes of context rows [n] (CPU) that are not cached yet.

        This does nothing if the cache does not fit into memory.
        """
        rows = self._before_row[contexts]
        if self._cached and not self._computed[rows].all():
            missing = torch.unique(rows[~self._computed[rows]])
            if self._store is None:
                self.backbone.prefix(self._before, missing.to(self.backbone.device), self._cache)
            else:
                self._prepare_stored(self._store, missing)
            self._computed[missing] = True

    def _prepare_stored(self, store: PrefixStore, rows: Tensor) -> None:
        """Cache the prefixes of distinct texts from disk, compute what is missing, and store it."""
        texts, tokens, common = self._before, len(self._before.ids), self._before.common
        self.backbone.prefix(texts, rows[:0], self._cache)  # tokens that all texts begin with
        unread = []
        for row in rows.tolist():
            layers = store.read(texts.row(row), self._fixed)
            if layers is None:
                unread.append(row)
            else:
                beyond_common = [layer[:, :, common - self._fixed :] for layer in layers]
                self._cache.put(tokens, int(texts.offset[row]), beyond_common)
        if not unread:
            return
        started = time.perf_counter()

        def write(batch: Tensor) -> None:
            nonlocal started
            seconds = (time.perf_counter() - started) / len(batch)
            for row in batch.tolist():
                begin, end = (int(place) for place in texts.offset[row : row + 2])
                index = torch.cat([torch.arange(self._fixed, common), torch.arange(begin, end)])
                store.write(texts.row(row), self._fixed, self._cache.take(index), seconds)
            started = time.perf_counter()

        self.backbone.prefix(texts, torch.tensor(unread), self._cache, STORED_BATCH_TOKENS, write)
        store.make_room()

    def logits(
        self, prompts: Tensor, contexts: Tensor, widths: tuple[int, ...] | None = None
    ) -> Tensor:
        """Return answer logits [B, A] in fp32 for prompts [B, l, width] and context rows [B].

        Without widths, contexts must be on the CPU, so that widths are computed without waiting for
        a GPU. Recurring shapes are replayed as CUDA graphs, and the next call with the same shape
        overwrites the result. With widths (from `widths`), contexts must be on the device and
        prepared. Then nothing waits for the device, so the caller may capture the call in a graph.
        """
        compute: Callable[..., Tensor] = self._cached_logits
        if widths is None:
            widths = self.widths(contexts, prompts.shape[1])
            if self.recomputes:
                compute = self._recomputed_logits
            else:
                self.prepare(contexts)
                compute = partial(self._graphed, self._cached_logits)
        rows = self._rows[:, contexts.to(self.backbone.device, non_blocking=True)]
        prompts = prompts.to(self.backbone.device, self.backbone.dtype)
        # The frozen weights have the wanted precision; autocast would only cast them again.
        with torch.autocast(self.backbone.device.type, enabled=False):
            return compute(prompts, rows, widths=widths)

    def widths(self, contexts: Tensor, prompt: int) -> tuple[int, int]:
        """Return the padded lengths before and after the prompt for context rows [B] (CPU).

        prompt: tokens of a soft prompt. Raises TemplateError if the model cannot read so many
        tokens.
        """
        self._check_length(prompt)
        before = int(self._before_length[contexts].max())
        after = int(self._after_length[contexts].max())
        step = AFTER_STEP
        if self.template.item_first:
            step = 1
        elif self.backbone.compiled:
            step = COMPILED_AFTER_STEP
        after = self._rounded(after + prompt, step) - prompt
        if self.backbone.reads_in_place(after + prompt, self._max_before):
            # There lengths are inputs of the kernel, so all batches have one shape.
            return self._max_before, after
        return self._rounded(before, BEFORE_STEP if self.template.item_first else AFTER_STEP), after

    @property
    def recomputes(self) -> bool:
        """Whether prefixes are recomputed for each batch, because they do not fit into memory."""
        return not self._cached and bool(self._before.ids.numel())

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold `logits` with widths: one device, and prefixes cached."""
        return not self.recomputes and not self.backbone.spread

    def _rounded(self, width: int, step: int) -> int:
        """Round a length up on a GPU, so that few CUDA graphs are needed; a CPU needs no padding."""
        return width if self.backbone.device.type == "cpu" else -(-width // step) * step

    def _cached_logits(self, prompts: Tensor, rows: Tensor, *, widths: tuple[int, ...]) -> Tensor:
        before, after = widths
        prefix = CachedPrefix(self._cache, self._before, rows[0], before) if before else None
        return self._logits_after(prompts, rows[1], after, prefix)

    def _recomputed_logits(
        self, prompts: Tensor, rows: Tensor, *, widths: tuple[int, ...]
    ) -> Tensor:
        before, after = widths
        unique, inverse = torch.unique(rows[0], return_inverse=True)
        texts = self._before.take(unique)
        every = torch.arange(len(texts), device=rows.device)
        cache = self.backbone.prefix(texts, every, KVCache())
        return self._logits_after(
            prompts, rows[1], after, CachedPrefix(cache, texts, inverse, before)
        )

    def _logits_after(
        self, prompts: Tensor, rows: Tensor, width: int, prefix: CachedPrefix | None
    ) -> Tensor:
        """Return the logits after a prefix, the prompts and the texts behind the slot."""
        embeddings = prompts
        if width:
            index, exists = self._after.index(rows, width, left=False)
            suffix = self.backbone.embed(self._after.ids[index].masked_fill(~exists, 0))
            embeddings = torch.cat([prompts, suffix.to(prompts.dtype)], dim=1)
        hidden = self.backbone.last_hidden(
            embeddings, self._after.lengths[rows] + prompts.shape[1], prefix
        )
        return self.backbone.answer_logits(hidden, self.answers)
