"""Backbones with random weights in the shapes of published models, for timing alone."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.loading import Source, describe, load_tokenizer
from puma_engine.backbone.tokens import start_ids
from puma_engine.zoo import zoo_folder

# Shapes from the models' published configurations; the tokenizer is the zoo's of that family.
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-3.2-1b": (
        "LlamaConfig",
        "llama-small",
        {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192}
        | {"vocab_size": 128256, "tie_word_embeddings": True},
    ),
    "llama-3.2-3b": (
        "LlamaConfig",
        "llama-small",
        {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24}
        | {"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192}
        | {"vocab_size": 128256, "tie_word_embeddings": True},
    ),
    "qwen2.5-3b": (
        "Qwen2Config",
        "qwen2-small",
        {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16}
        | {"num_key_value_heads": 2, "intermediate_size": 11008}
        | {"vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "gemma-3-1b": (
        "Gemma3TextConfig",
        "gemma3-small",
        {"hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4}
        | {"num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 6912}
        | {"vocab_size": 262144, "sliding_window": 512, "query_pre_attn_scalar": 256},
    ),
    "phi-3-mini": (
        "Phi3Config",
        "phi3-small",
        {"hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32}
        | {"num_key_value_heads": 32, "intermediate_size": 8192, "vocab_size": 32064}
        | {"pad_token_id": 0, "tie_word_embeddings": False},
    ),
    "stablelm-2-1.6b": (
        "StableLmConfig",
        "stablelm-small",
        {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32}
        | {"num_key_value_heads": 32, "intermediate_size": 5632, "vocab_size": 100352}
        | {"use_qkv_bias": True, "partial_rotary_factor": 0.25, "tie_word_embeddings": False},
    ),
}


def random_backbone(name: str, device: torch.device, dtype: torch.dtype) -> FrozenBackbone:
    """Build a published shape with seeded random weights on a device."""
    config_name, zoo_name, values = SHAPES[name]
    config = getattr(transformers, config_name)(max_position_embeddings=4096, **values)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.requires_grad_(False).to(device).eval()
    tokenizer = load_tokenizer(zoo_folder(zoo_name))
    starts = tuple(tokenizer.convert_ids_to_tokens(start_ids(tokenizer)))
    info = describe(Source(name, None), model, str(dtype).removeprefix("torch."), starts)
    return FrozenBackbone(model, tokenizer, info)
