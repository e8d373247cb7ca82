"""Backbones with random weights in the shapes of published models, for measuring speed."""

from typing import Any

import torch
import transformers

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.loading import Source, describe, load_tokenizer
from puma_engine.backbone.tokens import start_ids
from puma_engine.zoo import zoo_folder

COLUMNS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size"),
)
# Shapes from the models' published configurations: type, values of COLUMNS, further settings.
SHAPES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "llama-3.2-1b": (
        "llama",
        (2048, 16, 32, 8, 8192, 128256),
        {"head_dim": 64, "tie_word_embeddings": True},
    ),
    "llama-3.2-3b": (
        "llama",
        (3072, 28, 24, 8, 8192, 128256),
        {"head_dim": 128, "tie_word_embeddings": True},
    ),
    "qwen2.5-1.5b": ("qwen2", (1536, 28, 12, 2, 8960, 151936), {"tie_word_embeddings": True}),
    "qwen2.5-3b": ("qwen2", (2048, 36, 16, 2, 11008, 151936), {"tie_word_embeddings": True}),
    "gemma-3-1b": (
        "gemma3_text",
        (1152, 26, 4, 1, 6912, 262144),
        {"head_dim": 256, "sliding_window": 512, "query_pre_attn_scalar": 256},
    ),
    "phi-3-mini": (
        "phi3",
        (3072, 32, 32, 32, 8192, 32064),
        {"pad_token_id": 0, "tie_word_embeddings": False},
    ),
    "phi-4-mini": (
        "phi3",
        (3072, 32, 24, 8, 8192, 200064),
        {"pad_token_id": 0, "partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    ),
    "stablelm-2-1.6b": (
        "stablelm",
        (2048, 24, 32, 32, 5632, 100352),
        {"use_qkv_bias": True, "partial_rotary_factor": 0.25, "tie_word_embeddings": False},
    ),
}


def published_config(name: str) -> Any:
    """Return the configuration of a published shape."""
    kind, numbers, more = SHAPES[name]
    shape = dict(zip(COLUMNS, numbers, strict=True)) | more
    return transformers.AutoConfig.for_model(kind, max_position_embeddings=4096, **shape)


def weight_counts(name: str) -> tuple[int, int]:
    """Return the numbers of parameters of a published shape and of its layers, without using memory."""
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(published_config(name))
    tables = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.lm_head)}
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - sum(weight.numel() for weight in tables.values())


def random_backbone(name: str, device: torch.device, dtype: torch.dtype) -> FrozenBackbone:
    """Build a published shape with seeded random weights on a device, and the zoo's tokenizer."""
    kind, config = SHAPES[name][0], published_config(name)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.requires_grad_(False).to(device).eval()
    tokenizer = load_tokenizer(zoo_folder(kind.removesuffix("_text") + "-small"))
    starts = tuple(tokenizer.convert_ids_to_tokens(start_ids(tokenizer)))
    info = describe(Source(name, None), model, str(dtype).removeprefix("torch."), starts)
    return FrozenBackbone(model, tokenizer, info)
