"""Writes a tiny model and its tokenizer as GGUF, as llama.cpp's converter does."""

import json

import numpy as np
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    get_tensor_name_map,
    quantize,
)

CONTROL, NORMAL, BYTE = 3, 1, 6
ARCHITECTURES = {"gemma3_text": "gemma3"}


def write_gguf(path, model, tokenizer, *, quantised="F32", extra=None, tensors=None, parts=1):
    """Write a transformers model as GGUF; return the path of the first file.

    quantised: type of its matrices; extra: settings of the architecture that overwrite others;
    tensors: further tensors by name; parts: files to split the tensors over.
    """
    config = model.config
    name = ARCHITECTURES.get(config.model_type, config.model_type)
    weights = _weights(model, name) | (tensors or {})
    paths = [path]
    if parts > 1:
        paths = [
            path.with_name(f"{path.stem}-{n:05}-of-{parts:05}.gguf") for n in range(1, parts + 1)
        ]
    for number, file in enumerate(paths):
        writer = GGUFWriter(file, name)
        if number == 0:
            for key, value in (_settings(config, name) | (extra or {})).items():
                _add(writer, f"{name}.{key}", value)
            writer.add_license("mit")
            writer.add_organization("Tests")
            writer.add_name("Tiny")
            _write_tokenizer(writer, tokenizer)
        if parts > 1:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(weights))
        for key in sorted(weights)[number::parts]:
            _add_tensor(writer, key, weights[key], quantised)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths[0]


def _add(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensor(writer, name, weight, quantised):
    if weight.ndim == 2 and quantised != "F32":
        kind = GGMLQuantizationType[quantised]
        writer.add_tensor(name, quantize(weight, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, weight)


def _settings(config, name):
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    settings = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "n_inner", None) or config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", heads),
        "vocab_size": config.vocab_size,
    }
    if name in ("stablelm", "gpt2"):
        eps = getattr(config, "layer_norm_eps", None) or config.layer_norm_epsilon
        settings["attention.layer_norm_epsilon"] = eps
    else:
        settings["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    if name in ("qwen3", "gemma", "gemma2", "gemma3", "llama"):
        settings |= {"attention.key_length": head, "attention.value_length": head}
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, key, None):
            settings[key] = float(getattr(config, key))
    if name in ("gemma2", "gemma3", "phi3") and config.sliding_window:
        settings["attention.sliding_window"] = config.sliding_window
    rope = getattr(config, "rope_parameters", None)
    if rope:
        settings |= _rope(config, rope.get("full_attention", rope), head)
    if name == "gemma3":
        settings["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
    return settings


def _rope(config, rope, head):
    share = rope.get("partial_rotary_factor") or 1.0
    settings = {"rope.freq_base": rope["rope_theta"], "rope.dimension_count": int(head * share)}
    if rope["rope_type"] in ("linear", "yarn"):
        settings |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    if original := rope.get("original_max_position_embeddings"):
        settings["rope.scaling.original_context_length"] = original
    return settings


def _weights(model, name):
    arch = next(key for key, value in MODEL_ARCH_NAMES.items() if value == name)
    config = model.config
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    weights = {}
    for key, parameter in model.named_parameters():
        weight = parameter.detach().float().numpy()
        if name == "llama" and ".q_proj." in key:
            weight = _permuted(weight, config.num_attention_heads)
        elif name == "llama" and ".k_proj." in key:
            weight = _permuted(weight, config.num_key_value_heads)
        elif name.startswith("gemma") and "norm" in key:
            weight = weight + 1
        elif name == "gpt2" and ".h." in key and weight.ndim == 2:
            weight = np.ascontiguousarray(weight.T)
        weights[names.get_name(key, try_suffixes=(".weight", ".bias"))] = weight
    return weights


def _permuted(weight, heads):
    """The rows of Llama's weights in the order of rotary pairs, as `LlamaModel.permute` of convert_hf_to_gguf.py."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def _write_tokenizer(writer, tokenizer):
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    size = len(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(range(size))
    special = {t["id"] for t in core["added_tokens"] if t["special"]}
    if core["decoder"]["type"] == "ByteLevel":
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        merges = core["model"]["merges"]
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
        types = [CONTROL if n in special else NORMAL for n in range(size)]
    else:
        writer.add_tokenizer_model("llama")
        rank = {"".join(m): n for n, m in enumerate(core["model"]["merges"])}
        writer.add_token_scores([-float(rank.get(t, 10_000 + n)) for n, t in enumerate(tokens)])
        prefix = core["pre_tokenizer"]["pretokenizers"][0]["prepend_scheme"] != "never"
        writer.add_add_space_prefix(prefix)
        types = [
            CONTROL if n in special else BYTE if tokens[n].startswith("<0x") else NORMAL
            for n in range(size)
        ]
        writer.add_unk_token_id(tokenizer.convert_tokens_to_ids("<unk>"))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(
        core["post_processor"] is not None and "Template" in core["post_processor"]["type"]
    )
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
