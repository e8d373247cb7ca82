"""Studies beyond the paper: templates, prompt lengths, items, and sizes of adapters and backbones, norms."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.studies.builder import ALL, CLICKS, SMALL_SHARE, Builder, each_dataset
from puma_engine.studies.cells import Needs
from puma_engine.studies.paper import FAMILIES

LENGTHS = (1, 2, 4, 8)
LIMITS = {"free": 0.0, "bounded": 1.0}
SIZES = ("llama-small", "llama-medium", "llama-large")
ADAPTERS = {
    "hidden 64": {"hidden": 64},
    "hidden 256": {"hidden": 256},
    "hidden 1024": {"hidden": 1024},
    "hidden 2048": {"hidden": 2048},
    "hidden 1024, depth 2": {"hidden": 1024, "depth": 2},
    "hidden 1024, depth 6": {"hidden": 1024, "depth": 6},
}


@each_dataset
def templates(build: Builder) -> None:
    """Prompt before the item, as in the paper, against the item first, each tuned."""
    first = "click" if build.dataset == CLICKS else "rating"
    orders = {"prompt first": first, "item first": f"{first}-item-first"}
    for method, template in orders.items():
        settings = {"backbone": build.options.target, "role": "retrained", "template": template}
        data: Needs = {"dataset": build.data}
        on = settings | {"seed": build.options.seeds[0]}
        best = build.tuned(method, "fit_prompts", build.prompt_grid, on, data)
        for seed in build.options.seeds:
            own = settings | {"seed": seed}
            fitted = build.add(f"{method} {seed}", "fit_prompts", own, data, best)
            build.evaluate(fitted, method=method, kind="retrained", seed=seed)


@each_dataset
def lengths(build: Builder) -> None:
    """Soft prompts of 1, 2, 4 and 8 tokens: source, full retraining, and PUMA on all users."""
    for seed in build.options.seeds:
        for tokens in LENGTHS:
            tables = {
                role: _fitted(
                    build, role, backbone, f"{tokens} tokens {seed}", seed, {"tokens": tokens}
                )
                for role, backbone in (
                    ("source", build.options.source),
                    ("retrained", build.options.target),
                )
            }
            moved = build.migrate(f"{tokens} tokens", {"sources": tables["source"]}, seed, None)
            for kind, table in (tables | {"migrated": moved}).items():
                method = {"migrated": ALL}.get(kind, kind)
                build.evaluate(table, method=method, kind=kind, tokens=tokens, seed=seed)


def _fitted(
    build: Builder, role: str, backbone: str, name: str, seed: int, prompt: dict[str, int]
) -> str:
    """Prompts of a shape of their own."""
    settings: dict[str, Any] = {"backbone": backbone, "role": role, "seed": seed}
    data: Needs = {"dataset": build.data}
    return build.add(f"{role} {name}", "fit_prompts", settings | {"prompt": prompt}, data)


@each_dataset
def adapters(build: Builder) -> None:
    """Adapters of other widths and depths, trained on all users."""
    for seed, source in build.sources(None).items():
        for method, shape in ADAPTERS.items():
            moved = build.migrate(method, {"sources": source}, seed, None, adapter=shape)
            build.evaluate(moved, method=method, kind="migrated", seed=seed)


@each_dataset
def norms(build: Builder) -> None:
    """Norms of mapped prompts bounded by those of the target's tokens, or left free, on four families."""
    first, *targets = FAMILIES
    for seed in build.options.seeds:
        source = build.prompts("source", first, seed, None)
        for target in targets:
            for method, limit in LIMITS.items():
                shape = {"max_norm": limit}
                needs: Needs = {"sources": source}
                name = f"{method} to {target}"
                moved = build.migrate(name, needs, seed, None, target=target, adapter=shape)
                build.evaluate(moved, method=method, kind="migrated", target=target, seed=seed)


@each_dataset
def items(build: Builder) -> None:
    """Item prompts beside the users': migrated by an adapter of their own, or fitted anew on the target."""
    roles = {"source": build.options.source, "retrained": build.options.target}
    for seed, source in build.sources(None).items():
        tables = {
            "source": source,
            "retrained": build.prompts("retrained", roles["retrained"], seed, None),
        }
        for role, backbone in roles.items():
            tables[f"{role}, item prompts too"] = _fitted(
                build, role, backbone, f"items {seed}", seed, {"item_tokens": 1}
            )
        moved = {
            ALL: tables["source"],
            f"{ALL}, item prompts too": tables["source, item prompts too"],
        }
        for method, start in moved.items():
            tables[method] = build.migrate(method, {"sources": start}, seed, None)
        needs: Needs = {"start": tables[ALL]}
        own = {"seed": seed, "item_tokens": 1}
        tables[f"{ALL}, refined with item prompts"] = build.add(
            f"refined with items {seed}", "refine", own, needs
        )
        for method, table in tables.items():
            begins = method.partition(",")[0]
            kind = "refined" if "refined" in method else begins.replace("PUMA", "migrated")
            build.evaluate(table, method=method, kind=kind, seed=seed)


@each_dataset
def sizes(build: Builder) -> None:
    """Migrations to larger backbones of one family: of all users, and trained on a few."""
    for seed in build.options.seeds:
        tables = build.each_retrained(SIZES, seed)
        few = {
            one: build.choose(tables[one], PAPER_STRATEGY, SMALL_SHARE, seed, one)
            for one in SIZES[:-1]
        }
        for origin, target in combinations(SIZES, 2):
            chosen: Needs = {"selection": few[origin]}
            for label, more in (("all users", {}), (f"{SMALL_SHARE:.0%}", chosen)):
                needs: Needs = {"sources": tables[origin], **more}
                name = f"{origin} to {target}, {label}"
                moved = build.migrate(name, needs, seed, None, target=target)
                facts = {"origin": origin, "target": target, "kind": "migrated"}
                build.evaluate(moved, method=f"PUMA, {label}", seed=seed, **facts)


@each_dataset
def mixed(build: Builder) -> None:
    """A cheap migration, and then refining for a share of the users: those at risk, or random ones."""
    for seed, source in build.sources(None).items():
        again = build.prompts("retrained", build.options.target, seed, None)
        build.evaluate(again, method="retrained", kind="retrained", seed=seed)
        chosen = build.choose(source, PAPER_STRATEGY, SMALL_SHARE, seed)
        needs: Needs = {"sources": source, "selection": chosen}
        few = build.migrate(f"{SMALL_SHARE:.0%}", needs, seed, None)
        method = f"PUMA, {SMALL_SHARE:.0%}"
        build.evaluate(few, method=method, kind="migrated", seed=seed)
        for share in build.options.shares or (0.1, 0.25, 0.5):
            drawn = build.choose(source, "random", share, seed)
            plans: dict[str, tuple[dict[str, Any], Needs]] = {
                "at risk": ({"share": share}, {"start": few}),
                "at random": ({}, {"start": few, "selection": drawn}),
            }
            for which, (own, wants) in plans.items():
                name = f"{share:g} refined {which} {seed}"
                more = build.add(name, "refine", {"seed": seed} | own, wants)
                label = f"{method}, {share:.0%} refined {which}"
                build.evaluate(more, method=label, kind="refined", seed=seed)
        every = build.add(f"all refined {seed}", "refine", {"seed": seed}, {"start": few})
        build.evaluate(every, method=f"{method}, all refined", kind="refined", seed=seed)
