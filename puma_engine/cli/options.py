"""Build options of commands from the fields of requests and settings, and one table of help texts."""

import inspect
import typing
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from puma_engine.cli.session import session
from puma_engine.config import STORED_NAMES, AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.defaults import PAIRS_PER_USER
from puma_engine.requests import CLUSTER_REQUESTS, RENAMED

Command = Callable[..., Any]
# Help text of a parameter, or keywords of typer.Option; None: the command does not take it.
Text = str | dict[str, Any] | None
# The type and the help text of each option of a group, by name.
Group = Mapping[str, tuple[Any, Text]]

# Help texts of options that several commands have. The options of a request stand in this order.
HELP: dict[str, Text] = {
    "sources": "Run with prompts or vectors, or migration, to start from; repeat it for an aggregation.",
    "source": "Run with prompts or vectors, or migration, to start from.",
    "fit_on": "Backbone on which source prompts of the data set are fitted first; repeat it for an aggregation.",
    "targets": "Backbone to move to; repeat it for a chain, in order.",
    "target": "Backbone to move to: run, zoo name, model folder, GGUF file or hub id.",
    "retrain": "Also retrain all users on the last target, unless that run exists, and judge the migration by it.",
    "missing": "A user whom a source lacks: mean (gets its mean prompt) or drop (is left out).",
    "selection": "Selection run whose users train the adapter.",
    "strategy": "Strategy that chooses users, such as kmeans-variance.",
    "budget": "Users who train the adapter.",
    "share": "The budget as a share of the users, in (0, 1].",
    "dataset": "Data set (default: the source's).",
    "backbone": "Backbone run, zoo name, model folder, GGUF file or hub id.",
    "role": "source, retrained, or random (the head alone is trained).",
    "blend": "Baseline, such as matrix_factorisation, whose predictions are blended in; validation rows choose the weights.",
    "split": "train, validation or test.",
    "template": "Prompt template: a name, or a file with your own (default: the source's).",
    "chat_template": "Put the chat template of an instruct model around the text.",
    "from_predictions": {
        "help": "Learn from the source model's predictions of this number of random items of each user, and read no "
        f"record ({PAIRS_PER_USER} is a good number; 0: learn from records).",
        "min": 0,
    },
    "shuffled": "Control: give each user another user's source prompt.",
    "items": "Item to predict for every user; repeat it (default: popular items with varied means).",
    "count": {"help": "Anchor items to choose where none is named.", "min": 2},
    "precision": "auto, fp32, bf16 or fp16.",
    "seed": "Seed of every draw.",
    "clusters": "Clusters of k-means.",
    "strata": "Strata of variance or loss in each cluster.",
    "min_cluster": "Minimum number of users chosen from each cluster, if it has them.",
    "item_tokens": {"help": "Soft prompt tokens of each item, fitted too.", "min": 0},
    "prompts": "Prompts or migration run to start from.",
    "start": "Migration run whose prompts are fitted further; with --backbone or --template any prompts.",
    "subject": "Prompts or migration run, or a baseline: global_mean, item_mean, user_item_bias, matrix_factorisation.",
    "revision": "Branch, tag or commit of a hub id.",
    "licence": "SPDX id for the card (default: the data's).",
    "name": "Name of the run (default: generated).",
    "device": "cpu, cuda, cuda:N, or auto for layers on all GPUs (default: the best).",
    "on": "Where to compute: ray (the cluster of RAY_ADDRESS or of this machine), ray://HOST:PORT or "
    "HOST:PORT of a Ray cluster (default: this machine).",
    "workers": {
        "help": "Processes on the cluster that train a run together, each on a CPU or GPU of its own (default: 1).",
        "min": 1,
    },
    "queue": "Queue a job for `puma worker` instead.",
}
SETTINGS_HELP: dict[type, dict[str, str]] = {
    TrainingConfig: {
        "epochs": "Passes over the train rows at most.",
        "batch_size": "Examples a step, over all processes.",
        "learning_rate": "Peak of the cosine schedule.",
        "weight_decay": "Decoupled weight decay (adamw) or L2 (adam).",
        "warmup": "Share of the steps before the peak, in [0, 1).",
        "grad_clip": "Largest norm of a gradient.",
        "optimizer": "Optimiser.",
        "precision": "Arithmetic; auto is bf16 on a GPU and fp32 on a CPU; large frozen models are bf16 on a CPU that has it in hardware.",
        "patience": "Epochs to wait for a better validation value; 0 never stops early.",
        "seed": "Seed of every draw.",
        "checkpoint_seconds": "Seconds between checkpoints.",
        "ema_decay": "Decay of a moving average of the weights over steps, which is what is validated and "
        "kept; 0: no average.",
    },
    PromptConfig: {
        "tokens": "Soft tokens of each user.",
        "init_scale": "Bound of the uniform start.",
        "start": "text: the embedding of the token in front of the prompt slot plus each user's "
        "difference; mean, word, shared: the same from the mean token embedding, a word's, or a drawn "
        "vector; random: the paper's.",
        "item_tokens": "Soft tokens of each item, fitted beside the users' (0: none).",
        "start_word": "The word of --start word.",
        "item_order": "Where an item's soft tokens stand in the prompt slot: after or before the user's.",
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
        "output_start": "text: prompts are first mapped near the embedding of the token in front of the "
        "prompt slot; random: the paper's.",
    },
}
SETTINGS = {"training": TrainingConfig, "prompt": PromptConfig, "adapter": AdapterConfig}
# Options of earlier versions, which help does not show, and their replacements.
OLD_OPTIONS = {
    **RENAMED,
    **{old: name for name, old in STORED_NAMES.items()},
    "form": "format_",
    "own": "workspace_reports",
    "fixed": "default_settings",
    "settings": "settings_from",
}


def with_options(
    *arguments: str, groups: Mapping[str, Group] | None = None, **texts: Text
) -> Callable[[Command], Command]:
    """Build a command's arguments and options from its parameters and their help texts.

    arguments: the parameters that are positional. texts: help texts that differ from HELP. A
    parameter `request` becomes an option for each field of its class that has a help text, and a
    panel of options for each of its settings. `**settings` gets the given options of `groups`.
    """

    def decorate(command: Command) -> Command:
        declared = dict(inspect.signature(command, eval_str=True).parameters)
        declared.pop("settings", None)
        request = declared.pop("request", None)
        kind = request.annotation if request else None
        fields = dict(inspect.signature(kind, eval_str=True).parameters) if kind else {}
        panels = {name: settings_group(SETTINGS[name]) for name in fields if name in SETTINGS}
        panels |= groups or {}
        if "training" in panels:
            fields.pop("seed", None)  # The seed is one of the settings of the training.
        described = {name: text for name, text in (HELP | texts).items() if text is not None}
        fields = {name: fields[name] for name in described if name in fields}
        all_parameters = fields | declared
        options = {
            name: _parameter(all_parameters[name], arguments, described) for name in all_parameters
        }
        renamed = {name: new for name, new in OLD_OPTIONS.items() if new in all_parameters}
        parameters = sorted(options.values(), key=lambda p: (*arguments, p.name).index(p.name))
        for name, new in renamed.items():
            parameters.append(_option(name, all_parameters[new].annotation | None, _renamed(new)))
        for panel, group in panels.items():
            for name, (hint, text) in group.items():
                title = f"{panel.capitalize()} settings"
                parameters.append(_option(name, hint | None, text, rich_help_panel=title))

        def wrapper(**kwargs: Any) -> None:
            kwargs |= {new: v for name, new in renamed.items() if _is_given(v := kwargs.pop(name))}
            settings = {
                panel: {name: v for name in group if _is_given(v := kwargs.pop(name))}
                for panel, group in panels.items()
            }
            if kind is None:
                kwargs |= ChainMap(*settings.values())
            else:
                values = {name: kwargs.pop(options[name].name) for name in fields} | settings
                if "training" in settings:
                    values["seed"] = settings["training"].pop("seed", None)
                kwargs["request"] = kind.from_dict(values)
            command(**kwargs)

        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
        return wrapper

    return decorate


def stage(
    name: str,
    /,
    *arguments: str,
    device: bool = True,
    show: Callable[[Any], None] | None = None,
    **texts: Text,
) -> Callable[[Callable[..., str]], Command]:
    """Build the command of a stage from a function that takes its options and returns its title.

    The options are those of `with_options`, then --device, if the stage has one, --on, if a cluster
    can compute its runs, --workers, if these are trained, and --queue. show: prints the resulting
    run (default: its record).
    """

    places: dict[str, Any] = {"device": str | None} if device else {}
    if name in CLUSTER_REQUESTS:
        places["on"] = str | None
        if "training" in CLUSTER_REQUESTS[name].__dataclass_fields__:
            places["workers"] = int | None

    def decorate(title: Callable[..., str]) -> Command:
        def command(queue: bool, **given: Any) -> None:
            placed = {part: given.pop(part) for part in places}
            values = given["request"].to_dict() if "request" in given else given
            session.do(name, title(**given), queue=queue, show=show, **values, **placed)

        keyword = inspect.Parameter.KEYWORD_ONLY
        signature = inspect.signature(title, eval_str=True)
        parameters = list(signature.parameters.values())
        for part, hint in places.items():
            parameters.append(inspect.Parameter(part, keyword, default=None, annotation=hint))
        parameters.append(inspect.Parameter("queue", keyword, default=False, annotation=bool))
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__doc__, command.__name__ = title.__doc__, title.__name__
        return with_options(*arguments, groups=None, **texts)(command)

    return decorate


def settings_group(kind: type) -> Group:
    """Return the options of a settings class; stored names are accepted as hidden options, too."""
    group: dict[str, tuple[Any, Text]] = {}
    hints = typing.get_type_hints(kind)
    for name, text in SETTINGS_HELP[kind].items():
        hint = hints[name]
        group[name] = hint, text
        if name in STORED_NAMES:
            group[STORED_NAMES[name]] = hint, _renamed(name)
    return group


def _parameter(
    parameter: inspect.Parameter, arguments: tuple[str, ...], texts: Mapping[str, Text]
) -> inspect.Parameter:
    """Return a parameter with its option; a field with several values is a repeated option in the singular."""
    name, hint = parameter.name, parameter.annotation
    if typing.get_origin(hint) is Annotated:
        return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    if typing.get_origin(hint) is tuple:
        name = name if name in arguments else name.removesuffix("s")
        hint = str if name in arguments and name != parameter.name else list[str]
    text, default = texts[parameter.name], parameter.default
    return _option(name, hint, text, default=default, positional=name in arguments)


def _option(
    name: str, hint: Any, text: Text, *, default: Any = None, positional: bool = False, **more: Any
) -> inspect.Parameter:
    more |= text if isinstance(text, dict) else {"help": text}
    info = typer.Argument(**more) if positional else typer.Option(_flag(name), **more)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info]
    )


def _flag(name: str) -> str:
    return f"--{name.strip('_').replace('_', '-')}"


def _renamed(new: str) -> Text:
    return {"hidden": True, "help": f"Deprecated: use {_flag(new)}."}


def _is_given(value: Any) -> bool:
    return value is not None and value is not False and value != []
