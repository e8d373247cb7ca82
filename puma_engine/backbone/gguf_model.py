"""Find models in GGUF files, the format of llama.cpp, and read their settings and weights for transformers.

The package `gguf` dequantises the weights, one tensor at a time, for the model classes of
transformers. The GGUF loader of transformers is not used: it ignores RoPE factors, partial rotary
embeddings and tensors that it does not know, cannot read split files, and parses the vocabulary
three times. Nothing in a file is run: chat templates stay text.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.backbone.gguf_splits import SPLIT_NAME, SPLITS
from puma_engine.errors import BackboneError

if TYPE_CHECKING:
    import torch

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
# Tokenizer files that are used where they lie beside a GGUF file.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Type of model in transformers for each architecture of GGUF.
MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "stablelm": "stablelm",
    "gpt2": "gpt2",
}
# Frequency factors of rotary embeddings; they are settings, not weights.
ROPE_FACTORS = "rope_freqs.weight"
LONG_ROPE_FACTORS = ("rope_factors_short.weight", "rope_factors_long.weight")
# Settings of an architecture that are read, or that do not change what a model computes here.
# fmt: off
SETTINGS = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "expert_count", "expert_used_count", "use_parallel_residual", "tensor_data_layout",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.causal", "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon", "attention.sliding_window",
    "attention.sliding_window_pattern", "attn_logit_softcapping", "final_logit_softcapping",
    "rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
}
# fmt: on
# Numbers of layers of the largest Gemma 2 and 3, which scale attention by width / heads.
SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
GEMMA3_LOCAL_THETA = 10_000.0
LLAMA3_CONTEXT = 8192


def find_parts(path: Path) -> list[Path] | None:
    """Return the GGUF files of a model, or None if the path names no GGUF model.

    path: a GGUF file (with that suffix, or without one as Ollama stores it), any part of a split one,
    or a folder that holds one GGUF model and no other.
    Raises BackboneError if a part is missing, or if the folder holds several models.
    """
    if path.is_dir():
        if (path / "config.json").is_file() or any(path.glob("*.safetensors")):
            return None
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
        first = {str(_all_parts(file)[0]): file for file in files}
        if len(first) > 1:
            names = ", ".join(Path(name).name for name in first)
            raise BackboneError(
                f"The folder {path} holds {len(first)} GGUF models ({names}); give the path of one."
            )
        if not files:
            return None
        path = files[0]
    if not path.is_file() or not (path.suffix.lower() == ".gguf" or _has_magic(path)):
        return None
    parts = _all_parts(path)
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise BackboneError(
            f"The model {path} is split into {len(parts)} files, of which {len(missing)} are missing "
            f"(first: {missing[0]}); download them into the same folder."
        )
    return parts


def _has_magic(path: Path) -> bool:
    """Return whether a file begins as GGUF files do; Ollama stores them without a suffix."""
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def model_name(path: Path) -> str:
    """Return the name of a GGUF model: that of its file without part number and suffix."""
    match = PART.fullmatch(path.name)
    return match["stem"] if match else path.name.removesuffix(".gguf")


def _all_parts(path: Path) -> list[Path]:
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [
        path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}{path.suffix}")
        for number in range(1, count + 1)
    ]


def tokenizer_beside(path: Path) -> list[Path]:
    """Return the tokenizer files beside a GGUF file, or nothing without a tokenizer.json."""
    if not path.with_name("tokenizer.json").is_file():
        return []
    return [path.with_name(name) for name in TOKENIZER_FILES if path.with_name(name).is_file()]


# What errors of the reader say that a reader of the message understands.
KNOWN_REASONS = ("it ends inside", "magic", "version")


class GgufModel:
    """A model in one GGUF file, or in the parts of a split one.

    The header is read when a property is used first, weights only by `state_dict`.
    Raises BackboneError for a damaged file or an architecture that is not supported.
    """

    def __init__(self, parts: list[Path]) -> None:
        self.parts = parts
        self.path = parts[0]

    @cached_property
    def _readers(self) -> list[Any]:
        from puma_engine.backbone.gguf_header import HeaderReader

        readers = []
        for part in self.parts:
            try:
                reader = HeaderReader(part)
            except OSError as error:
                raise BackboneError(
                    f"The file {part} cannot be read ({error.strerror}); make it readable, or name another."
                ) from error
            except Exception as error:  # the reader meets damaged files with errors of many kinds
                text = " ".join(str(error).split())[:200]
                # Other errors are those of an array library, which say nothing about the file.
                known = any(word in text for word in KNOWN_REASONS)
                reason = text if known else "it ends early or its header is damaged"
                raise BackboneError(
                    f"The file {part} is not a complete GGUF file ({reason}); download it again."
                ) from error
            readers.append(reader)
        return readers

    def value(self, key: str, default: Any = None) -> Any:
        """Return a value of the file's metadata, or the default."""
        field = self._readers[0].fields.get(key)
        if field is None:
            return default
        value = field.contents()
        return default if value is None else value

    def setting(self, key: str, default: Any = None) -> Any:
        """Return a setting of the architecture, such as `attention.head_count`, or the default."""
        return self.value(f"{self.architecture}.{key}", default)

    def _required(self, key: str) -> Any:
        value = self.setting(key)
        if value is None:
            raise BackboneError(
                f"The file {self.path} has no setting {self.architecture}.{key}; convert the model "
                "again with a current llama.cpp."
            )
        return value

    @cached_property
    def architecture(self) -> str:
        """Name of the architecture in llama.cpp, one of MODEL_TYPES."""
        name = self.value("general.architecture")
        if name not in MODEL_TYPES:
            raise BackboneError(
                f"The file {self.path} holds a model of the architecture {name!r}; GGUF files are read "
                f"of {', '.join(MODEL_TYPES)}. Give the model as a folder of safetensors or a hub id."
            )
        if self.value(f"{name}.expert_count"):
            raise BackboneError(
                f"The file {self.path} holds a mixture of experts, which is not read from GGUF files; "
                "give the model as a folder of safetensors or a hub id."
            )
        return str(name)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The tensors of all parts by their GGUF names, on disk."""
        tensors = {tensor.name: tensor for reader in self._readers for tensor in reader.tensors}
        expected = self.value("split.tensors.count")
        if expected is not None and expected != len(tensors):
            raise BackboneError(
                f"The parts of {self.path} hold {len(tensors)} tensors, but the first names {expected}; "
                "download all parts of one model."
            )
        if "token_embd.weight" not in tensors:
            raise BackboneError(
                f"The file {self.path} has no token embeddings, so it holds no language model; choose "
                "another."
            )
        return tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by its GGUF name, in torch's order of dimensions."""
        factors = (ROPE_FACTORS, *LONG_ROPE_FACTORS)
        return {
            name: tuple(int(n) for n in reversed(tensor.shape))
            for name, tensor in self.tensors.items()
            if name not in factors
        }

    @property
    def file_type(self) -> str:
        """Storage type of most weights, such as Q4_1 or F16."""
        elements: dict[str, int] = {}
        for tensor in self.tensors.values():
            name = tensor.tensor_type.name
            elements[name] = elements.get(name, 0) + int(tensor.n_elements)
        return max(elements, key=elements.__getitem__)

    @property
    def licence(self) -> str | None:
        """The licence that the file states, or None."""
        licence = self.value("general.license")
        return None if licence is None else str(licence)[:100]

    @property
    def origin(self) -> str | None:
        """Origin that the file states: an address, or organisation and name."""
        for key in ("general.source.url", "general.repo_url", "general.url"):
            if url := self.value(key):
                return str(url)[:300]
        names = [self.value("general.organization"), self.value("general.name")]
        return " / ".join(str(name)[:150] for name in names if name) or None

    def unread(self) -> tuple[str, ...]:
        """Return the names of settings in the file that this reader ignores."""
        prefix = f"{self.architecture}."
        keys = [key for key in self._readers[0].fields if key.startswith(prefix)]
        unread = sorted(key for key in keys if key.removeprefix(prefix) not in SETTINGS)
        split = self.value(SPLIT_NAME)
        byte_level = self.value("tokenizer.ggml.model") == "gpt2"
        if byte_level and split not in (None, *SPLITS) and not tokenizer_beside(self.path):
            unread.append(f"{SPLIT_NAME} {split!r}")
        return tuple(unread)

    def config(self) -> Any:
        """Return the model's configuration for transformers. Raises BackboneError."""
        from transformers import AutoConfig

        name, shapes = self.architecture, self.shapes()
        heads, width = int(self._required("attention.head_count")), shapes["token_embd.weight"][1]
        key_values = self.setting("attention.head_count_kv", heads)
        if not isinstance(key_values, int):
            raise BackboneError(
                f"The file {self.path} has layers with different numbers of heads, which is not read; "
                "give the model as a folder of safetensors or a hub id."
            )
        head_width = int(self.setting("attention.key_length", width // heads))
        eps = self.setting("attention.layer_norm_rms_epsilon")
        eps = self._required("attention.layer_norm_epsilon") if eps is None else eps
        layers = int(self._required("block_count"))
        if layers > len(shapes):
            raise BackboneError(
                f"The file {self.path} names {layers:,} layers but holds {len(shapes):,} tensors, too few "
                "for that; download it again."
            )
        settings: dict[str, Any] = {
            "vocab_size": shapes["token_embd.weight"][0],
            "max_position_embeddings": int(self._required("context_length")),
            "hidden_size": width,
            "intermediate_size": int(self._required("feed_forward_length")),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_values,
            "head_dim": head_width,
            "rms_norm_eps": eps,
            "tie_word_embeddings": "output.weight" not in shapes,
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.value("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self.value("tokenizer.ggml.padding_token_id"),
        }
        self._add_family_settings(settings)
        config = AutoConfig.for_model(MODEL_TYPES[name], **settings)
        if ROPE_FACTORS in self.tensors:
            self._check_llama3(config)
        return config

    def _add_family_settings(self, settings: dict[str, Any]) -> None:
        """Add the settings that only this file's architecture has."""
        name, shapes = self.architecture, self.shapes()
        layers, eps = settings["num_hidden_layers"], settings["rms_norm_eps"]
        head_width = settings["head_dim"]
        if name == "llama":
            settings["attention_bias"] = "blk.0.attn_q.bias" in shapes
            settings["mlp_bias"] = "blk.0.ffn_gate.bias" in shapes
        elif name == "stablelm":
            settings["layer_norm_eps"] = eps
            settings["use_qkv_bias"] = "blk.0.attn_q.bias" in shapes
            settings["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in shapes
        elif name == "gpt2":
            settings |= {"layer_norm_epsilon": eps, "n_inner": settings.pop("intermediate_size")}
        elif name in SCALED_BY_WIDTH:
            by_width = layers == SCALED_BY_WIDTH[name]
            width = settings["hidden_size"] // settings["num_attention_heads"]
            settings["query_pre_attn_scalar"] = width if by_width else head_width
            settings["final_logit_softcapping"] = self.setting("final_logit_softcapping")
            settings["attn_logit_softcapping"] = self.setting("attn_logit_softcapping")
            if (pattern := self.setting("attention.sliding_window_pattern")) is not None:
                settings["layer_types"] = _layer_types(pattern, layers)
        if name in SCALED_BY_WIDTH or name == "phi3":
            settings["sliding_window"] = self.setting("attention.sliding_window") or None
        if name != "gpt2":
            settings["rope_parameters"] = self._rope(head_width)
        if name == "phi3":
            context = self.setting("rope.scaling.original_context_length")
            settings["original_max_position_embeddings"] = (
                context or settings["max_position_embeddings"]
            )

    def _rope(self, head_width: int) -> dict[str, Any]:
        """Return the settings of rotary embeddings."""
        rope: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": float(self.setting("rope.freq_base", 10_000.0)),
        }
        share = int(self.setting("rope.dimension_count", head_width)) / head_width
        if share != 1:
            rope["partial_rotary_factor"] = share
        kind, factor = self.setting("rope.scaling.type"), self.setting("rope.scaling.factor")
        original = self.setting("rope.scaling.original_context_length")
        if ROPE_FACTORS in self.tensors:
            rope |= {
                "rope_type": "llama3",
                "factor": float(self._factors(ROPE_FACTORS).max()),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": int(original or LLAMA3_CONTEXT),
            }
        elif LONG_ROPE_FACTORS[0] in self.tensors:
            short, long = (self._factors(name).tolist() for name in LONG_ROPE_FACTORS)
            context = int(original or self._required("context_length"))
            rope |= {
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": long,
                "original_max_position_embeddings": context,
                "factor": int(self._required("context_length")) / context,
            }
            if (attention := self.setting("rope.scaling.attn_factor")) is not None:
                rope["attention_factor"] = float(attention)
        elif kind in ("linear", "yarn") and factor not in (None, 0.0, 1.0):
            rope |= {"rope_type": kind, "factor": float(factor)}
            if kind == "yarn" and original:
                rope["original_max_position_embeddings"] = int(original)
        elif kind not in (None, "none", "linear", "yarn"):
            raise BackboneError(
                f"The file {self.path} scales rotary embeddings by {kind!r}, which is not read; give "
                "the model as a folder of safetensors or a hub id."
            )
        if self.architecture != "gemma3":
            return rope
        theta = float(self.setting("rope.freq_base_swa", GEMMA3_LOCAL_THETA))
        local = {"rope_type": "default", "rope_theta": theta}
        return {"full_attention": rope, "sliding_attention": local}

    def _factors(self, name: str) -> Any:
        from gguf import dequantize

        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).reshape(-1)

    def _check_llama3(self, config: Any) -> None:
        """Raise BackboneError unless the file's RoPE factors are those that Llama 3 computes."""
        import torch
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        steps = torch.arange(len(scaled)) / len(scaled)
        plain = config.rope_parameters["rope_theta"] ** -steps
        factors = torch.from_numpy(self._factors(ROPE_FACTORS).copy())
        if len(factors) != len(plain) or not torch.allclose(scaled, plain / factors, rtol=1e-3):
            raise BackboneError(
                f"The file {self.path} has RoPE factors that are not those of Llama 3, which are not "
                "read; give the model as a folder of safetensors or a hub id."
            )

    def state_dict(self, names: list[str], dtype: "torch.dtype") -> dict[str, "torch.Tensor"]:
        """Return the weights by transformers' names, dequantised to a torch dtype, on the CPU.

        names: of the parameters of the model that `config` describes. Raises BackboneError if the
        file has weights that the model lacks; weights that the file lacks are left out.
        """
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        mapping = get_tensor_name_map(arch, int(self._required("block_count")))
        unused = set(self.shapes())
        weights = {}
        for name in names:
            stored = mapping.get_name(name, try_suffixes=(".weight", ".bias"))
            if stored in unused:
                weights[name] = self._weight(stored, dtype)
                unused.remove(stored)
        if unused:
            raise BackboneError(
                f"The file {self.path} has {len(unused)} weights that {self.architecture} models of "
                f"transformers lack (first: {min(unused)}); give the model as a folder of safetensors "
                "or a hub id."
            )
        return weights

    def _weight(self, name: str, dtype: "torch.dtype") -> "torch.Tensor":
        """Return one weight as transformers stores it, undoing what llama.cpp's converter does."""
        import numpy as np
        import torch
        from gguf import dequantize

        stored = self.tensors[name]
        try:
            values = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise BackboneError(
                f"The file {self.path} stores {name} as {stored.tensor_type.name}, which the package "
                "gguf cannot dequantise; choose another quantisation of the model."
            ) from error
        # Weights that are stored as they are lie in the file, which is read-only.
        weight = torch.from_numpy(np.require(values, requirements=["C", "W"]))
        weight = weight.reshape(self.shapes()[name])
        if self.architecture == "llama" and ".attn_q." in name:
            weight = _interleaved_to_halves(weight, int(self._required("attention.head_count")))
        elif self.architecture == "llama" and ".attn_k." in name:
            heads = self.setting("attention.head_count_kv", self._required("attention.head_count"))
            weight = _interleaved_to_halves(weight, int(heads))
        elif self.architecture.startswith("gemma") and name.endswith("norm.weight"):
            weight = weight - 1  # Gemma multiplies by 1 + weight, and the file has the sum
        elif self.architecture == "gpt2" and name.startswith("blk.") and weight.dim() == 2:
            weight = weight.T.contiguous()  # a Conv1D keeps its matrix transposed
        return weight.to(dtype)


def _interleaved_to_halves(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Reorder the rows of each head from llama.cpp's rotary pairs (0, 1) to halves (0, d/2)."""
    pairs = weight.shape[0] // heads // 2
    return weight.reshape(heads, pairs, 2, -1).transpose(1, 2).reshape(weight.shape)


def _layer_types(pattern: Any, layers: int) -> list[str]:
    """Return each layer's kind of attention: every n-th is full, or as a list of booleans says."""
    local: Iterator[bool] = (
        ((layer + 1) % pattern != 0 for layer in range(layers))
        if isinstance(pattern, int)
        else iter(pattern)
    )
    return ["sliding_attention" if is_local else "full_attention" for is_local in local]
