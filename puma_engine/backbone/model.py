"""A frozen causal language model that reads embeddings after a cached prefix."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puma_engine.backbone.attention.fp8 import LARGE, Fused, fuse_layers, unfuse_layers, use_fp8
from puma_engine.backbone.attention.kv_cache import PackedKeysValues, Ragged
from puma_engine.backbone.attention.last_position_mlp import add_tail, remove_tail
from puma_engine.backbone.attention.prefix_attention import NAME as GROUPED
from puma_engine.backbone.attention.prefix_attention import joint_softmax, kept_apart, kept_layer
from puma_engine.backbone.loading import (
    BackboneInfo,
    check_quantisation,
    describe,
    load_model,
    load_tokenizer,
    locate,
)
from puma_engine.backbone.memory import FP8, check_room, free_bytes, weight_bytes
from puma_engine.backbone.probing import check_fused, plain_logits, probe
from puma_engine.backbone.tokens import start_ids
from puma_engine.errors import BackboneError
from puma_engine.training.loop import resolve_device, resolve_precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SPREAD = "spread"
NORM_TOKENS = 4096


class FrozenBackbone:
    """Any Hugging Face causal language model, frozen and in eval mode.

    Build one with `FrozenBackbone.load`. Its weights never receive gradients; what it
    computes is differentiable with respect to the soft prompts it is given.
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
        # Layers on several devices: what they compute is brought back to `device`.
        self.spread = len({parameter.device for parameter in model.parameters()}) > 1
        self.start = start_ids(tokenizer)
        self.latest_reader: tuple[Any, Any] | None = None
        self._decoder = model.base_model
        # Newer releases of transformers renamed it, one model after the other.
        arguments = inspect.signature(self._decoder.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        self.fused: Fused | None = None
        self.tail = add_tail(self._decoder)
        probe(self)

    @classmethod
    def load(
        cls,
        spec: str | Path,
        *,
        device: str | None = None,
        precision: str = "auto",
        revision: str | None = None,
        quantise: str | None = None,
    ) -> FrozenBackbone:
        """Load a backbone by zoo name, folder or hub id.

        device: "cpu", "cuda", "cuda:1", "spread" (over all GPUs), or None for the best there
        is. precision: "fp32", "bf16", "fp16", or "auto" (bf16 on a GPU, fp32 on a CPU).
        quantise: "4bit", "8bit", "fp8" or None. Large models on a GPU are fused. Whether the weights fit is known before they are
        fetched or read. Raises BackboneError.
        """
        spread, place = device == SPREAD, place_of(device)
        check_quantisation(quantise, place, spread=spread)
        source = locate(spec, revision)
        name = resolve_precision(precision, place)
        room = free_bytes(None if spread else place)
        where = "all GPUs together" if spread else str(place)
        check_room(source.spec, weight_bytes(source.shapes(), name, quantise), room, where)
        folder = source.fetch()
        tokenizer = load_tokenizer(folder)
        model = load_model(folder, _DTYPES[name], place, quantise=quantise, spread=spread)
        starts = tuple(tokenizer.convert_ids_to_tokens(start_ids(tokenizer)))
        packed = None if quantise == FP8 else quantise
        found = cls(model, tokenizer, describe(source, model, name, starts, quantised=packed))
        large = place.type == "cuda" and found.info.parameters >= LARGE
        if quantise == FP8 or (large and not spread and quantise is None):
            found.fuse(fp8=quantise == FP8)
        return found

    def fuse(self, *, fp8: bool = False) -> bool:
        """Compile what of the layers can be fused, on a GPU; return whether that worked.

        The first batches take a minute longer, and later ones half the time. fp8: compute the
        products of the layers in 8 bits too. Models that cannot be compiled stay as they are.
        Raises BackboneError if fp8 is asked for and cannot be had.
        """
        if self.device.type != "cuda":
            return False
        with torch.no_grad():
            wanted = plain_logits(self)
        if fp8:
            use_fp8(self._decoder)
            self.info = replace(self.info, quantised=FP8)
        self.fused = fuse_layers(self._decoder)
        try:
            check_fused(self, wanted)
        except BackboneError:
            if fp8:
                raise
            unfuse_layers(self._decoder)
            self.fused = None
        return self.fused is not None

    def forget(self) -> None:
        """Drop the latest reader and its prefixes, so that the next work pays for its own."""
        self.latest_reader = None

    @property
    def width(self) -> int:
        """Dimension of one soft prompt token."""
        return self.info.width

    @property
    def layer_weights(self) -> int:
        """Parameters of the layers: all but the embeddings and the output head."""
        inputs, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        tables = {id(table.weight): table.weight.numel() for table in (inputs, head)}
        return self.info.parameters - sum(tables.values())

    def embed(self, ids: Tensor) -> Tensor:
        """Return input embeddings [..., width] of token ids [...]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    @torch.no_grad()
    def token_norm(self) -> float:
        """Return the median Euclidean norm of input embeddings, of up to `NORM_TOKENS` tokens."""
        rows = int(self.model.get_input_embeddings().num_embeddings)
        ids = torch.linspace(0, rows - 1, min(rows, NORM_TOKENS), device=self.device).long()
        return float(self.embed(ids).float().norm(dim=-1).median())

    @torch.no_grad()
    def prefix(
        self, tokens: Ragged, rows: Tensor, into: PackedKeysValues, batch_tokens: int = 16_384
    ) -> PackedKeysValues:
        """Run rows [n] of texts that stand before a prompt, once; keep keys and values.

        Rows are padded on the right, which a causal model cannot see, in batches of about
        `batch_tokens` tokens of like length.
        """
        lengths = tokens.lengths[rows].cpu()
        order = torch.argsort(lengths, stable=True)
        start = 0
        while start < len(order):
            size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
            part = order[start : start + size]
            start += size
            width = int(lengths[part].max())
            if width:
                index, real = tokens.index(rows[part.to(rows.device)], width, left=False)
                into.write(len(tokens.ids), index, self._run_prefix(tokens.ids[index]), real)
        return into

    def _run_prefix(self, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        with self._tail_at(None):
            kept = {self._cache_argument: cache}
            self._decoder(inputs_embeds=self.embed(ids), use_cache=True, **kept)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def last_hidden(
        self,
        embeddings: Tensor,
        lengths: Tensor,
        past: list[tuple[Tensor, Tensor]] | None = None,
        past_real: Tensor | None = None,
    ) -> Tensor:
        """Return the final hidden state [B, width] at each row's last real position.

        embeddings [B, S, width] are padded on the right to S; lengths [B]. past holds
        (keys, values) a layer, [B, heads, P, head_dim], padded on the left; past_real [B, P]
        tells which of them exist.
        """
        from transformers import DynamicCache

        batch, width, _ = embeddings.shape
        column = torch.arange(width, device=embeddings.device).unsqueeze(0)
        real = column < lengths.unsqueeze(1)
        positions = column.expand(batch, -1)
        cache = DynamicCache()
        if past is not None and past_real is not None and past_real.shape[1]:
            apart = self.model.config._attn_implementation == GROUPED
            cache.layers = [kept_layer(keys, values, apart=apart) for keys, values in past]
            positions = positions + past_real.sum(1, keepdim=True)
            real = torch.cat([past_real, real], dim=1)
            past = past if apart else None
        last = (lengths - 1).view(-1, 1, 1)
        fused = self.fused
        how = (fused.joint_softmax, fused.attend) if fused else (joint_softmax, None)
        with kept_apart(past, *how), self._tail_at(last):
            hidden: Tensor = self._decoder(
                inputs_embeds=embeddings.to(self.dtype),
                attention_mask=real.long(),
                position_ids=positions,
                **{self._cache_argument: cache},
                use_cache=True,
            ).last_hidden_state
        last = last.to(hidden.device).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, last).squeeze(1)

    def drop_tail(self) -> None:
        """Compute the last layer everywhere, for a model whose parts are put together otherwise."""
        remove_tail(self._decoder)
        self.tail = None

    def _tail_at(self, index: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext() if self.tail is None else self.tail.only_at(index)

    def answer_logits(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """Return fp32 logits [B, A] of the answer tokens [A] from hidden states [B, width]."""
        head = self.model.get_output_embeddings()
        answers = answers.to(head.weight.device)
        weight = head.weight[answers]
        bias = head.bias[answers] if getattr(head, "bias", None) is not None else None
        hidden = hidden.to(weight.device, weight.dtype)
        logits = torch.nn.functional.linear(hidden, weight, bias).float()
        config = self.model.config.get_text_config()
        scale = getattr(config, "logit_scale", None)
        if scale is not None:
            logits = logits * scale
        divisor = getattr(config, "logits_scaling", None)
        if divisor is not None:
            logits = logits / divisor
        cap = getattr(config, "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits.to(self.device)

    @torch.no_grad()
    def ffn_activations(self, prompts: Tensor, batch_size: int = 512) -> Tensor:
        """Which gate units of the last three layers fire at the end of [start, prompt].

        prompts [n, l, width]; returns booleans [n, 3 x intermediate size].
        """
        seen: list[Tensor] = []
        gates = self._gates()
        hooks = [
            gate.register_forward_hook(lambda _m, _i, out: seen.append(out[:, -1]))
            for gate in gates
        ]
        rows = []
        try:
            for block in prompts.split(batch_size):
                seen.clear()
                start = torch.tensor(self.start, dtype=torch.long, device=self.device)
                before = self.embed(start).expand(len(block), -1, -1)
                block = block.to(self.device, self.dtype)
                self._decoder(
                    inputs_embeds=torch.cat([before.to(self.dtype), block], 1), use_cache=False
                )
                rows.append(torch.cat([(part > 0).cpu() for part in seen], dim=1))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(rows)

    def has_gates(self) -> bool:
        """Whether `ffn_activations` can read this model."""
        return bool(self._find_gates())

    def _gates(self) -> list[Any]:
        gates = self._find_gates()
        if not gates:
            raise BackboneError(
                f"{self.info.architecture} has no feed-forward gates that can be read; choose a "
                "selection strategy without FFN activations."
            )
        return gates[-3:]

    def _find_gates(self) -> list[Any]:
        names = ("act_fn", "activation_fn", "act")
        blocks = [
            next((getattr(module, name) for name in names if hasattr(module, name)), None)
            for module in self._decoder.modules()
            if type(module).__name__.endswith(("MLP", "FeedForward"))
        ]
        return [block for block in blocks if isinstance(block, torch.nn.Module)]


def place_of(device: str | None) -> torch.device:
    """Return the device of a backbone's inputs and answers; of a spread one, the first GPU."""
    if device != SPREAD:
        return torch.device(resolve_device(device))
    if not torch.cuda.is_available():
        raise BackboneError("A model can be spread over GPUs only, and there is none; use cpu.")
    return torch.device("cuda:0")
