"""Studies beyond the paper: templates, prompt lengths, item prompts, sizes, norms, mixed plans."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from puma_engine.defaults import DEFAULT_TEMPLATES, PAPER_STRATEGY
from puma_engine.studies.builder import (
    ALL_USERS,
    RETRAINED,
    SMALL_SHARE,
    Builder,
    few_users,
    study,
)
from puma_engine.studies.cells import ORDERS, Inputs
from puma_engine.studies.grids import RANDOM_PROMPTS
from puma_engine.studies.paper import FAMILIES, ITEM_PROMPTS

ONE_SEED = {"seeds": (0,)}
LENGTHS = (1, 2, 4, 8)
MAX_NORMS = {"free": 0.0, "bounded": 1.0}
SIZES = ("llama-small", "llama-medium", "llama-large")
REFINED_SHARES = (0.1, 0.25, 0.5)
AVERAGED = {"training": {"ema_decay": 0.98}}
# For the study changes: reworded templates by task and order.
WORDINGS = {
    "rating": {
        "": "What a reader likes is written in {prompt}. How many stars, from 1 to 5, would they give "
        "{item}? Stars:",
        "-item-first": "How many stars, from 1 to 5, would a reader give {item}? What they like is "
        "written in {prompt}. Stars:",
        "-prompt-last": "How many stars, from 1 to 5, would this reader give {item}? Stars:{prompt}",
    },
    "click": {
        "": "What a reader likes is written in {prompt}. Would they choose {item}, Yes or No? Choice:",
        "-item-first": "Would a reader choose {item}, Yes or No? What they like is written in {prompt}. "
        "Choice:",
        "-prompt-last": "Would this reader choose {item}, Yes or No? Choice:{prompt}",
    },
}
# For the study adapters: settings of migrations that differ from the defaults in one respect.
ADAPTERS: dict[str, dict[str, Any]] = {
    "default": {},
    "hidden 128": {"adapter": {"hidden": 128}},
    "hidden 1024, depth 2": {"adapter": {"hidden": 1024, "depth": 2}},
    "noise 0": {"adapter": {"noise": 0.0}},
    "dropout 0.3": {"adapter": {"dropout": 0.3}},
    "weight decay 0.3": {"training": {"weight_decay": 0.3}},
    "1 epoch": {"training": {"epochs": 1}},
    "2 epochs": {"training": {"epochs": 2}},
    "2 epochs, noise 0.1": {"training": {"epochs": 2}, "adapter": {"noise": 0.1}},
    "averaged weights": AVERAGED,
    "averaged weights, 1 epoch": {"training": AVERAGED["training"] | {"epochs": 1}},
    "averaged weights, 2 epochs": {"training": AVERAGED["training"] | {"epochs": 2}},
}


@study(
    "The order of the template: prompt first as in the paper, item first, or prompt last",
    {"method": "retrained, prompt first"},
)
def templates(build: Builder) -> None:
    """Add source prompts, full retraining and migrations in each order, each tuned in that order."""
    first, data = build.options.seeds[0], {"dataset": build.data}
    build.evaluate_baselines()
    for name, suffix in ORDERS.items():
        order, template = name.replace("-", " "), {"template": f"{build.task}{suffix}"}
        best, backbones = {}, {"source": build.options.source, "retrained": build.options.target}
        for role, backbone in backbones.items():
            settings = {"backbone": backbone, "role": role, "seed": first} | template
            best[role] = build.tune(
                f"{role}, {order}", "fit_prompts", build.grids.prompts, settings, data
            )
        tables = {
            (role, seed): build.fit(
                f"{role}, {order} {seed}", role, backbone, seed, best[role], **template
            )
            for role, backbone in backbones.items()
            for seed in build.options.seeds
        }
        selections_of_few: dict[int, str | None] = {
            seed: build.select(
                tables["source", seed], PAPER_STRATEGY, SMALL_SHARE, seed, f"{order} prompts"
            )
            for seed in build.options.seeds
        }
        everyone: dict[int, str | None] = dict.fromkeys(selections_of_few)
        for method, grid, selections in (
            (ALL_USERS, build.grids.adapter, everyone),
            (few_users(PAPER_STRATEGY), build.grids.small_adapter, selections_of_few),
        ):
            source, selected = tables["source", first], selections[first]
            inputs: Inputs = {"sources": source} | ({"selection": selected} if selected else {})
            settings = {"target": build.options.target, "seed": first}
            tuned = build.tune(f"{method}, {order}", "migrate", grid, settings, inputs)
            for seed, selected in selections.items():
                source = tables["source", seed]
                tables[method, seed] = build.migrate(
                    f"{method}, {order}", source, seed, tuned, selected
                )
        for (method, seed), table in tables.items():
            kind = method if method in backbones else "migrated"
            build.evaluate(table, method=f"{method}, {order}", kind=kind, seed=seed)


@study("Soft prompts of 1 to 8 tokens", RETRAINED, within=("tokens",), quick=ONE_SEED)
def lengths(build: Builder) -> None:
    """Add source prompts, full retraining and a migration for each number of soft tokens."""
    backbones = {"source": build.options.source, "retrained": build.options.target}
    for seed in build.options.seeds:
        for tokens in LENGTHS:
            prompt, tables = {"tokens": tokens}, {}
            for role, backbone in backbones.items():
                name = f"{role} {tokens} tokens {seed}"
                tables[role] = build.fit(name, role, backbone, seed, prompt=prompt)
            tables["migrated"] = build.migrate(f"{tokens} tokens", tables["source"], seed)
            for kind, table in tables.items():
                method = ALL_USERS if kind == "migrated" else kind
                build.evaluate(table, method=method, kind=kind, tokens=tokens, seed=seed)


@study("Item prompts: migrated, or fitted anew on the target", RETRAINED, quick=ONE_SEED)
def items(build: Builder) -> None:
    """Add item prompts beside the users': migrated, or fitted on the target."""
    backbones = {"source": build.options.source, "retrained": build.options.target}
    for seed, source in build.sources().items():
        tables = {
            "source": source,
            "retrained": build.prompts("retrained", build.options.target, seed),
        }
        for role, backbone in backbones.items():
            tables[f"{role}, item prompts too"] = build.fit(
                f"{role} items {seed}", role, backbone, seed, prompt=ITEM_PROMPTS
            )
        starts = {
            ALL_USERS: source,
            f"{ALL_USERS}, item prompts too": tables["source, item prompts too"],
        }
        for method, start in starts.items():
            tables[method] = build.migrate(method, start, seed)
        tables[f"{ALL_USERS}, refined with item prompts"] = build.refine(
            f"refined with items {seed}", tables[ALL_USERS], seed, **ITEM_PROMPTS
        )
        for method, table in tables.items():
            plan = method.partition(",")[0]
            kind = "refined" if "refined" in method else plan.replace("PUMA", "migrated")
            build.evaluate(table, method=method, kind=kind, seed=seed)


@study(
    "Backbones of three sizes (build llama-large first)",
    RETRAINED,
    within=("target",),
    quick=ONE_SEED,
)
def sizes(build: Builder) -> None:
    """Add migrations to larger backbones of one family, trained on all users and on a few."""
    for seed in build.options.seeds:
        tables = build.source_and_retraining(SIZES, seed)
        selected = {
            origin: build.select(tables[origin], PAPER_STRATEGY, SMALL_SHARE, seed, origin)
            for origin in SIZES[:-1]
        }
        for origin, target in combinations(SIZES, 2):
            selections = {"all users": None, f"{SMALL_SHARE:.0%}": selected[origin]}
            for trained_on, selection in selections.items():
                name, source = f"{origin} to {target}, {trained_on}", tables[origin]
                migrated = build.migrate(name, source, seed, selection=selection, target=target)
                labels = {"origin": origin, "target": target, "kind": "migrated"}
                build.evaluate(migrated, method=f"PUMA, {trained_on}", seed=seed, **labels)


@study("A cheap migration, then refining for some of the users", RETRAINED, quick=ONE_SEED)
def mixed(build: Builder) -> None:
    """Add a migration trained on few users, refined for those at risk or for random users."""
    method = f"PUMA, {SMALL_SHARE:.0%}"
    for seed, source in build.sources().items():
        retrained = build.prompts("retrained", build.options.target, seed)
        build.evaluate(retrained, method="retrained", kind="retrained", seed=seed)
        selected = build.select(source, PAPER_STRATEGY, SMALL_SHARE, seed)
        migrated = build.migrate(f"{SMALL_SHARE:.0%}", source, seed, selection=selected)
        build.evaluate(migrated, method=method, kind="migrated", seed=seed)
        for share in build.options.shares or REFINED_SHARES:
            random = build.select(source, "random", share, seed)
            at_risk = build.refine(f"{share:g} refined at risk {seed}", migrated, seed, share=share)
            label = f"{method}, {share:.0%} refined"
            build.evaluate(at_risk, method=f"{label} at risk", kind="refined", seed=seed)
            at_random = build.refine(
                f"{share:g} refined at random {seed}", migrated, seed, selection=random
            )
            build.evaluate(at_random, method=f"{label} at random", kind="refined", seed=seed)
        all_refined = build.refine(f"all refined {seed}", migrated, seed)
        build.evaluate(all_refined, method=f"{method}, all refined", kind="refined", seed=seed)


@study(
    "Adapters of other shapes and trainings, on few users and on all",
    {"method": "default"},
    within=("trained_on",),
    quick=ONE_SEED,
)
def adapters(build: Builder) -> None:
    """Add migrations by every setting of ADAPTERS, trained on a few users and on all.

    The template is prompt last, in which a migration costs least.
    """
    options, template = build.options, f"{build.task}-prompt-last"
    roles = {"source": options.source, "retrained": options.target}
    for seed in options.seeds:
        tables = {
            role: build.prompts(role, backbone, seed, template=template)
            for role, backbone in roles.items()
        }
        for role, table in tables.items():
            build.evaluate(table, method=role, kind=role, seed=seed)
        source = tables["source"]
        selections = {
            f"{SMALL_SHARE:.0%}": build.select(source, PAPER_STRATEGY, SMALL_SHARE, seed),
            "all users": None,
        }
        for trained_on, selection in selections.items():
            for method, settings in ADAPTERS.items():
                name = f"{method}, {trained_on}"
                migrated = build.migrate(name, source, seed, selection=selection, **settings)
                labels = {"kind": "migrated", "trained_on": trained_on, "seed": seed}
                build.evaluate(migrated, method=method, **labels)


@study(
    "Norms of mapped prompts bounded, or left free",
    {"method": "free"},
    within=("target",),
    quick=ONE_SEED,
)
def norms(build: Builder) -> None:
    """Add migrations to four families with bounded and with free norms of mapped prompts."""
    first, *targets = FAMILIES
    for seed in build.options.seeds:
        source = build.prompts("source", first, seed)
        for target in targets:
            for method, limit in MAX_NORMS.items():
                name, adapter = f"{method} to {target}", {"max_norm": limit}
                migrated = build.migrate(name, source, seed, target=target, adapter=adapter)
                build.evaluate(migrated, method=method, kind="migrated", target=target, seed=seed)


@study(
    "Changes of one model: other precision, or a template in other words",
    RETRAINED,
    within=("change",),
    quick=ONE_SEED,
)
def changes(build: Builder) -> None:
    """Add the changes from source to target, from target to source, and to other words of the template.

    source and target: versions of one model, such as a GGUF file and its folder in bf16. For each
    change: the source prompts before it, the same prompts reused after it and refined for all users,
    full retraining, and migrations trained on all users and on a few. Every training has the default
    settings.
    """
    options, default = build.options, DEFAULT_TEMPLATES[build.task]
    suffix = default.removeprefix(build.task) if options.order is None else ORDERS[options.order]
    reworded = json.dumps({"task": build.task, "text": WORDINGS[build.task][suffix]})
    # Settings of fits and evaluations for each version of model and template.
    readings: dict[str, dict[str, Any]] = {
        "source": {"backbone": options.source},
        "target": {"backbone": options.target},
        "other words": {"backbone": options.source, "template": reworded},
    }
    for seed in options.seeds:
        fitted = {
            name: build.fit(f"prompts, {name} {seed}", "source", seed=seed, **settings)
            for name, settings in readings.items()
        }
        for old, new in (("source", "target"), ("target", "source"), ("source", "other words")):
            change = f"{old} to {new}"
            _add_change(build, change, seed, fitted[old], fitted[new], readings[new])


@study(
    "An instruct model's chat template around the text, or the text alone",
    RETRAINED,
    quick=ONE_SEED,
)
def chat(build: Builder) -> None:
    """Add full retraining and a migration trained on all users, with the target's chat template and without.

    The target needs a chat template. Every training has the default settings.
    """
    target = build.options.target
    readings: dict[str, dict[str, Any]] = {"": {}, ", chat template": {"chat_template": True}}
    for seed, source in build.sources().items():
        for suffix, settings in readings.items():
            name = f"retrained{suffix}"
            retrained = build.fit(f"{name} {seed}", "retrained", target, seed, **settings)
            build.evaluate(retrained, method=name, kind="retrained", seed=seed)
            name = f"{ALL_USERS}{suffix}"
            migrated = build.migrate(name, source, seed, **settings)
            build.evaluate(migrated, method=name, kind="migrated", seed=seed)


def _add_change(
    build: Builder, change: str, seed: int, source: str, retrained: str, reading: dict[str, Any]
) -> None:
    """Add the rows of one change for one seed. reading: model and template after the change."""
    name = f"{change}: random prompts {seed}"
    random_prompts = build.fit(name, "random", seed=seed, **reading, **RANDOM_PROMPTS)
    selected = build.select(source, PAPER_STRATEGY, SMALL_SHARE, seed, change)
    target = {("target" if name == "backbone" else name): value for name, value in reading.items()}
    migrated = {
        method: build.migrate(f"{change}: {method}", source, seed, selection=selection, **target)
        for method, selection in ((ALL_USERS, None), (few_users(PAPER_STRATEGY), selected))
    }
    refined = build.refine(f"{change}: reused, refined {seed}", source, seed, **reading)
    rows = [
        ("source", "source", source, {}),
        ("reused as they are", "reused", source, reading),
        ("reused, refined", "refined", refined, {}),
        ("retrained", "retrained", retrained, {}),
        ("random prompts", "random", random_prompts, {}),
        *((method, "migrated", table, {}) for method, table in migrated.items()),
    ]
    for method, kind, table, settings in rows:
        labels = {"method": method, "kind": kind, "change": change, "seed": seed}
        build.evaluate(table, f"{change}: {method} {seed}", settings, **labels)
