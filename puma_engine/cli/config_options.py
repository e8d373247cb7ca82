"""Options of commands: one for each field of a settings class, and those that commands share."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from puma_engine.config import STORED_NAMES, AdapterConfig, PromptConfig, TrainingConfig

HELP: dict[type, dict[str, str]] = {
    TrainingConfig: {
        "epochs": "Passes over the train rows at most.",
        "batch_size": "Examples a step, over all processes.",
        "learning_rate": "Peak of the cosine schedule.",
        "weight_decay": "Decoupled weight decay (adamw) or L2 (adam).",
        "warmup": "Share of the steps before the peak, in [0, 1).",
        "grad_clip": "Largest norm of a gradient.",
        "optimizer": "Optimiser.",
        "precision": "Arithmetic; auto is bf16 on a GPU and fp32 on a CPU.",
        "patience": "Epochs to wait for a better validation value; 0 never stops early.",
        "seed": "Seed of every draw.",
        "checkpoint_seconds": "Seconds between checkpoints.",
    },
    PromptConfig: {
        "tokens": "Soft tokens a user.",
        "init_scale": "Bound of the uniform start.",
        "start": "shared: one vector for all plus each user's difference; random: the paper's.",
        "item_tokens": "Soft tokens of each item, fitted beside the users' (0: none).",
    },
    AdapterConfig: {
        "hidden": "Width of the adapter's hidden layers.",
        "depth": "Feed-forward blocks of the adapter, 2 or more.",
        "dropout": "Dropout of the adapter.",
        "noise": "Noise on the prompts in training, as a share of their spread.",
        "max_mean_to_std": "Rescale source prompts so that the norm of their mean is at most this many times "
        "that of their standard deviation; 0: no rescaling.",
        "max_norm": "Upper bound of each mapped token's norm, in units of the median norm of the target's "
        "token embeddings; 0: no bound.",
    },
}


def with_settings(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace each named parameter of a command by one option for each field of its dataclass.

    The command gets a dictionary of the options that were given. All others are left to
    `puma_engine.defaults`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {group: _options(group, kind) for group, kind in groups.items()}

        def wrapper(**given: Any) -> None:
            for group, parameters in options.items():
                values = {p.name: given.pop(p.name) for p in parameters}
                given[group] = {name: v for name, v in values.items() if v is not None}
            command(**given)

        others = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name not in groups
        ]
        signature = inspect.Signature([*others, *(p for added in options.values() for p in added)])
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
        return wrapper

    return decorate


def _options(group: str, kind: type) -> list[inspect.Parameter]:
    """One option a field; where a field has a stored name, that is a hidden, deprecated option."""
    options = []
    for name, hint in typing.get_type_hints(kind).items():
        panel = f"{group.capitalize()} settings"
        current = typer.Option(_flag(name), help=HELP[kind][name], rich_help_panel=panel)
        options.append((name, Annotated[hint | None, current]))
        if name in STORED_NAMES:
            old = STORED_NAMES[name]
            options.append((old, Annotated[hint | None, renamed_option(_flag(old), _flag(name))]))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options
    ]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def renamed_option(old: str, new: str) -> Any:
    """Return a hidden option that keeps the old flag of a renamed option working."""
    return typer.Option(old, hidden=True, help=f"Deprecated: use {new}.")


Queue = Annotated[bool, typer.Option("--queue", help="Queue a job for `puma worker` instead.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, cuda:N, or auto for layers on all GPUs (default: the best)."
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run (default: made up).")]
