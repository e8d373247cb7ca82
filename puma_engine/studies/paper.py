"""The studies of the paper's tables and figures.

Zhao et al., "Don't Start Over: A Cost-Effective Framework for Migrating Personalized Prompts
Between LLMs", AAAI 2026, arXiv 2601.12034.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, permutations
from typing import Any

from puma_engine.defaults import DEFAULT_STRATEGIES, PAIRS_PER_USER, PAPER_STRATEGY
from puma_engine.selection.strategies import STRATEGIES, get_strategy
from puma_engine.studies.builder import (
    ALL_USERS,
    FEW_USERS_SEEDS,
    RETRAINED,
    SMALL_SHARE,
    WITHOUT_RECORDS,
    Builder,
    few_users,
    study,
)
from puma_engine.studies.cells import Inputs
from puma_engine.studies.grids import RANDOM_PROMPTS

FAMILIES = ("llama-medium", "qwen2-small", "gemma3-small", "phi3-small", "stablelm-small")
COST_SHARES = (0.01, 0.03, 0.07, 0.15, 0.3)
COST_EPOCHS = (1, 2, 4, 10)
SELECTION_SHARES = (0.01, 0.03, 0.07, 0.15, 0.3, 0.5)
# Shares of users in table2. The migration of the first is also refined, and its random users train the
# shuffled control.
FEW_USERS_SHARES = (SMALL_SHARE, 0.03, 0.01)
ITEM_PROMPTS: dict[str, Any] = {"item_tokens": 1}
# Number of factors of a matrix factorisation from which migrations start.
FACTORS = 32
FROM_FACTORS = "from MF factors"
FROM_ITEMS_TOO = f"{FROM_FACTORS} of items, too"


@study(
    "Main results on every data set",
    RETRAINED,
    quick={"users": 110, "seeds": (0,), "shares": (SMALL_SHARE,)},
)
def table2(build: Builder) -> None:
    """Add every method of Table 2, item prompts, migrations of other sources, and blends.

    Methods are tuned on the first seed, migrations that a few users train on the first two. Migrations
    that learn from predictions have the default settings, since tuning would read records. The main
    methods are also blended with matrix factorisation, which shows what prompts add to it.
    """
    grids, target, first = build.grids, build.options.target, build.options.seeds[0]
    shares = build.options.shares or FEW_USERS_SHARES
    strategies = list(dict.fromkeys([PAPER_STRATEGY, DEFAULT_STRATEGIES[build.task], "random"]))
    build.evaluate_baselines()
    best_source = build.tune_source()
    best_retrained = build.tune(
        "retrained",
        "fit_prompts",
        grids.prompts,
        {"backbone": target, "role": "retrained", "seed": first},
        {"dataset": build.data},
    )
    sources = build.sources(best_source)
    best_all = build.tune(
        "all",
        "migrate",
        grids.adapter,
        {"target": target, "seed": first},
        {"sources": sources[first]},
    )
    selected = {
        (seed, strategy, share): build.select(source, strategy, share, seed)
        for seed, source in sources.items()
        for share in shares
        for strategy in strategies
    }
    best_few = {share: _tune_few_users(build, sources, selected, share) for share in shares}
    migrated: dict[int, dict[str, str]] = {}
    for seed, source in sources.items():
        build.evaluate(source, method="source", kind="source", seed=seed)
        retrained = build.prompts("retrained", target, seed, best_retrained)
        build.evaluate(retrained, method="retrained", kind="retrained", seed=seed)
        random_prompts = build.prompts("random", target, seed, **RANDOM_PROMPTS)
        build.evaluate(random_prompts, method="random prompts", kind="random", seed=seed)
        all_users = build.migrate("all", source, seed, best_all)
        build.evaluate(all_users, method=ALL_USERS, kind="migrated", seed=seed)
        by_few_users = {}
        for share in shares:
            for strategy in strategies:
                users = selected[seed, strategy, share]
                by_few_users[strategy, share] = build.migrate(
                    f"{strategy} {share:g}", source, seed, best_few[share], users
                )
                method = few_users(strategy, share)
                build.evaluate(
                    by_few_users[strategy, share], method=method, kind="migrated", seed=seed
                )
        learned = build.migrate("from predictions", source, seed, from_predictions=PAIRS_PER_USER)
        build.evaluate(learned, method=WITHOUT_RECORDS, kind="migrated", seed=seed)
        random, share = selected[seed, "random", shares[0]], shares[0]
        shuffled = build.migrate("shuffled", source, seed, best_few[share], random, shuffled=True)
        build.evaluate(shuffled, method="shuffled control", kind="shuffled", seed=seed)
        migrated[seed] = {"all": all_users, "few": by_few_users[PAPER_STRATEGY, share]}
    methods = {"all": ALL_USERS, "few": few_users(PAPER_STRATEGY, shares[0])}
    _refine_migrated(build, migrated, methods)
    _fit_item_prompts(build, {seed: starts["all"] for seed, starts in migrated.items()})
    _migrate_factors(build, shares[0])
    names = ["retrained", "retrained, item prompts too", *methods.values()]
    build.evaluate_blends(
        "matrix_factorisation",
        [*names, f"{ALL_USERS}, refined", f"{ALL_USERS}, refined with item prompts"],
    )


def _tune_few_users(
    build: Builder,
    sources: Mapping[int, str],
    selected: Mapping[tuple[int, str, float], str],
    share: float,
) -> str | None:
    """Tune migrations that a share of users trains over several seeds, since one seed varies too much.

    sources: by seed. selected: users by seed, strategy and share.
    """
    return build.tune_over_seeds(
        "few" if share == SMALL_SHARE else f"few {share:g}",
        "migrate",
        build.grids.small_adapter,
        {"target": build.options.target},
        {
            seed: {"sources": sources[seed], "selection": selected[seed, PAPER_STRATEGY, share]}
            for seed in build.options.seeds[:FEW_USERS_SEEDS]
        },
    )


def _refine_migrated(
    build: Builder, migrated: Mapping[int, Mapping[str, str]], methods: Mapping[str, str]
) -> None:
    """Refine all users of each migration, tuned on the first seed. methods: names in reports."""
    first = build.options.seeds[0]
    best = {
        which: build.tune(
            f"{which} refined", "refine", build.grids.refining, {"seed": first}, {"start": start}
        )
        for which, start in migrated[first].items()
    }
    for seed, starts in migrated.items():
        for which, start in starts.items():
            refined = build.refine(f"{which} {seed} refined", start, seed, best[which])
            build.evaluate(refined, method=f"{methods[which]}, refined", kind="refined", seed=seed)


def _fit_item_prompts(build: Builder, migrated: Mapping[int, str]) -> None:
    """Fit item prompts with the full retraining, and with refined migrations, tuned on the first seed."""
    first, target, grid = build.options.seeds[0], build.options.target, build.grids.item_prompts
    retraining = {"backbone": target, "role": "retrained", "seed": first, "prompt": ITEM_PROMPTS}
    best_retrained = build.tune(
        "retrained with items", "fit_prompts", grid, retraining, {"dataset": build.data}
    )
    best_refined = build.tune(
        "refined with items",
        "refine",
        grid,
        {"seed": first} | ITEM_PROMPTS,
        {"start": migrated[first]},
    )
    for seed, start in migrated.items():
        retrained = build.fit(
            f"retrained with items {seed}",
            "retrained",
            target,
            seed,
            best_retrained,
            prompt=ITEM_PROMPTS,
        )
        build.evaluate(retrained, method="retrained, item prompts too", kind="retrained", seed=seed)
        name = f"all {seed} refined, items"
        refined = build.refine(name, start, seed, best_refined, **ITEM_PROMPTS)
        method = f"{ALL_USERS}, refined with item prompts"
        build.evaluate(refined, method=method, kind="refined", seed=seed)


def _migrate_factors(build: Builder, share: float) -> None:
    """Add migrations from matrix factorisation's vectors, tuned on the first seed.

    One kind starts from the vectors of users, trained on all users and on a share. The other also
    has the vectors of items, which were fitted on the records that the adapter learns from.
    """
    first, data = build.options.seeds[0], {"dataset": build.data}
    sources, with_items = (
        {
            seed: build.add(
                f"{name} {seed}",
                "vectors_from_baseline",
                {"factors": FACTORS, "seed": seed, "users_only": users_only},
                data,
            )
            for seed in build.options.seeds
        }
        for name, users_only in (("factors", True), ("factors of items, too", False))
    )
    settings = {"target": build.options.target, "seed": first}
    selections_of_few: dict[int, str | None] = {
        seed: build.select(source, PAPER_STRATEGY, share, seed, "factors")
        for seed, source in sources.items()
    }
    everyone: dict[int, str | None] = dict.fromkeys(selections_of_few)
    of_few = few_users(PAPER_STRATEGY, share)
    for method, vectors, grid, selections in (
        (f"{ALL_USERS}, {FROM_FACTORS}", sources, build.grids.adapter, everyone),
        (f"{of_few}, {FROM_FACTORS}", sources, build.grids.small_adapter, selections_of_few),
        (f"{ALL_USERS}, {FROM_ITEMS_TOO}", with_items, build.grids.adapter, everyone),
    ):
        selected = selections[first]
        inputs: Inputs = {"sources": vectors[first]} | ({"selection": selected} if selected else {})
        best = build.tune(method, "migrate", grid, settings, inputs)
        for seed, selected in selections.items():
            migrated = build.migrate(method, vectors[seed], seed, best, selected)
            build.evaluate(migrated, method=method, kind="migrated", seed=seed)


@study("Cost against quality, over budgets and epochs", {"method": "retraining, 10 epochs"})
def table3(build: Builder) -> None:
    """Add PUMA over budgets and full retraining over epochs (Table 3)."""
    build.evaluate_baselines()
    for seed, source in build.sources().items():
        for epochs in COST_EPOCHS:
            settings = build.grids.retraining_for(epochs)
            target = build.options.target
            name = f"retrained {epochs} {seed}"
            retrained = build.fit(name, "retrained", target, seed, **settings)
            method = f"retraining, {epochs} epoch{'s' if epochs > 1 else ''}"
            build.evaluate(retrained, method=method, kind="retrained", seed=seed)
        for share in build.options.shares or COST_SHARES:
            selected = build.select(source, "random", share, seed)
            migrated = build.migrate(f"random {share:g}", source, seed, selection=selected)
            build.evaluate(migrated, method=f"PUMA, {share:.0%}", kind="migrated", seed=seed)
        all_users = build.migrate("all", source, seed)
        build.evaluate(all_users, method=ALL_USERS, kind="migrated", seed=seed)


@study(
    "Selection strategies over budgets (also Figure 3)",
    {"method": "random"},
    within=("share",),
    quick={"shares": (0.1, 0.3)},
)
def table4(build: Builder) -> None:
    """Add all selection strategies, or random and the given ones, over budgets (Table 4)."""
    requested = [get_strategy(name).name for name in build.options.strategies]
    strategies = dict.fromkeys(["random", *(requested or STRATEGIES)])
    for seed, source in build.sources().items():
        for share in build.options.shares or SELECTION_SHARES:
            for strategy in strategies:
                if strategy == "all":
                    continue
                selected = build.select(source, strategy, share, seed)
                migrated = build.migrate(f"{strategy} {share:g}", source, seed, selection=selected)
                labels = {"strategy": strategy, "share": share, "kind": "migrated"}
                build.evaluate(migrated, method=strategy, seed=seed, **labels)


@study(
    "Gains of every pair of five backbones",
    RETRAINED,
    within=("target",),
    quick={"seeds": (0,)},
)
def figure4(build: Builder) -> None:
    """Add a migration for every ordered pair of backbones of five families (Figure 4)."""
    for seed in build.options.seeds:
        tables = build.source_and_retraining(FAMILIES, seed)
        for origin, target in permutations(FAMILIES, 2):
            migrated = build.migrate(f"{origin} to {target}", tables[origin], seed, target=target)
            labels = {"origin": origin, "target": target, "kind": "migrated"}
            build.evaluate(migrated, method="migrated", seed=seed, **labels)


@study(
    "Chains of two to five backbones",
    {"method": "direct"},
    within=("target",),
    quick={"seeds": (0,)},
)
def figure5(build: Builder) -> None:
    """Add a chain over five backbones, and direct migrations to its hops (Figure 5).

    With a target of no family in FAMILIES, the chain has two of them and ends at that target.
    """
    target = build.options.target
    first, *rest = FAMILIES if target in FAMILIES else (*FAMILIES[:2], target)
    for seed in build.options.seeds:
        source = previous = build.prompts("source", first, seed)
        for hops, target in enumerate(rest, start=1):
            retrained = build.prompts("retrained", target, seed)
            labels = {"target": target, "hops": 0, "kind": "retrained"}
            build.evaluate(retrained, method="retrained", seed=seed, **labels)
            direct = build.migrate(f"direct {target}", source, seed, target=target)
            labels = {"target": target, "hops": 1, "kind": "migrated"}
            build.evaluate(direct, method="direct", seed=seed, **labels)
            if hops == 1:
                previous = direct
                continue
            previous = build.migrate(f"hop {hops}", previous, seed, target=target)
            labels = {"target": target, "hops": hops, "kind": "migrated"}
            build.evaluate(previous, method="chain", seed=seed, **labels)


@study("Several sources at once", RETRAINED, quick={"seeds": (0,)})
def figure6(build: Builder) -> None:
    """Add every one, two and three of three source backbones to a fourth (Figure 6)."""
    target, origins = "phi3-small", ("llama-medium", "qwen2-small", "stablelm-small")
    for seed in build.options.seeds:
        tables = {origin: build.prompts("source", origin, seed) for origin in origins}
        retrained = build.prompts("retrained", target, seed)
        build.evaluate(retrained, method="retrained", kind="retrained", sources=0, seed=seed)
        for count in (1, 2, 3):
            for group in combinations(origins, count):
                method = " + ".join(group)
                sources = [tables[origin] for origin in group]
                migrated = build.migrate(method, sources, seed, target=target)
                labels = {"kind": "migrated", "sources": count}
                build.evaluate(migrated, method=method, seed=seed, **labels)
