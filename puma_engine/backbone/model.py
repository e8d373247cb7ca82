"""A frozen causal language model that reads embeddings after a cached prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puma_engine.backbone.attention import use_grouped_attention
from puma_engine.backbone.loading import (
    BackboneInfo,
    describe,
    load_model,
    load_tokenizer,
    resolve_spec,
)
from puma_engine.backbone.prefix import PackedKeysValues, Ragged
from puma_engine.backbone.tokens import start_ids
from puma_engine.errors import BackboneError
from puma_engine.training import resolve_device, resolve_precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenBackbone:
    """Any Hugging Face causal language model, frozen and in eval mode.

    Build one with `FrozenBackbone.load`. Its weights never receive gradients; what it
    computes is differentiable with respect to the soft prompts it is given.
    """

    def __init__(self, model: Any, tokenizer: Any, info: BackboneInfo) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.info = info
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.start = start_ids(tokenizer)
        self.latest_reader: tuple[Any, Any] | None = None
        self._decoder = model.base_model
        self._check_head()

    @classmethod
    def load(
        cls,
        spec: str | Path,
        *,
        device: str | None = None,
        precision: str = "auto",
        revision: str | None = None,
    ) -> FrozenBackbone:
        """Load a backbone by zoo name, folder or hub id.

        device: "cpu", "cuda", "cuda:1", or None for the best there is. precision: "fp32",
        "bf16", "fp16", or "auto" (bf16 on a GPU, fp32 on a CPU). Raises BackboneError.
        """
        source, local = resolve_spec(spec)
        place = torch.device(resolve_device(device))
        name = resolve_precision(precision, place)
        tokenizer = load_tokenizer(source, local, revision)
        model = load_model(source, local, revision, _DTYPES[name], place)
        starts = start_ids(tokenizer)
        return cls(model, tokenizer, describe(str(spec), model, tokenizer, name, starts, revision))

    @property
    def width(self) -> int:
        """Dimension of one soft prompt token."""
        return self.info.width

    def embed(self, ids: Tensor) -> Tensor:
        """Return input embeddings [..., width] of token ids [...]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

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
        self._decoder(inputs_embeds=self.embed(ids), past_key_values=cache, use_cache=True)
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
            cache.layers = [_kept(keys, values) for keys, values in past]
            positions = positions + past_real.sum(1, keepdim=True)
            real = torch.cat([past_real, real], dim=1)
        hidden: Tensor = self._decoder(
            inputs_embeds=embeddings.to(self.dtype),
            attention_mask=real.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, last).squeeze(1)

    def answer_logits(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """Return fp32 logits [B, A] of the answer tokens [A] from hidden states [B, width]."""
        head = self.model.get_output_embeddings()
        weight = head.weight[answers]
        bias = head.bias[answers] if getattr(head, "bias", None) is not None else None
        logits = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
        config = self.model.config.get_text_config()
        scale = getattr(config, "logit_scale", None)
        if scale is not None:
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model whose logits or embeddings inputs work in a way unknown here.

        A model for which the grouped attention is not the same keeps its own.
        """
        ids = torch.arange(1, 5, device=self.device).unsqueeze(0)
        answers = torch.arange(0, 8, device=self.device)
        length = torch.tensor([ids.shape[1]], device=self.device)
        try:
            wanted = self.model(input_ids=ids).logits[:, -1, answers].float()
            before = use_grouped_attention(self.model)
            same = self._agrees(wanted, ids, length, answers)
            if not same and before is not None:
                self.model.set_attn_implementation(before)
                same = self._agrees(wanted, ids, length, answers)
        except (TypeError, ValueError, AttributeError) as error:
            raise BackboneError(
                f"{self.info.architecture} does not work as an ordinary causal model with input "
                f"embeddings ({type(error).__name__}: {error}); choose another architecture."
            ) from error
        if not same:
            raise BackboneError(
                f"{self.info.architecture} computes its logits in a way that is not known here, so "
                "answers would be wrong; choose another architecture."
            )

    def _agrees(self, wanted: Tensor, ids: Tensor, length: Tensor, answers: Tensor) -> bool:
        found = self.answer_logits(self.last_hidden(self.embed(ids), length), answers)
        tolerance = 1e-3 if self.dtype == torch.float32 else 5e-2
        spread = float(wanted.abs().max()) + 1e-6
        return float((wanted - found).abs().max()) <= tolerance * max(spread, 1.0)

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
                rows.append((torch.cat(seen, dim=1) > 0).cpu())
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(rows)

    def _gates(self) -> list[Any]:
        names = ("act_fn", "activation_fn", "act")
        blocks = [
            next((getattr(module, name) for name in names if hasattr(module, name)), None)
            for module in self._decoder.modules()
            if type(module).__name__.endswith(("MLP", "FeedForward"))
        ]
        gates = [block for block in blocks if isinstance(block, torch.nn.Module)]
        if not gates:
            raise BackboneError(
                f"{self.info.architecture} has no feed-forward gates that can be read; choose a "
                "selection strategy without FFN activations."
            )
        return gates[-3:]


def _kept(keys: Tensor, values: Tensor) -> Any:
    """A layer of a transformers cache that holds keys and values without copying them first."""
    from transformers.cache_utils import DynamicLayer

    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer
