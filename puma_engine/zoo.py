"""The backbones of the zoo: architecture, width, depth and kind of tokenizer.

They differ in everything a prompt could depend on, so that no prompt of one can be read by
another. Key and value heads are few, which keeps cached item parts small.
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

    kind names a recipe in tokenizers.py; size counts all its tokens; book_share and
    movie_share thin the titles it learns from, so that no two vocabularies agree.
    """

    kind: str
    size: int
    book_share: float = 1.0
    movie_share: float = 1.0


@dataclass(frozen=True)
class ZooEntry:
    """One backbone: the model class of transformers, its settings, its tokenizer.

    shipped: whether its weights come with the project; others are built where they are wanted.
    """

    name: str
    family: str
    role: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    tied: bool
    tokenizer: TokenizerPlan
    spare_rows: int = 0
    shipped: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding matrix (tokens, and rows kept spare)."""
        return self.tokenizer.size + self.spare_rows

    def config(self, tokenizer: Any) -> PretrainedConfig:
        """Return the transformers configuration that goes with this tokenizer."""
        config_class, _ = _classes(self.family)
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
            **self.extra,
        )

    def model(self, tokenizer: Any) -> PreTrainedModel:
        """Return an untrained model (fp32), its weights drawn from torch's global generator."""
        _, model_class = _classes(self.family)
        return model_class(self.config(tokenizer))


def _classes(family: str) -> tuple[Any, Any]:
    import transformers

    prefix = {
        "llama": ("LlamaConfig", "LlamaForCausalLM"),
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
        "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
        "phi3": ("Phi3Config", "Phi3ForCausalLM"),
        "stablelm": ("StableLmConfig", "StableLmForCausalLM"),
    }[family]
    return getattr(transformers, prefix[0]), getattr(transformers, prefix[1])


ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry(
            name="llama-small",
            family="llama",
            role="source",
            width=128,
            layers=4,
            heads=4,
            kv_heads=1,
            feed_forward=448,
            tied=True,
            tokenizer=TokenizerPlan("llama3", 2560, movie_share=0.5),
            extra={"initializer_range": 0.05},
        ),
        ZooEntry(
            name="llama-medium",
            family="llama",
            role="target",
            width=224,
            layers=4,
            heads=7,
            kv_heads=1,
            feed_forward=576,
            tied=True,
            tokenizer=TokenizerPlan("llama3", 3072, book_share=0.6),
            extra={"initializer_range": 0.04},
        ),
        ZooEntry(
            name="llama-large",
            family="llama",
            role="target",
            width=384,
            layers=6,
            heads=12,
            kv_heads=2,
            feed_forward=1024,
            tied=True,
            tokenizer=TokenizerPlan("llama3", 3328, book_share=0.7, movie_share=0.9),
            extra={"initializer_range": 0.03},
            shipped=False,
        ),
        ZooEntry(
            name="qwen2-small",
            family="qwen2",
            role="target",
            width=160,
            layers=3,
            heads=5,
            kv_heads=1,
            feed_forward=416,
            tied=True,
            tokenizer=TokenizerPlan("qwen2", 2304, book_share=0.8, movie_share=0.8),
            extra={"initializer_range": 0.05},
        ),
        ZooEntry(
            name="gemma3-small",
            family="gemma3",
            role="target",
            width=112,
            layers=5,
            heads=4,
            kv_heads=1,
            feed_forward=352,
            tied=True,
            tokenizer=TokenizerPlan("gemma", 3712),
            extra={
                "initializer_range": 0.05,
                "head_dim": HEAD_WIDTH,
                "query_pre_attn_scalar": HEAD_WIDTH,
                "sliding_window": 512,
                "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
            },
        ),
        ZooEntry(
            name="phi3-small",
            family="phi3",
            role="target",
            width=192,
            layers=3,
            heads=6,
            kv_heads=2,
            feed_forward=256,
            tied=False,
            tokenizer=TokenizerPlan("llama2", 2016),
            spare_rows=32,
            extra={"initializer_range": 0.04, "original_max_position_embeddings": POSITIONS},
        ),
        ZooEntry(
            name="stablelm-small",
            family="stablelm",
            role="target",
            width=96,
            layers=5,
            heads=3,
            kv_heads=1,
            feed_forward=416,
            tied=False,
            tokenizer=TokenizerPlan("neox", 2500, book_share=0.7, movie_share=0.7),
            spare_rows=12,
            extra={"initializer_range": 0.05, "use_qkv_bias": True},
        ),
    )
}


SHIPPED = [entry.name for entry in ZOO.values() if entry.shipped]


def get_entry(name: str) -> ZooEntry:
    """Return a zoo entry by name, or raise NotFoundError that lists the names."""
    try:
        return ZOO[name]
    except KeyError:
        raise NotFoundError(
            f"There is no zoo model {name!r}; the zoo has {', '.join(ZOO)}."
        ) from None


def zoo_folder(name: str) -> Path:
    """Return where the weights of a zoo model belong: zoo/<name> in the data folder.

    The data folder is PUMA_DATA, or data/ beside the package; the model's own folder need
    not exist. Raises NotFoundError for an unknown name, DataError without a data folder.
    """
    return data_root() / "zoo" / get_entry(name).name
