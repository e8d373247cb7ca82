"""Requests to stages, as frozen dataclasses.

The Python API, the command line, the dashboard and the job queue all build the same requests;
`puma_engine.pipeline` executes them. A request describes the wanted result. Settings that it leaves
open are filled in from `puma_engine.defaults` when it is executed, since they depend on the task
and on the number of users. Device and progress are not part of a request.

References to runs are ids, prefixes or names; models may also be zoo names, folders, GGUF
files or hub ids.
"""

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig, field_names
from puma_engine.defaults import ANCHOR_ITEMS, CLUSTERS, MIN_CLUSTER, STRATA
from puma_engine.errors import ConfigError, MigrationError, SelectionError

Role = Literal["source", "retrained", "random"]
ROLES = ("source", "retrained", "random")
Missing = Literal["mean", "drop"]

# Overrides of settings by name; settings that are not named have their defaults.
Settings = Mapping[str, Any]
# Fields with settings, and the classes whose fields they override.
CONFIGS: dict[str, type] = {
    "training": TrainingConfig,
    "retraining": TrainingConfig,
    "prompt": PromptConfig,
    "adapter": AdapterConfig,
}
# Field names of earlier versions, which queued jobs and scripts may use.
RENAMED = {"groups": "strata"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Base class of requests: conversion to and from plain JSON, and checks in the constructor."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if item.name in CONFIGS:
                values = overrides(CONFIGS[item.name], getattr(self, item.name))
                object.__setattr__(self, item.name, values)
        self.check()

    def check(self) -> None:
        """Raise ConfigError, SelectionError or MigrationError for a request that no stage can execute."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a request from plain JSON or from keyword arguments.

        A run stands for its id, one reference for a sequence where several are allowed, and a whole
        configuration for settings; None means the default. Raises ConfigError for unknown names,
        missing ones, and values of another type.
        """
        fields = {item.name: item for item in dataclasses.fields(cls)}
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            name = RENAMED.get(name, name)
            if name not in fields:
                raise ConfigError(
                    f"{cls.__name__} has no {name!r}; it has {', '.join(sorted(fields))}."
                )
            if value is None:
                continue
            value = _plain(value)
            kind = fields[name].type
            if typing.get_origin(kind) is tuple and isinstance(value, str):
                value = (value,)
            if not _fits(value, kind):
                allowed = " or ".join(
                    dict.fromkeys(_IN_WORDS[part] for part in _alternatives(kind))
                )
                raise ConfigError(f"{cls.__name__}: {name} must be {allowed}, not {value!r:.80}.")
            arguments[name] = value
        missing = [
            name
            for name, item in fields.items()
            if name not in arguments and item.default is item.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(f"{cls.__name__} needs {', '.join(missing)}.")
        return cls(**arguments)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Build a request from the arguments of a function, which include the request's fields."""
        names = {item.name for item in dataclasses.fields(cls)}
        return cls.from_dict({name: arguments[name] for name in names & set(arguments)})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults as plain JSON, which the job queue stores."""
        values = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value not in (item.default, {}, ()):
                values[item.name] = list(value) if isinstance(value, tuple) else value
        return values


_IN_WORDS: dict[Any, str] = {
    **{str: "text", int: "a whole number", float: "a number", bool: "true or false"},
    **{tuple: "a list of texts", Mapping: "an object of settings"},
}


def _alternatives(kind: Any) -> list[Any]:
    """Return the types that a field allows, as keys of `_IN_WORDS`; a literal is a text."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(kind) if part is not types.NoneType]
        return [other for part in parts for other in _alternatives(part)]
    origin = typing.get_origin(kind)
    return [str if origin is Literal else origin or kind]


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a plain value has a type that a field allows."""
    allowed = _alternatives(kind)
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, tuple):
        return tuple in allowed and all(isinstance(item, str) for item in value)
    numeric = {int: numbers.Integral, float: numbers.Real}
    return any(isinstance(value, numeric.get(one, one)) for one in allowed)


def _plain(value: Any) -> Any:
    """Convert a run to its id, a path to text, and a configuration to a dictionary."""
    if isinstance(value, TrainingConfig | AdapterConfig | PromptConfig):
        return value.all_settings()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value.id if hasattr(value, "id") else value


def overrides(config: type, settings: Settings | None) -> dict[str, Any]:
    """Return settings without the empty ones. Raises ConfigError for unknown names."""
    values = {name: v for name, v in field_names(dict(settings or {})).items() if v is not None}
    known = list(config.__dataclass_fields__)  # type: ignore[attr-defined]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"{config.__name__} has no setting {', '.join(unknown)}; it has {', '.join(known)}."
        )
    return values


def training_of(
    default: TrainingConfig, settings: Settings, seed: int | None = None
) -> TrainingConfig:
    """Return the default settings with overrides; `seed` takes precedence over both."""
    values = default.to_dict() | dict(settings)
    return TrainingConfig(**(values if seed is None else values | {"seed": seed}))


def check_share(share: float | None) -> None:
    """Raise SelectionError unless a share of users is None or in (0, 1]."""
    if share is not None and not 0 < share <= 1:
        raise SelectionError(f"The share of users must be above 0 and at most 1, not {share!r}.")


def _check_budget(strategy: str | None, budget: int | None, share: float | None) -> None:
    if strategy == "all":
        if budget is not None or share not in (None, 1):
            given = f"a budget of {budget}" if share is None else f"a share of {share:g}"
            raise ConfigError(
                f"The strategy 'all' takes every user, and {given} came; leave that out, or choose a "
                "strategy that selects users, such as random."
            )
    elif (budget is None) == (share is None):
        raise ConfigError(
            f"The strategy {strategy or 'of the task'!r} needs a budget (users) or a share of "
            "users, and not both."
        )
    check_share(share)


@dataclass(frozen=True, kw_only=True)
class FitRequest(Request):
    """Fit one soft prompt for each user of a data set on a frozen backbone.

    chat_template: put the backbone's own chat template around the text.
    """

    dataset: str
    backbone: str
    role: str = "source"
    template: str | None = None
    chat_template: bool = False
    training: Settings = field(default_factory=dict)
    prompt: Settings = field(default_factory=dict)
    seed: int | None = None
    name: str | None = None

    def check(self) -> None:
        if self.role not in ROLES:
            raise ConfigError(f"There is no role {self.role!r}; choose one of {', '.join(ROLES)}.")


@dataclass(frozen=True, kw_only=True)
class SelectionRequest(Request):
    """Choose the users who train an adapter. budget: a number of users; share: in (0, 1].

    within: other prompt runs that must have the selected users, too.
    """

    prompts: str
    strategy: str | None = None
    budget: int | None = None
    share: float | None = None
    seed: int = 0
    clusters: int = CLUSTERS
    strata: int = STRATA
    min_cluster: int = MIN_CLUSTER
    within: tuple[str, ...] = ()
    name: str | None = None

    def check(self) -> None:
        _check_budget(self.strategy, self.budget, self.share)


@dataclass(frozen=True, kw_only=True)
class AdapterRequest(Request):
    """Fields that migrations, chains and plans share: who trains the adapters, and how.

    Without a strategy all users train. chat_template: put the target's own chat template around the
    text. training and adapter override the defaults. from_predictions: number of random items for
    each user; the adapter learns from the source model's predictions of them instead of records; 0:
    learn from records.
    """

    strategy: str | None = None
    budget: int | None = None
    share: float | None = None
    dataset: str | None = None
    template: str | None = None
    chat_template: bool = False
    training: Settings = field(default_factory=dict)
    adapter: Settings = field(default_factory=dict)
    from_predictions: int = 0
    seed: int | None = None

    def check(self) -> None:
        if self.from_predictions < 0:
            raise ConfigError(
                "from_predictions is a number of random items of each user, or 0 to learn from records, not "
                f"{self.from_predictions}."
            )
        if self.strategy is not None:
            _check_budget(self.strategy, self.budget, self.share)
        elif (self.budget, self.share) != (None, None):
            raise ConfigError("A budget or a share needs a strategy, such as kmeans-variance.")

    def hop(self, sources: tuple[str, ...], target: str) -> "MigrationRequest":
        """Return the request of one migration with these settings."""
        return MigrationRequest(sources=sources, target=target, **self.adapter_settings())

    def adapter_settings(self) -> dict[str, Any]:
        """Return the fields that migrations, chains and plans share, by name."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(AdapterRequest)}


@dataclass(frozen=True, kw_only=True)
class MigrationRequest(AdapterRequest):
    """Move prompts to a target backbone: train an adapter on some users, then map all users.

    sources: one run with prompts, or several to aggregate. The adapter is trained on the users of a
    selection run, or of a selection by strategy and budget (or share), or on all. missing: a user
    whom one of several sources lacks gets its mean prompt ("mean") or is left out ("drop").
    shuffled: the control in which each user gets another user's source prompt.
    """

    sources: tuple[str, ...]
    target: str
    selection: str | None = None
    missing: str = "mean"
    shuffled: bool = False
    name: str | None = None

    def check(self) -> None:
        super().check()
        if not self.sources:
            raise MigrationError(
                "A migration needs at least one run with source prompts; none is given."
            )
        if self.selection is not None and self.strategy is not None:
            raise ConfigError("Give a selection or a strategy, not both.")
        if self.missing not in ("mean", "drop"):
            raise ConfigError(f"missing must be mean or drop, not {self.missing!r}.")

    def selecting(self) -> SelectionRequest | None:
        """Return the request that selects the users who train the adapter; None without a strategy."""
        if self.strategy is None:
            return None
        return SelectionRequest(
            prompts=self.sources[0],
            within=self.sources[1:],
            strategy=self.strategy,
            budget=self.budget,
            share=self.share,
            seed=self.seed or 0,
        )


@dataclass(frozen=True, kw_only=True)
class ChainRequest(AdapterRequest):
    """Migrate over several backbones in turn; each migrated table is the next hop's source."""

    source: str
    targets: tuple[str, ...]

    def check(self) -> None:
        super().check()
        if not self.targets:
            raise MigrationError("A chain needs at least one target backbone; none is given.")


@dataclass(frozen=True, kw_only=True)
class PlanRequest(AdapterRequest):
    """A whole migration: one source and target, a chain of targets, or an aggregation of sources.

    sources: runs with prompts; fit_on: backbones on which source prompts of the data set are fitted
    first. retrain: also fit the full retraining that the migration is compared with, unless this
    run exists; retraining: overrides of its settings. predicted: the seconds that were predicted
    when the plan was launched, stored with its job. name: of the comparison. The strategy "all"
    means no selection.
    """

    sources: tuple[str, ...] = ()
    fit_on: tuple[str, ...] = ()
    targets: tuple[str, ...]
    retrain: bool = False
    retraining: Settings = field(default_factory=dict)
    predicted: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.strategy == "all":
            _check_budget(self.strategy, self.budget, self.share)
            object.__setattr__(self, "strategy", None)
            object.__setattr__(self, "share", None)
        super().__post_init__()

    @property
    def origins(self) -> tuple[str, ...]:
        """Sources of the first hop: existing prompts, then backbones on which prompts are fitted."""
        return (*self.sources, *self.fit_on)

    def check(self) -> None:
        super().check()
        counts = len(self.origins), len(self.targets)
        if min(counts) == 0 or min(counts) > 1:
            raise ConfigError(
                "A plan has one source and one or more targets, or several sources and one target, "
                f"not {counts[0]} and {counts[1]}; a source is prompts that exist, or a backbone on "
                "which they are fitted first."
            )
        if not self.sources and self.dataset is None:
            raise ConfigError(
                "A plan that fits its source prompts first needs a data set; without one, give a "
                "source whose data set is used."
            )


@dataclass(frozen=True, kw_only=True)
class RefineRequest(Request):
    """Fit migrated prompts further: of all users, of a selection, or of the share that will most likely regress.

    backbone, template: another version of the prompts' model or other words, for which prompts that
    fit them are fitted further without a migration. item_tokens: soft prompt tokens of each item,
    which are fitted, too.
    """

    start: str
    backbone: str | None = None
    template: str | None = None
    selection: str | None = None
    share: float | None = None
    item_tokens: int = 0
    training: Settings = field(default_factory=dict)
    seed: int | None = None
    name: str | None = None

    def check(self) -> None:
        if self.selection is not None and self.share is not None:
            raise ConfigError("Give a selection or a share of users to refine, not both.")
        if self.share is not None and self.reuses:
            raise ConfigError(
                "Who will regress is predicted for a migration, not for prompts that another model or template "
                "reuses; leave out the share, or give a selection."
            )
        if self.item_tokens and (self.selection, self.share) != (None, None):
            raise ConfigError(
                "Item prompts change the predictions of every user, so they cannot be fitted while "
                "only some users are refined; leave out the selection, the share or item_tokens."
            )
        check_share(self.share)

    @property
    def reuses(self) -> bool:
        """Whether the prompts are fitted further for another model or template than their own."""
        return (self.backbone, self.template) != (None, None)


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest(Request):
    """Predict every row of a split and score it; subject is a run with prompts or a baseline.

    backbone: another model that reads the prompts unchanged, which measures the cost of reusing
    them. blend: a baseline whose predictions are blended with those of the prompts, with weights
    fitted on validation rows.
    """

    subject: str
    backbone: str | None = None
    blend: str | None = None
    dataset: str | None = None
    split: str = "test"
    template: str | None = None
    precision: str = "auto"
    name: str | None = None

    def check(self) -> None:
        if self.blend is not None and self.backbone is not None:
            raise ConfigError(
                "Prompts that another model reads are not blended with a baseline; leave out the backbone or "
                "the blend."
            )


@dataclass(frozen=True, kw_only=True)
class AnchorRequest(Request):
    """Predict the same items for every user of a prompt table.

    items: ids; if there are none, `count` items are chosen from the data set's train rows.
    """

    prompts: str
    items: tuple[str, ...] = ()
    count: int = ANCHOR_ITEMS
    precision: str = "auto"
    name: str | None = None

    def check(self) -> None:
        if self.count < 2:
            raise ConfigError(
                f"The spread of predictions needs two anchor items or more, not {self.count}."
            )
        if self.items and self.count != ANCHOR_ITEMS:
            raise ConfigError(
                f"{len(self.items)} anchor items are named, so {self.count} of them cannot be chosen; give "
                "items or a count, not both."
            )


# Commands whose runs a cluster can compute, with their requests.
CLUSTER_REQUESTS: dict[str, type[Request]] = {
    "fit_prompts": FitRequest,
    "select": SelectionRequest,
    "migrate": MigrationRequest,
    "chain": ChainRequest,
    "refine": RefineRequest,
    "evaluate": EvaluationRequest,
    "predict_anchors": AnchorRequest,
    "run_plan": PlanRequest,
}
# Commands that train one run, which several processes can share.
TRAINED = ("fit_prompts", "migrate", "refine")
