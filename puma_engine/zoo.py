"""The backbones of the zoo: architecture, width, depth and kind of tokenizer.

They differ in everything that a prompt depends on, so that a prompt of one means nothing to another.
Key and value heads are few, which keeps cached item parts small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.datasets.registry import data_root
from puma_engine.errors import NotFoundError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

POSITIONS = 1024  # longest sequence a zoo model accepts, in tokens
HEAD_WIDTH = 32


@dataclass(frozen=True)
class TokenizerPlan:
    """How one tokenizer is made.

    kind names a function of `research.zoo.tokenizers`; size counts all tokens. It is trained on
    shares of the titles of books and movies, so that no two vocabularies agree.
    """

    kind: str
    size: int
    book_share: float = 1.0
    movie_share: float = 1.0


@dataclass(frozen=True)
class ZooEntry:
    """One backbone: the model class of transformers, its settings, its tokenizer.

    Args:
        name: Name of the model and its folder.
        family: Family of architectures, a key of `CLASSES`.
        role: "source" or "target" in the default experiments.
        width: Width of the hidden states.
        layers: Number of layers.
        heads: Attention heads, each `HEAD_WIDTH` wide.
        feed_forward: Width of the feed-forward blocks.
        tokenizer: How its tokenizer is trained.
        initializer_range: Standard deviation of the initial weights.
        kv_heads: Key and value heads.
        tied: Whether the output head shares the weights of the embedding.
        spare_rows: Rows of the embedding matrix without a token.
        shipped: Whether its weights come with the project.
        extra: Further settings of the transformers configuration.
    """

    name: str
    family: str
    role: str
    width: int
    layers: int
    heads: int
    feed_forward: int
    tokenizer: TokenizerPlan
    initializer_range: float
    kv_heads: int = 1
    tied: bool = True
    spare_rows: int = 0
    shipped: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding matrix (tokens, and spare rows)."""
        return self.tokenizer.size + self.spare_rows

    def config(self, tokenizer: Any) -> PretrainedConfig:
        """Return the transformers configuration that goes with this tokenizer."""
        config_class = _class(CLASSES[self.family][0])
        return config_class(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=self.tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=self.initializer_range,
            **self.extra,
        )

    def model(self, tokenizer: Any) -> PreTrainedModel:
        """Return an untrained model (fp32), its weights drawn from torch's global generator."""
        return _class(CLASSES[self.family][1])(self.config(tokenizer))


CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM"),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM"),
}


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


_LLAMA_SMALL = TokenizerPlan("llama3", 2560, movie_share=0.5)
_LLAMA_MEDIUM = TokenizerPlan("llama3", 3072, book_share=0.6)
_LLAMA_LARGE = TokenizerPlan("llama3", 3328, book_share=0.7, movie_share=0.9)
_QWEN2 = TokenizerPlan("qwen2", 2304, book_share=0.8, movie_share=0.8)
_GEMMA3 = TokenizerPlan("gemma", 3712)
_PHI3 = TokenizerPlan("llama2", 2016)
_STABLELM = TokenizerPlan("neox", 2500, book_share=0.7, movie_share=0.7)
_GEMMA3_SETTINGS = {
    "head_dim": HEAD_WIDTH,
    "query_pre_attn_scalar": HEAD_WIDTH,
    "sliding_window": 512,
    "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
}
_PHI3_SETTINGS = {"original_max_position_embeddings": POSITIONS}
# fmt: off
ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        # name, family, role, width, layers, heads, feed_forward, tokenizer, initializer_range
        ZooEntry("llama-small", "llama", "source", 128, 4, 4, 448, _LLAMA_SMALL, 0.05),
        ZooEntry("llama-medium", "llama", "target", 224, 4, 7, 576, _LLAMA_MEDIUM, 0.04),
        ZooEntry("llama-large", "llama", "target", 384, 6, 12, 1024, _LLAMA_LARGE, 0.03,
                 kv_heads=2, shipped=False),
        ZooEntry("qwen2-small", "qwen2", "target", 160, 3, 5, 416, _QWEN2, 0.05),
        ZooEntry("gemma3-small", "gemma3", "target", 112, 5, 4, 352, _GEMMA3, 0.05,
                 extra=_GEMMA3_SETTINGS),
        ZooEntry("phi3-small", "phi3", "target", 192, 3, 6, 256, _PHI3, 0.04,
                 kv_heads=2, tied=False, spare_rows=32, extra=_PHI3_SETTINGS),
        ZooEntry("stablelm-small", "stablelm", "target", 96, 5, 3, 416, _STABLELM, 0.05,
                 tied=False, spare_rows=12, extra={"use_qkv_bias": True}),
    )
}
# fmt: on


SHIPPED = [entry.name for entry in ZOO.values() if entry.shipped]


def get_entry(name: str) -> ZooEntry:
    """Return a zoo entry by name. Raises NotFoundError, which lists the names."""
    try:
        return ZOO[name]
    except KeyError:
        raise NotFoundError(
            f"There is no zoo model {name!r}; the zoo has {', '.join(ZOO)}."
        ) from None


def zoo_folder(name: str) -> Path:
    """Return the folder of a zoo model's weights, zoo/<name> in the data folder; it may not exist.

    Raises NotFoundError for an unknown name, DataError without a data folder.
    """
    return data_root() / "zoo" / get_entry(name).name
