"""One frozen dataclass a stage, checked when built, with a stable hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any, Literal

from puma_engine.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
OPTIMIZERS = ("adam", "adamw")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def stable_hash(value: Any) -> str:
    """Return 16 hexadecimal digits that depend only on the value's content."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Config:
    """Shared behaviour: plain dictionaries, hashes, and all errors reported together."""

    def problems(self) -> list[str]:
        return []

    def __post_init__(self) -> None:
        found = self.problems()
        if found:
            raise ConfigError(f"{type(self).__name__}: " + "; ".join(found) + ".")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @property
    def hash(self) -> str:
        return stable_hash(self.to_dict())


def _positive(config: object, *names: str) -> list[str]:
    return [
        f"{name} must be above 0 and finite, not {getattr(config, name)!r}"
        for name in names
        if not 0 < getattr(config, name) < math.inf
    ]


@dataclasses.dataclass(frozen=True)
class TrainingConfig(_Config):
    """How one training run is done.

    batch_size counts examples over all processes; learning_rate is the peak of a
    cosine that ends at 0; warmup is the share of steps before the peak; patience
    is how many epochs without a better validation value are waited for (0: never
    stop early).
    """

    epochs: int = 8
    batch_size: int = 512
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    grad_clip: float = 1.0
    optimizer: Literal["adam", "adamw"] = "adamw"
    precision: Precision = "auto"
    patience: int = 2
    seed: int = 0
    checkpoint_seconds: float = 30.0

    def problems(self) -> list[str]:
        found = _positive(self, "epochs", "batch_size", "learning_rate", "grad_clip")
        if not 0 <= self.warmup < 1:
            found.append(f"warmup must be in [0, 1), not {self.warmup!r}")
        if self.weight_decay < 0:
            found.append(f"weight_decay must be 0 or more, not {self.weight_decay!r}")
        if self.patience < 0:
            found.append(f"patience must be 0 or more, not {self.patience!r}")
        if self.optimizer not in OPTIMIZERS:
            found.append(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}"
            )
        if self.precision not in PRECISIONS:
            found.append(
                f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}"
            )
        return found


@dataclasses.dataclass(frozen=True)
class PromptConfig(_Config):
    """A table of soft prompts: tokens a user, and the uniform draw (+-init_scale) they start from.

    item_tokens: soft prompt tokens of each item, which are fitted with the users' (0: none, as
    in the paper). start="shared" learns one vector for all and each user's difference from it, which starts
    at 0 and is what weight decay pulls on; "random" draws each user's own start, as the
    paper does.
    """

    tokens: int = 1
    init_scale: float = 0.1
    start: Literal["shared", "random"] = "shared"
    item_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Settings by name; item_tokens only where there are some, so that older runs are found."""
        found = super().to_dict()
        if not self.item_tokens:
            del found["item_tokens"]
        return found

    def problems(self) -> list[str]:
        found = _positive(self, "tokens", "init_scale")
        if not 0 <= self.item_tokens < math.inf:
            found.append(f"item_tokens must be 0 or more, not {self.item_tokens!r}")
        if self.start not in ("shared", "random"):
            found.append(f"start must be shared or random, not {self.start!r}")
        return found


@dataclasses.dataclass(frozen=True)
class AdapterConfig(_Config):
    """The adapter network; the defaults are the paper's.

    depth counts feed-forward blocks, of which the second changes the dimension. noise is the
    standard deviation, as a share of the prompts' own, of what is added to them in training.
    balance: where what all source prompts share is more than so many times as large as what sets
    them apart, they are read so that it is just that; 0 reads them as they are. norm_limit: the
    norm of each mapped token stays below so many times the median norm of the target's token
    embeddings; 0 leaves it free.
    """

    hidden: int = 4096
    depth: int = 4
    dropout: float = 0.1
    noise: float = 0.0
    balance: float = 0.0
    norm_limit: float = 0.0

    def problems(self) -> list[str]:
        found = _positive(self, "hidden")
        if self.noise < 0:
            found.append(f"noise must be 0 or more, not {self.noise!r}")
        for name in ("balance", "norm_limit"):
            if not 0 <= getattr(self, name) < math.inf:
                found.append(f"{name} must be 0 or more, not {getattr(self, name)!r}")
        if self.depth < 2:
            found.append(f"depth must be 2 or more, not {self.depth!r}")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout must be in [0, 1), not {self.dropout!r}")
        return found
