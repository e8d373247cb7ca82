"""A frozen causal language model that reads embeddings after a cached prefix.

The constructor checks part by part that the model can be used with soft prompts, so that an error
names the part that fails.
"""

import functools
import gc
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from puma_engine.backbone.attention.compiled_layers import (
    compile_layers,
    compiled_softmax,
    uncompile_layers,
    whole_layers_compiled,
)
from puma_engine.backbone.attention.fp8 import use_fp8
from puma_engine.backbone.attention.joint_linear import join_linears
from puma_engine.backbone.attention.kv_cache import CachedPrefix, KVCache, RaggedTensor
from puma_engine.backbone.attention.last_position_mlp import wrap_last_mlp
from puma_engine.backbone.attention.plain_attention import KeyValue, joint_softmax
from puma_engine.backbone.attention.prefix_attention import (
    NAME,
    InPlace,
    Prefix,
    PrefixLayer,
    attention_modules,
    reading_in_place,
    use_prefix_attention,
)
from puma_engine.backbone.attention.triton_attention import (
    block_tokens,
    can_attend_in_place,
    tile_rows,
)
from puma_engine.backbone.gguf_model import GgufModel
from puma_engine.backbone.loading import (
    FP8,
    BackboneInfo,
    check_quantisation,
    check_room,
    check_size,
    describe,
    gib,
    load_gguf_tokenizer,
    load_model,
    load_tokenizer,
    locate,
    max_over_layers,
    weight_bytes,
)
from puma_engine.backbone.prefix_store import PrefixStore
from puma_engine.backbone.tokens import start_ids
from puma_engine.errors import BackboneError
from puma_engine.training import distributed
from puma_engine.training.device import free_bytes, resolve_device, resolve_precision, torch_dtype

# Deprecated name of the device "auto", which requires GPUs.
SPREAD = "spread"
NORM_TOKENS = 4096
# Models of this many parameters are compiled when they are loaded on a GPU.
COMPILED_PARAMETERS = 300_000_000

# The check compares logits of this many tokens for rows of unequal length.
CHECKED_LOGITS = 64
CHECKED_LENGTHS = (5, 3)
# On rows that are no real text, half precision rounds far more in a pre-trained model.
CHECKED_TEXTS = ("A long story of a journey", "This book was read")
# Compiled kernels suit the number of rows that they are compiled for.
COMPILED_ROWS = 1024
# Allowed difference as a share of the logits' norm. Half precision rounds in every layer, and
# 8-bit products round activations by what else is in the batch; a position that is off by one
# differs by far more.
TOLERANCE = {torch.float32: 1e-3}
HALF_TOLERANCE = 0.1
QUANTISED_TOLERANCE = 0.3
# Deep models with random weights, as benchmarks use them, amplify the rounding of 8-bit floats.
FP8_TOLERANCE = 0.5


class FrozenBackbone:
    """Any Hugging Face causal language model, frozen and in eval mode.

    Build one with `FrozenBackbone.load`. Its weights never receive gradients; its results are
    differentiable with respect to the soft prompts.
    """

    def __init__(self, model: Any, tokenizer: Any, info: BackboneInfo) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.info = info
        embeddings = model.get_input_embeddings()
        if embeddings is None or model.get_output_embeddings() is None:
            raise BackboneError(
                f"{info.architecture} cannot serve: it has no input embeddings or no output head; "
                "choose an ordinary causal model."
            )
        self.device = embeddings.weight.device
        self.dtype = embeddings.weight.dtype
        # With layers on several devices, results come back to `device`.
        self.spread = len({parameter.device for parameter in model.parameters()}) > 1
        self.start = start_ids(tokenizer)
        self.latest_reader: tuple[Any, Any] | None = None
        # Where keys and values of items are kept between runs, if anywhere.
        self.prefix_store: PrefixStore | None = None
        self._decoder = model.base_model
        # Newer releases of transformers rename the argument, one model after the other.
        arguments = inspect.signature(self._decoder.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        self.compiled = False
        self.last_mlp = wrap_last_mlp(self._decoder)
        config = model.config.get_text_config()
        self._heads = max_over_layers(config, "num_attention_heads") or 0
        # Attention in the cache cannot limit how far back a position sees.
        self._window = _window(config)
        self._kv_shapes: set[tuple[int, int]] = set()
        self._attention = attention_modules(self._decoder)
        self._checked_rows = self._rows_to_check()
        self.in_place = self.device.type == "cuda" and not self.spread
        self.in_place &= bool(self._attention) and self._heads > 0
        self._check()

    @classmethod
    def load(
        cls,
        spec: str | Path,
        *,
        device: str | None = None,
        precision: str = "auto",
        revision: str | None = None,
        quantise: str | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> "FrozenBackbone":
        """Load a backbone by zoo name, folder, GGUF file or hub id.

        device: "cpu", "cuda", "cuda:1", "auto" (layers on all GPUs, where there are several), or
        None for the best there is. precision: "fp32", "bf16", "fp16", or "auto", see
        `training.device.resolve_precision`. revision: branch, tag or commit of a hub id (default:
        main). quantise: "4bit", "8bit", "fp8" or None. announce: called before weights are fetched
        or read, with a phrase that says how much memory they take. Large models on a GPU are
        compiled. Raises BackboneError, also for a model that cannot fit, before its weights are
        fetched or read.
        """
        if device == "auto" and torch.cuda.device_count() > 1 and distributed.world_size() == 1:
            device = SPREAD
        spread = device == SPREAD
        if spread and not torch.cuda.is_available():
            raise BackboneError("A model can be spread over GPUs only, and there is none; use cpu.")
        # Of a spread model, the device of its inputs and outputs.
        main_device = torch.device("cuda:0" if spread else resolve_device(device))
        source = locate(spec, revision)
        if source.gguf is not None and quantise not in (None, FP8):
            raise BackboneError(
                f"A GGUF file is dequantised when it is loaded, so --quantise {quantise} does not apply "
                "to it; leave it out, or give the model as a folder or a hub id."
            )
        check_quantisation(quantise, main_device, spread=spread)
        free = free_bytes(None if spread else main_device)
        where = "all GPUs together" if spread else str(main_device)
        shapes = source.shapes()
        parameters = sum(math.prod(shape) for shape in shapes.values())
        name = resolve_precision(precision, main_device, parameters)
        need = weight_bytes(shapes, name, quantise)
        check_room(source.spec, need, free, where)
        if announce is not None:
            announce(f"loading {gib(need)} of weights in {quantise or name}, {gib(free)} are free")
        folder = source.gguf or source.fetch()
        if isinstance(folder, GgufModel):
            tokenizer = load_gguf_tokenizer(folder)
        else:
            check_size(folder, shapes)
            tokenizer = load_tokenizer(folder)
        model = load_model(folder, torch_dtype(name), main_device, quantise=quantise, spread=spread)
        starts = tuple(tokenizer.convert_ids_to_tokens(start_ids(tokenizer)))
        packed = None if quantise == FP8 else quantise
        backbone = cls(model, tokenizer, describe(source, model, name, starts, quantised=packed))
        large = main_device.type == "cuda" and backbone.info.parameters >= COMPILED_PARAMETERS
        if quantise == FP8 or (large and not spread and quantise is None):
            backbone.compile_layers(fp8=quantise == FP8)
        return backbone

    def compile_layers(self, *, fp8: bool = False) -> bool:
        """Compile the layers on a GPU; return whether that worked.

        The first batches take a minute longer, and later ones half the time. fp8: compute the
        products of the layers in 8 bits too. Models that cannot be compiled, or whose logits
        change, run uncompiled. Raises BackboneError if fp8 changes the logits too much.
        """
        if self.device.type != "cuda":
            return False
        with torch.no_grad():
            expected = self._reference_logits()
        separate = join_linears(self._decoder)
        if fp8:
            use_fp8(self._decoder)
            self.info = replace(self.info, quantised=FP8)
        compile_layers(self._decoder)
        self.compiled = True
        try:
            with torch.no_grad():
                rows = self._checked_rows
                self._compare("fused layers", expected, self._gathered_logits, (rows, (4, 1)))
        except BackboneError:
            if fp8:
                raise
            uncompile_layers(self._decoder)
            separate()
            self.compiled = False
        if self.compiled and self.in_place:
            try:
                with torch.no_grad():
                    copies = COMPILED_ROWS // len(self._checked_rows)
                    self._compare(
                        "compiled layers",
                        expected,
                        lambda *call: self._split_logits(*call)[: len(self._checked_rows)],
                        (self._checked_rows * copies, (4, 2) * copies),
                    )
            except BackboneError:
                self.in_place = False
        return self.compiled

    @functools.cached_property
    @torch.no_grad()
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        states = self._run_prefix(torch.zeros(1, 1, dtype=torch.long, device=self.device), [])
        return sum(part.numel() * part.element_size() for pair in states for part in pair)

    def forget(self) -> None:
        """Drop the latest reader and its cached prefixes, and count reads from disk anew.

        Memory of CUDA graphs stays reserved after they are gone; it is given back.
        """
        self.latest_reader = None
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        if self.prefix_store is not None:
            self.prefix_store.forget()

    @property
    def width(self) -> int:
        """Dimension of one soft prompt token."""
        return self.info.width

    @property
    def layer_weights(self) -> int:
        """Number of parameters in the layers: all but the embeddings and the output head."""
        inputs, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        tables = {id(table.weight): table.weight.numel() for table in (inputs, head)}
        return self.info.parameters - sum(tables.values())

    def embed(self, ids: Tensor) -> Tensor:
        """Return input embeddings [..., width] of token ids [...]."""
        return self.model.get_input_embeddings()(ids)

    @torch.no_grad()
    def token_norm(self) -> float:
        """Return the median Euclidean norm of input embeddings, of up to `NORM_TOKENS` tokens."""
        rows = int(self.model.get_input_embeddings().num_embeddings)
        ids = torch.linspace(0, rows - 1, min(rows, NORM_TOKENS), device=self.device).long()
        return float(self.embed(ids).float().norm(dim=-1).median())

    @torch.no_grad()
    def prefix(
        self,
        tokens: RaggedTensor,
        rows: Tensor,
        cache: KVCache,
        batch_tokens: int = 16_384,
        after_batch: Callable[[Tensor], None] | None = None,
    ) -> KVCache:
        """Compute keys and values of rows [n] of texts before a prompt, into the cache.

        Rows are padded on the right, which a causal model cannot see, in batches of similar
        length and about `batch_tokens` tokens. after_batch: called with the rows of each batch when
        it is in the cache. Returns the cache.
        """
        lengths = tokens.lengths[rows].cpu()
        order = torch.argsort(lengths, stable=True)
        start, common = 0, tokens.common
        if common and not cache.layers:
            index = torch.arange(common, device=tokens.ids.device).unsqueeze(0)
            states = self._run_prefix(tokens.ids[index], [])
            cache.write(len(tokens.ids), index, states, torch.ones_like(index, dtype=torch.bool))
        while start < len(order):
            size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
            part = order[start : start + size]
            start += size
            width = int(lengths[part].max())
            if width > common:
                index, exists = tokens.index(rows[part.to(rows.device)], width, left=False)
                past = cache.gather(index[:, :common]) if common else []
                index, exists = index[:, common:], exists[:, common:]
                states = self._run_prefix(tokens.ids[index], past)
                cache.write(len(tokens.ids), index, states, exists)
            if after_batch is not None:
                after_batch(rows[part.to(rows.device)])
        return cache

    def _run_prefix(self, ids: Tensor, past: list[KeyValue]) -> list[KeyValue]:
        """Return the keys and values of ids [B, P] that follow past; no row of past is padded."""
        cache: Any = _dynamic_cache(past)
        with self._last_mlp_at(None):
            arguments = {self._cache_argument: cache}
            self._decoder(inputs_embeds=self.embed(ids), use_cache=True, **arguments)
        width = ids.shape[1]
        return [(layer.keys[:, :, -width:], layer.values[:, :, -width:]) for layer in cache.layers]

    def reads_in_place(self, length: int, longest: int) -> bool:
        """Return whether attention of `length` new positions can read prefixes of up to `longest` tokens in the cache."""
        return (
            self.in_place
            and longest > 0
            and (self._window is None or longest + length <= self._window)
            and can_attend_in_place(
                self.device, self.dtype, self._heads, self._kv_shapes, length, longest
            )
        )

    def last_hidden(
        self, embeddings: Tensor, lengths: Tensor, prefix: CachedPrefix | None = None
    ) -> Tensor:
        """Return the final hidden state [B, width] at each row's last position.

        embeddings [B, S, width] are padded on the right to S; lengths [B]. prefix: the cached texts
        before the rows. On a GPU attention reads them in the cache, elsewhere in a copy.
        """
        width = embeddings.shape[1]
        embeddings = embeddings.to(self.dtype)
        last = (lengths - 1).view(-1, 1, 1)
        with self._last_mlp_at(last) if width > 1 else nullcontext():
            if prefix is not None and self.reads_in_place(width, prefix.longest):
                hidden = self._hidden_in_place(embeddings, prefix)
            else:
                hidden = self._hidden_gathered(embeddings, lengths, prefix)
        if width == 1:
            return hidden.squeeze(1)
        last = last.to(hidden.device).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, last).squeeze(1)

    def _hidden_in_place(self, embeddings: Tensor, prefix: CachedPrefix) -> Tensor:
        width, layers = embeddings.shape[1], prefix.cache.layers
        group = self._heads // layers[0].shape[1]
        tiles = prefix.tiles(tile_rows(group, width))
        column = torch.arange(width, device=embeddings.device).unsqueeze(0)
        one_block = prefix.longest <= block_tokens(self.dtype)
        in_place = [InPlace(layer, tiles, one_block) for layer in layers]
        with ExitStack() as stack:
            stack.enter_context(reading_in_place(self._attention, in_place))
            if self.compiled:
                stack.enter_context(whole_layers_compiled(self._decoder))
                # A view would have the first layer compiled apart from the others.
                embeddings = embeddings.clone()
            hidden: Tensor = self._decoder(
                inputs_embeds=embeddings,
                # transformers passes a mask of four axes on unchanged; this attention ignores it.
                attention_mask=column.new_ones((1, 1, 1, 1), dtype=torch.bool),
                position_ids=prefix.lengths.unsqueeze(1) + column,
                use_cache=False,
            ).last_hidden_state
        return hidden

    def _hidden_gathered(
        self, embeddings: Tensor, lengths: Tensor, prefix: CachedPrefix | None
    ) -> Tensor:
        batch, width, _ = embeddings.shape
        column = torch.arange(width, device=embeddings.device).unsqueeze(0)
        exists = column < lengths.unsqueeze(1)
        positions = column.expand(batch, -1)
        past: list[KeyValue] = []
        if prefix is not None and prefix.longest:
            past, past_exists = prefix.gather()
            positions = positions + past_exists.sum(1, keepdim=True)
            exists = torch.cat([past_exists, exists], dim=1)
        cache = _dynamic_cache(past)
        if self.model.config._attn_implementation == NAME:
            # This attention reads the prefix separately.
            softmax = compiled_softmax() if self.compiled else joint_softmax
            pairs: Sequence[KeyValue | None] = past or [None] * self.info.layers
            cache.layers = [PrefixLayer(Prefix(pair, softmax)) for pair in pairs]
        hidden: Tensor = self._decoder(
            inputs_embeds=embeddings,
            attention_mask=exists.long(),
            position_ids=positions,
            **{self._cache_argument: cache},
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _last_mlp_at(self, index: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext() if self.last_mlp is None else self.last_mlp.only_at(index)

    def answer_logits(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """Return fp32 logits [B, A] of the answer tokens [A] from hidden states [B, width]."""
        head = self.model.get_output_embeddings()
        answers = answers.to(head.weight.device)
        weight = head.weight[answers]
        bias = head.bias[answers] if getattr(head, "bias", None) is not None else None
        hidden = hidden.to(weight.device, weight.dtype)
        logits = torch.nn.functional.linear(hidden, weight, bias).float()
        config = self.model.config.get_text_config()
        if (scale := getattr(config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits.to(self.device)

    @torch.no_grad()
    def ffn_activations(self, prompts: Tensor, batch_size: int = 512) -> Tensor:
        """Return which gate units of the last three layers are positive at the end of [start, prompt].

        prompts [n, l, width]; returns booleans [n, 3 x intermediate size]. Raises BackboneError
        for a model without readable gates.
        """
        gates = self._gates()
        if not gates:
            raise BackboneError(
                f"{self.info.architecture} has no feed-forward gates that can be read; choose a "
                "selection strategy without FFN activations."
            )
        outputs: list[Tensor] = []
        hooks = [
            gate.register_forward_hook(lambda _m, _i, out: outputs.append(out[:, -1]))
            for gate in gates[-3:]
        ]
        rows = []
        try:
            for block in prompts.split(batch_size):
                outputs.clear()
                start = torch.tensor(self.start, dtype=torch.long, device=self.device)
                before = self.embed(start).expand(len(block), -1, -1)
                block = block.to(self.device, self.dtype)
                self._decoder(
                    inputs_embeds=torch.cat([before.to(self.dtype), block], 1), use_cache=False
                )
                rows.append(torch.cat([(part > 0).cpu() for part in outputs], dim=1))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(rows)

    def has_gates(self) -> bool:
        """Return whether `ffn_activations` works with this model."""
        return bool(self._gates())

    def _gates(self) -> list[torch.nn.Module]:
        names = ("act_fn", "activation_fn", "act")
        gates = [
            next((getattr(module, name) for name in names if hasattr(module, name)), None)
            for module in self._decoder.modules()
            if type(module).__name__.endswith(("MLP", "FeedForward"))
        ]
        return [gate for gate in gates if isinstance(gate, torch.nn.Module)]

    @torch.no_grad()
    def _check(self) -> None:
        """Raise BackboneError with the first part whose result differs from that of the plain model.

        For a model with which they do not work, prefix attention and then the shortened last layer
        are switched off first.
        """
        expected = self._reference_logits()
        if not torch.isfinite(expected).all():
            raise BackboneError(
                f"{self.info.architecture} gives infinite or missing logits in {self.info.dtype}; "
                "load it in another precision."
            )

        def from_embeddings(row: list[int]) -> Tensor:
            embedded = self.embed(torch.tensor([row], device=self.device))
            return self._checked(self.model(inputs_embeds=embedded).logits)

        each = [(row,) for row in self._checked_rows]
        self._compare("reading input embeddings", expected, from_embeddings, *each)
        fallbacks: list[Callable[[], None]] = []
        own_attention = use_prefix_attention(self.model)
        if own_attention is not None:
            fallbacks.append(lambda: self.model.set_attn_implementation(own_attention))
        if self.last_mlp is not None:
            fallbacks.append(lambda: setattr(self, "last_mlp", None))
        # Rows of one length need no padding, so they come one by one until the last part.
        parts: dict[str, list[tuple[Any, ...]]] = {
            "decoder and output head": [([row], (0,)) for row in self._checked_rows],
            "cached keys and values": [([row], (2,)) for row in self._checked_rows],
            "padding and positions": [(self._checked_rows, (4, 1))],
        }
        in_place, self.in_place = self.in_place, False
        while True:
            try:
                for name, calls in parts.items():
                    self._compare(name, expected, self._split_logits, *calls)
                self._check_soft_prompt()
                break
            except BackboneError:
                if not fallbacks:
                    raise
                fallbacks.pop(0)()
        self.in_place = in_place and self.model.config._attn_implementation == NAME
        if self.in_place:
            try:
                for splits in ((4, 1), (4, 2)):
                    self._compare(
                        "attention in place",
                        expected,
                        self._split_logits,
                        (self._checked_rows, splits),
                    )
            except BackboneError:
                self.in_place = False

    def _check_soft_prompt(self) -> None:
        """Raise BackboneError for a model that cannot read vectors that are no tokens, or gives them no gradient.

        Models with embeddings of their own in every layer look tokens up by their embedding.
        """
        name, row = "soft prompts", self._checked_rows[0]
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn(1, 2, self.width, generator=generator) * self.width**-0.5
        prompt = (draw * self.token_norm()).to(self.device, self.dtype).requires_grad_()
        ids = torch.tensor([row], device=self.device)
        before, after = self.embed(ids[:, :2]), self.embed(ids[:, 2:])

        def whole() -> Tensor:
            joined = torch.cat([before, prompt, after], dim=1)
            return self._checked(self.model(inputs_embeds=joined).logits)

        def split() -> Tensor:
            embeddings = torch.cat([prompt, after], dim=1)
            length = torch.tensor([embeddings.shape[1]], device=self.device)
            tokens = RaggedTensor.pack([row[:2]], self.device)
            rows = torch.zeros(1, dtype=torch.long, device=self.device)
            past = CachedPrefix(self.prefix(tokens, rows, KVCache()), tokens, rows, 2)
            hidden = self.last_hidden(embeddings, length, past)
            return self.answer_logits(hidden, self._checked_answers())

        def gradient() -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(split().sum(), prompt)[0]

        with torch.no_grad():
            self._compare(name, self._run_part(name, whole, ()), split, ())
        if not torch.isfinite(self._run_part(f"gradients of {name}", gradient, ())).all():
            raise BackboneError(
                f"{self.info.architecture} gives infinite or missing gradients of soft prompts in "
                f"{self.info.dtype}; load it in another precision."
            )

    def _run_part(
        self, name: str, compute: Callable[..., Tensor], *calls: tuple[Any, ...]
    ) -> Tensor:
        """Return the results of calls, by their arguments, one below the other."""
        try:
            return torch.cat([compute(*arguments) for arguments in calls])
        except Exception as error:  # unknown architectures may raise anything
            reason = " ".join(str(error).split())[:200]
            raise BackboneError(
                f"{self.info.architecture} cannot serve: its part {name!r} fails "
                f"({type(error).__name__}: {reason}); choose an ordinary causal model."
            ) from error

    def _compare(
        self, name: str, expected: Tensor, compute: Callable[..., Tensor], *calls: tuple[Any, ...]
    ) -> None:
        """Raise BackboneError if these logits differ from those of the plain model."""
        actual = self._run_part(name, compute, *calls)
        tolerance = TOLERANCE.get(self.dtype, HALF_TOLERANCE)
        if self.info.quantised:
            tolerance = FP8_TOLERANCE if self.info.quantised == FP8 else QUANTISED_TOLERANCE
        difference = float(torch.linalg.vector_norm(expected - actual))
        if not difference <= tolerance * float(torch.linalg.vector_norm(expected)):
            raise BackboneError(
                f"{self.info.architecture} cannot serve: its part {name!r} works in a way that is "
                f"not known here (logits differ by {difference:.2g}); choose an ordinary causal "
                "model."
            )

    def _rows_to_check(self) -> list[list[int]]:
        """Return rows of CHECKED_LENGTHS token ids: of a text, or the first ids where it gives too few."""
        rows = []
        for text, length in zip(CHECKED_TEXTS, CHECKED_LENGTHS, strict=True):
            ids = [*self.start, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
            embedded = [number for number in ids if number < self.info.vocabulary]
            rows.append(embedded[:length] if len(embedded) >= length else [*range(1, 1 + length)])
        return rows

    def _reference_logits(self) -> Tensor:
        """Return the plain model's logits [n, CHECKED_LOGITS] of the checked rows."""

        def logits(row: list[int]) -> Tensor:
            ids = torch.tensor([row], device=self.device)
            return self._checked(self.model(input_ids=ids).logits)

        each = [(row,) for row in self._checked_rows]
        return self._run_part("reading tokens", logits, *each)

    def _split_logits(self, rows: list[list[int]], splits: tuple[int, ...]) -> Tensor:
        """Return logits with the first tokens of each row as a cached prefix; splits: how many of each row."""
        pairs = list(zip(rows, splits, strict=True))
        prefix = RaggedTensor.pack([row[:k] for row, k in pairs], self.device)
        suffix = RaggedTensor.pack([row[k:] for row, k in pairs], self.device)
        all_rows = torch.arange(len(rows), device=self.device)
        past = None
        if max(splits):
            cache = self.prefix(prefix, all_rows, KVCache())
            self._kv_shapes |= {(layer.shape[1], layer.shape[3]) for layer in cache.layers}
            past = CachedPrefix(cache, prefix, all_rows, max(splits))
        index, exists = suffix.index(all_rows, int(suffix.lengths.max()), left=False)
        embeddings = self.embed(suffix.ids[index].masked_fill(~exists, 0))
        hidden = self.last_hidden(embeddings, suffix.lengths, past)
        return self.answer_logits(hidden, self._checked_answers())

    def _checked_answers(self) -> Tensor:
        return torch.arange(min(CHECKED_LOGITS, self.info.vocabulary), device=self.device)

    def _gathered_logits(self, rows: list[list[int]], splits: tuple[int, ...]) -> Tensor:
        """Return the same logits from a copy of each row's prefix."""
        in_place, self.in_place = self.in_place, False
        try:
            return self._split_logits(rows, splits)
        finally:
            self.in_place = in_place

    def _checked(self, logits: Tensor) -> Tensor:
        answers = min(CHECKED_LOGITS, self.info.vocabulary)
        return logits[:, -1, :answers].float().to(self.device)


def _dynamic_cache(past: Sequence[KeyValue]) -> DynamicCache:
    """Return a cache of transformers that holds these keys and values, one pair a layer."""
    cache = DynamicCache()
    for keys, values in past:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _window(config: Any) -> int | None:
    """Return how many tokens a position sees; None for all, 0 where layers differ."""
    try:
        names = ("sliding_window", "attention_chunk_size")
        return min(
            (int(size) for name in names if (size := getattr(config, name, None))), default=None
        )
    except Exception:  # transformers refuses a setting that differs from layer to layer
        return 0
