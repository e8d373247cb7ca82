"""The studies of the paper: its tables and figures."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.selection import STRATEGIES, get_strategy
from puma_engine.studies.builder import (
    ALL,
    ALL_GRID,
    CLICK_FEW_GRID,
    CLICK_GRID,
    CLICK_ITEM_GRID,
    CLICK_REFINE_GRID,
    CLICKS,
    FEW_GRID,
    ITEM_GRID,
    RANDOM,
    REFINE_GRID,
    SHARES,
    SMALL_SHARE,
    Builder,
    each_dataset,
    few_by,
    training,
)
from puma_engine.studies.cells import Needs

# Learning rate and batch of full retraining: the defaults for ratings, for clicks what table2 chose.
RATING_STEPS, CLICK_STEPS = (1.5e-2, 1024), (7e-3, 256)


@each_dataset
def table2(build: Builder) -> None:
    """Main results: every method, tuned on the first seed, on every data set."""
    build.baselines()
    clicks = build.dataset == CLICKS
    every, few_users = (CLICK_GRID, CLICK_FEW_GRID) if clicks else (ALL_GRID, FEW_GRID)
    first = build.options.seeds[0]
    data: Needs = {"dataset": build.data}
    best = build.tuned_source({} if clicks else every[0])
    on = {"role": "retrained", "backbone": build.options.target, "seed": first}
    best_again = build.tuned("retrained", "fit_prompts", build.prompt_grid, on, data)
    sources = build.sources(best)
    to: dict[str, Any] = {"target": build.options.target, "seed": first}
    best_all = build.tuned("all", "migrate", every, to, {"sources": sources[first]})
    chosen = build.choose(sources[first], PAPER_STRATEGY, SMALL_SHARE, first)
    few: Needs = {"sources": sources[first], "selection": chosen}
    best_few = build.tuned("few", "migrate", few_users, to, few)
    moved = {
        seed: _methods(build, seed, source, (best_again, best_all, best_few))
        for seed, source in sources.items()
    }
    refined = _refined_settings(build, moved[first])
    items = _item_settings(build, moved[first]["all"])
    for seed, starts in moved.items():
        _refined(build, seed, starts, refined)
    for seed, starts in moved.items():
        _with_items(build, seed, starts["all"], items)


def _methods(
    build: Builder, seed: int, source: str, bests: tuple[str | None, ...]
) -> dict[str, str]:
    """Score every method under one seed; bests: of retraining, PUMA on all, and on few.

    Returns the migrations that are refined: of all users, and of few that were chosen.
    """
    best_again, best_all, best_few = bests
    target = build.options.target
    build.evaluate(source, method="source", kind="source", seed=seed)
    again = build.prompts("retrained", target, seed, best_again)
    build.evaluate(again, method="retrained", kind="retrained", seed=seed)
    drawn = build.prompts("random", target, seed, None, **RANDOM)
    build.evaluate(drawn, method="random prompts", kind="random", seed=seed)
    everyone = build.migrate("all", {"sources": source}, seed, best_all)
    build.evaluate(everyone, method=ALL, kind="migrated", seed=seed)
    moved = {"all": everyone}
    for strategy in (PAPER_STRATEGY, "random"):
        chosen = (
            f"{build.dataset}/users by {strategy} {SMALL_SHARE:g} {seed}"
            if strategy == PAPER_STRATEGY and seed == build.options.seeds[0]
            else build.choose(source, strategy, SMALL_SHARE, seed)
        )
        needs: Needs = {"sources": source, "selection": chosen}
        some = build.migrate(f"{strategy} {SMALL_SHARE:g}", needs, seed, best_few)
        build.evaluate(some, method=few_by(strategy), kind="migrated", seed=seed)
        if strategy == PAPER_STRATEGY:
            moved["few"] = some
        else:
            mixed = build.migrate("shuffled", needs, seed, best_few, shuffled=True)
            build.evaluate(mixed, method="shuffled control", kind="shuffled", seed=seed)
    return moved


def _refined_settings(build: Builder, starts: dict[str, str]) -> dict[str, str | None]:
    """Settings of refining each of the first seed's migrations."""
    grid = CLICK_REFINE_GRID if build.dataset == CLICKS else REFINE_GRID
    settings = {"seed": build.options.seeds[0]}
    return {
        which: build.tuned(f"{which} refined", "refine", grid, settings, {"start": start})
        for which, start in starts.items()
    }


def _refined(
    build: Builder, seed: int, starts: dict[str, str], bests: dict[str, str | None]
) -> None:
    """Score what refining makes of one seed's migrations."""
    methods = {"all": ALL, "few": few_by(PAPER_STRATEGY)}
    for which, start in starts.items():
        again = build.add(
            f"{which} {seed} refined", "refine", {"seed": seed}, {"start": start}, bests[which]
        )
        build.evaluate(again, method=f"{methods[which]}, refined", kind="refined", seed=seed)


def _item_settings(build: Builder, start: str) -> tuple[str | None, str | None]:
    """Settings with prompts of items on the first seed: of full retraining, and of refining `start`."""
    seed = build.options.seeds[0]
    retrained = _retrained_with_items(build, seed)
    grid = CLICK_ITEM_GRID if build.dataset == CLICKS else ITEM_GRID
    again = build.tuned("retrained with items", "fit_prompts", grid, *retrained)
    settings = {"seed": seed, "item_tokens": 1}
    more = build.tuned("refined with items", "refine", grid, settings, {"start": start})
    return again, more


def _retrained_with_items(build: Builder, seed: int) -> tuple[dict[str, Any], Needs]:
    own: dict[str, Any] = {"backbone": build.options.target, "role": "retrained", "seed": seed}
    return own | {"prompt": {"item_tokens": 1}}, {"dataset": build.data}


def _with_items(
    build: Builder, seed: int, everyone: str, bests: tuple[str | None, str | None]
) -> None:
    """Prompts of items beside the users': in full retraining, and in refining a migration."""
    own, data = _retrained_with_items(build, seed)
    again = build.add(f"retrained with items {seed}", "fit_prompts", own, data, bests[0])
    build.evaluate(again, method="retrained, item prompts too", kind="retrained", seed=seed)
    settings = {"seed": seed, "item_tokens": 1}
    needs: Needs = {"start": everyone}
    more = build.add(f"all {seed} refined, items", "refine", settings, needs, bests[1])
    build.evaluate(more, method=f"{ALL}, refined with item prompts", kind="refined", seed=seed)


@each_dataset
def table3(build: Builder) -> None:
    """Cost against quality: PUMA over budgets, full retraining over epochs."""
    shares = build.options.shares or (0.01, 0.03, 0.07, 0.15, 0.3)
    rate, batch = CLICK_STEPS if build.dataset == CLICKS else RATING_STEPS
    build.baselines()
    for seed, source in build.sources(None).items():
        for epochs in (1, 2, 4, 10):
            settings = {"training": training(rate, batch, 0.3, epochs)}
            again = build.add(
                f"retrained {epochs} {seed}",
                "fit_prompts",
                {"backbone": build.options.target, "role": "retrained", "seed": seed} | settings,
                {"dataset": build.data},
            )
            method = f"retraining, {epochs} epoch{'s' if epochs > 1 else ''}"
            build.evaluate(again, method=method, kind="retrained", seed=seed)
        for share in shares:
            chosen = build.choose(source, "random", share, seed)
            needs: Needs = {"sources": source, "selection": chosen}
            few = build.migrate(f"random {share:g}", needs, seed, None)
            build.evaluate(few, method=f"PUMA, {share:.0%}", kind="migrated", seed=seed)
        every = build.migrate("all", {"sources": source}, seed, None)
        build.evaluate(every, method=ALL, kind="migrated", seed=seed)


@each_dataset
def table4(build: Builder) -> None:
    """Selection strategies over budgets (Table 4 and Figure 3), all of them or some beside random."""
    given = [get_strategy(name).name for name in build.options.strategies]
    strategies = dict.fromkeys(["random", *(given or STRATEGIES)])
    for seed, source in build.sources(None).items():
        for share in build.options.shares or SHARES:
            for strategy in strategies:
                if strategy == "all":
                    continue
                chosen = build.choose(source, strategy, share, seed)
                needs: Needs = {"sources": source, "selection": chosen}
                few = build.migrate(f"{strategy} {share:g}", needs, seed, None)
                facts = {"strategy": strategy, "share": share, "kind": "migrated"}
                build.evaluate(few, method=strategy, seed=seed, **facts)


FAMILIES = ("llama-medium", "qwen2-small", "gemma3-small", "phi3-small", "stablelm-small")


@each_dataset
def figure4(build: Builder) -> None:
    """Gains of every ordered pair of five backbones over retraining on the second."""
    for seed in build.options.seeds:
        tables = build.each_retrained(FAMILIES, seed)
        for origin in FAMILIES:
            for target in FAMILIES:
                if origin == target:
                    continue
                name, needs = f"{origin} to {target}", {"sources": tables[origin]}
                moved = build.migrate(name, dict(needs), seed, None, target=target)
                facts = {"origin": origin, "target": target, "kind": "migrated"}
                build.evaluate(moved, method="migrated", seed=seed, **facts)


@each_dataset
def figure5(build: Builder) -> None:
    """A chain over five backbones, and the direct migration to each of its ends."""
    for seed in build.options.seeds:
        first, *rest = FAMILIES
        source = hop = build.prompts("source", first, seed, None)
        for place, target in enumerate(rest, start=1):
            again = build.prompts("retrained", target, seed, None)
            facts = {"target": target, "hops": 0, "kind": "retrained"}
            build.evaluate(again, method="retrained", seed=seed, **facts)
            direct = build.migrate(
                f"direct {target}", {"sources": source}, seed, None, target=target
            )
            facts = {"target": target, "hops": 1, "kind": "migrated"}
            build.evaluate(direct, method="direct", seed=seed, **facts)
            if place == 1:
                hop = direct
                continue
            hop = build.migrate(f"hop {place}", {"sources": hop}, seed, None, target=target)
            facts = {"target": target, "hops": place, "kind": "migrated"}
            build.evaluate(hop, method="chain", seed=seed, **facts)


@each_dataset
def figure6(build: Builder) -> None:
    """All single sources, pairs and triples of three backbones to a fourth."""
    target = "phi3-small"
    for seed in build.options.seeds:
        names = ("llama-medium", "qwen2-small", "stablelm-small")
        tables = {one: build.prompts("source", one, seed, None) for one in names}
        again = build.prompts("retrained", target, seed, None)
        build.evaluate(again, method="retrained", kind="retrained", sources=0, seed=seed)
        for count in (1, 2, 3):
            for some in combinations(names, count):
                needs: Needs = {"sources": [tables[one] for one in some]}
                label = " + ".join(some)
                moved = build.migrate(label, needs, seed, None, target=target)
                facts = {"kind": "migrated", "sources": count}
                build.evaluate(moved, method=label, seed=seed, **facts)
