"""Settings of trainings, prompts and adapters: frozen dataclasses with checks and a stable hash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from puma_engine.errors import ConfigError

T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16", "fp16"]
OPTIMIZERS = ("adam", "adamw")
# Random number generators refuse larger seeds.
MAX_SEED = 2**63
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

# Fields that runs store (and hash into their ids) under another name.
STORED_NAMES = {"max_mean_to_std": "balance", "max_norm": "norm_limit"}


def field_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the names of their fields; stored names are accepted.

    Raises ConfigError if a setting is given under both names.
    """
    fields = {stored: name for name, stored in STORED_NAMES.items()}
    twice = [f"{fields[name]} and {name}" for name in settings if fields.get(name) in settings]
    if twice:
        raise ConfigError(f"The same setting is given twice: {', '.join(twice)}; give the first.")
    return {fields.get(name, name): value for name, value in settings.items()}


def stable_hash(value: Any) -> str:
    """Return a hash of a value's content, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _accept_stored_names(config: type[T]) -> type[T]:
    """Make the constructor of a settings class accept stored names as keywords."""
    init = config.__init__

    @functools.wraps(init)
    def accept(self: T, *args: Any, **settings: Any) -> None:
        init(self, *args, **field_names(settings))

    config.__init__ = accept  # type: ignore[method-assign, assignment]
    return config


class _Config:
    """Shared behaviour: plain dictionaries, hashes, and all errors reported together.

    optional: settings that are stored only if they differ from their default, so that runs of
    versions without these settings keep their ids.
    """

    optional: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> list[str]:
        return []

    def _wrong_types(self) -> list[str]:
        """Return the settings whose values have another type than their fields."""
        problems = []
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value, is_bool = getattr(self, item.name), isinstance(getattr(self, item.name), bool)
            if item.type in (int, "int"):
                if is_bool or not isinstance(value, numbers.Integral):
                    problems.append(f"{item.name} must be a whole number, not {value!r}")
            elif item.type in (float, "float"):
                if is_bool or not isinstance(value, numbers.Real):
                    problems.append(f"{item.name} must be a number, not {value!r}")
            elif isinstance(item.default, str) and not isinstance(value, str):
                problems.append(f"{item.name} must be a text, not {value!r}")
        return problems

    def __post_init__(self) -> None:
        problems = self._wrong_types() or self.problems()
        if problems:
            raise ConfigError(f"{type(self).__name__}: " + "; ".join(problems) + ".")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as runs store them, see STORED_NAMES."""
        values = self.all_settings()
        for name in self.optional:
            if values[name] == type(self).__dataclass_fields__[name].default:  # type: ignore[attr-defined]
                del values[name]
        return values

    def all_settings(self) -> dict[str, Any]:
        """Return all settings under their stored names, also those with default values."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {STORED_NAMES.get(name, name): value for name, value in values.items()}

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
    """Settings of one training.

    batch_size: examples of a step, over all processes. learning_rate: the peak of a cosine schedule
    that ends at 0. warmup: the share of steps before the peak. grad_clip: largest norm of the
    gradient. patience: epochs without a better validation value before early stopping (0: never).
    checkpoint_seconds: time between checkpoints. ema_decay: the weights that are validated and kept
    are an exponential moving average over steps with this decay, in [0, 1) (Polyak & Juditsky
    1992); 0 keeps the weights of the last step.
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
    ema_decay: float = 0.0

    optional = ("ema_decay",)

    def problems(self) -> list[str]:
        problems = _positive(self, "epochs", "batch_size", "learning_rate", "grad_clip")
        if not 0 <= self.warmup < 1:
            problems.append(f"warmup must be in [0, 1), not {self.warmup!r}")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay must be 0 or more and finite, not {self.weight_decay!r}")
        if self.patience < 0:
            problems.append(f"patience must be 0 or more, not {self.patience!r}")
        if not 0 <= self.ema_decay < 1:
            problems.append(f"ema_decay must be in [0, 1), not {self.ema_decay!r}")
        if not 0 <= self.seed < MAX_SEED:
            problems.append(f"seed must be from 0 to {MAX_SEED - 1}, not {self.seed!r}")
        if math.isnan(self.checkpoint_seconds):
            problems.append("checkpoint_seconds must be a number, not nan")
        if self.optimizer not in OPTIMIZERS:
            problems.append(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}"
            )
        if self.precision not in PRECISIONS:
            problems.append(
                f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}"
            )
        return problems


@dataclasses.dataclass(frozen=True)
class PromptConfig(_Config):
    """Settings of a table of soft prompts.

    tokens: soft tokens of each user. start: "text" learns one vector for all users, which starts as
    the embedding of the token in front of the prompt slot, plus each user's difference, which
    starts at 0 and to which weight decay applies. "mean" and "word" are the same with a vector that
    starts as the model's mean token embedding, or the embedding of start_word (of its tokens in
    turn, where there are more soft tokens than one); "shared" draws it. "random" draws each user's
    start, as in the paper. init_scale: bound of the random start. item_tokens: soft tokens of each
    item, fitted with the users' (0: none, as in the paper). item_order: whether they stand after
    the user's tokens in the prompt slot, or before.
    """

    tokens: int = 1
    init_scale: float = 0.1
    start: Literal["text", "shared", "random", "mean", "word"] = "text"
    item_tokens: int = 0
    item_order: Literal["after", "before"] = "after"
    start_word: str = "reader"

    optional = ("item_tokens", "item_order", "start_word")

    def problems(self) -> list[str]:
        problems = _positive(self, "tokens", "init_scale")
        if not 0 <= self.item_tokens < math.inf:
            problems.append(f"item_tokens must be 0 or more, not {self.item_tokens!r}")
        if self.start not in ("text", "shared", "random", "mean", "word"):
            problems.append(f"start must be text, shared, random, mean or word, not {self.start!r}")
        if not self.start_word.strip():
            problems.append("start_word must be a word, not empty")
        if self.item_order not in ("after", "before"):
            problems.append(f"item_order must be after or before, not {self.item_order!r}")
        elif self.item_order == "before" and not self.item_tokens:
            problems.append("item_order needs item_tokens, which are 0")
        return problems


@_accept_stored_names
@dataclasses.dataclass(frozen=True)
class AdapterConfig(_Config):
    """The adapter network. The defaults are the paper's.

    hidden: width of the hidden layers. depth: number of feed-forward blocks; the second changes the
    width from the source's to the target's. noise: standard deviation of the Gaussian noise that
    is added to source prompts in training, in units of the prompts' own. max_mean_to_std: rescale
    source prompts so that the norm of their mean is at most this many times the norm of their
    standard deviation; 0 does not rescale. max_norm: upper bound of the norm of each mapped token,
    in units of the median norm of the target's token embeddings; 0 sets no bound. output_start:
    "text" maps every user's prompt near the embedding of the token in front of the prompt slot before
    training, up to the norm bound; "random" draws all weights, as in the paper.

    The stored names `balance` and `norm_limit` are accepted as keywords, see STORED_NAMES.
    Raises ConfigError that lists all invalid settings.
    """

    hidden: int = 4096
    depth: int = 4
    dropout: float = 0.1
    noise: float = 0.0
    max_mean_to_std: float = 0.0
    max_norm: float = 0.0
    output_start: Literal["random", "text"] = "random"

    optional = ("output_start",)

    def problems(self) -> list[str]:
        problems = _positive(self, "hidden")
        for name in ("noise", "max_mean_to_std", "max_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                problems.append(f"{name} must be 0 or more, not {getattr(self, name)!r}")
        if self.output_start not in ("random", "text"):
            problems.append(f"output_start must be random or text, not {self.output_start!r}")
        if self.depth < 2:
            problems.append(f"depth must be 2 or more, not {self.depth!r}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be in [0, 1), not {self.dropout!r}")
        return problems
