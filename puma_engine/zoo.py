"""The backbones of the zoo: architecture, width, depth and kind of tokenizer.

They differ in everything that a prompt depends on, so that a prompt of one model does not work on
another. They have few key and value heads, which keeps the cache of items small.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puma_engine.datasets.registry import data_root
from puma_engine.errors import NotFoundError

POSITIONS = 1024  # longest sequence a zoo model accepts, in tokens
HEAD_WIDTH = 32


@dataclass(frozen=True)
class TokenizerPlan:
    """Settings for training a tokenizer.

    kind: a function of `research.zoo.tokenizers`; size: number of tokens. Each is trained on other
    shares of the titles of books and movies, so that no two vocabularies are equal.
    """

    kind: str
    size: int
    book_share: float = 1.0
    movie_share: float = 1.0


@dataclass(frozen=True)
class ZooEntry:
    """One backbone: its architecture and its tokenizer.

    family: of architectures; role: "source" or "target" in the default experiments; heads: each
    `HEAD_WIDTH` wide; feed_forward: width of the feed-forward blocks; initializer_range: standard
    deviation of the initial weights; tied: whether the output head shares the weights of the
    embedding; spare_rows: rows of the embedding matrix without a token; shipped: whether its
    weights come with the project; extra: further settings of the transformers configuration.
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
        """Number of rows of the embedding matrix: tokens and spare rows."""
        return self.tokenizer.size + self.spare_rows

    def model(self, tokenizer: Any) -> Any:
        """Return an untrained model (fp32), its weights drawn from torch's global generator."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            {"gemma3": "gemma3_text"}.get(self.family, self.family),
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
        return AutoModelForCausalLM.from_config(config)


_GEMMA3_SETTINGS = {
    "head_dim": HEAD_WIDTH,
    "query_pre_attn_scalar": HEAD_WIDTH,
    "sliding_window": 512,
    "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
}
# fmt: off
ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        # name, family, role, width, layers, heads, feed_forward, tokenizer, initializer_range
        ZooEntry("llama-small", "llama", "source", 128, 4, 4, 448,
                 TokenizerPlan("llama3", 2560, movie_share=0.5), 0.05),
        ZooEntry("llama-medium", "llama", "target", 224, 4, 7, 576,
                 TokenizerPlan("llama3", 3072, book_share=0.6), 0.04),
        ZooEntry("llama-large", "llama", "target", 384, 6, 12, 1024,
                 TokenizerPlan("llama3", 3328, book_share=0.7, movie_share=0.9), 0.03,
                 kv_heads=2, shipped=False),
        ZooEntry("qwen2-small", "qwen2", "target", 160, 3, 5, 416,
                 TokenizerPlan("qwen2", 2304, book_share=0.8, movie_share=0.8), 0.05),
        ZooEntry("gemma3-small", "gemma3", "target", 112, 5, 4, 352,
                 TokenizerPlan("gemma", 3712), 0.05, extra=_GEMMA3_SETTINGS),
        ZooEntry("phi3-small", "phi3", "target", 192, 3, 6, 256,
                 TokenizerPlan("llama2", 2016), 0.04, kv_heads=2, tied=False, spare_rows=32,
                 extra={"original_max_position_embeddings": POSITIONS}),
        ZooEntry("stablelm-small", "stablelm", "target", 96, 5, 3, 416,
                 TokenizerPlan("neox", 2500, book_share=0.7, movie_share=0.7), 0.05,
                 tied=False, spare_rows=12, extra={"use_qkv_bias": True}),
    )
}
# fmt: on
SHIPPED = [entry.name for entry in ZOO.values() if entry.shipped]


def get_entry(name: str) -> ZooEntry:
    """Return a zoo entry by name. Raises NotFoundError, which lists the names."""
    if name not in ZOO:
        raise NotFoundError(f"There is no zoo model {name!r}; the zoo has {', '.join(ZOO)}.")
    return ZOO[name]


def zoo_folder(name: str) -> Path:
    """Return the folder of a zoo model's weights, zoo/<name> in the data folder; it may not exist.

    Raises NotFoundError for an unknown name, DataError without a data folder.
    """
    return data_root() / "zoo" / get_entry(name).name
