"""The studies: which cells the tables and figures of the paper are made of here."""

from __future__ import annotations

from typing import Any

from puma_engine.baselines import BASELINES
from puma_engine.errors import ConfigError
from puma_engine.selection import STRATEGIES
from puma_engine.study.cells import Cell, Needs, Options, Study

QUICK = {"users": 300, "seeds": (0, 1)}
SHARES = (0.01, 0.03, 0.07, 0.15, 0.3, 0.5)
SMALL_SHARE = 0.07


def training(rate: float, batch: int, decay: float = 0.01, epochs: int = 10) -> dict[str, Any]:
    """Settings of one candidate; all wait three epochs for a better validation value."""
    return {
        "learning_rate": rate,
        "batch_size": batch,
        "weight_decay": decay,
        "epochs": epochs,
        "patience": 3,
    }


# What each row of a comparison may choose from, on the validation split of the first seed.
PROMPT_GRID = [
    {"training": training(rate, batch, decay)}
    for rate, batch, decay in (
        (7e-3, 1024, 1.0),
        (1.5e-2, 1024, 0.1),
        (1.5e-2, 1024, 0.3),
        (1e-2, 256, 0.3),
        (2e-2, 256, 1.0),
    )
]
ALL_GRID = [
    {"training": training(1e-3, batch), "adapter": {"hidden": 1024, "noise": noise}}
    for batch, noise in ((2048, 0.1), (1024, 0.2), (256, 0.1), (256, 0.3))
]
FEW_GRID = [
    {"training": training(1e-3, batch, epochs=6), "adapter": {"hidden": 1024, "noise": noise}}
    for batch, noise in ((512, 0.3), (256, 0.3), (128, 0.3), (256, 0.5))
]
RANDOM = {"training": training(1e-2, 256, 0.0, epochs=3)}


class Builder:
    """Collects cells of one data set."""

    def __init__(self, options: Options, dataset: str) -> None:
        self.options, self.dataset = options, dataset
        self.cells: list[Cell] = []
        settings = {"source": dataset} | ({"users": options.users} if options.users else {})
        self.data = self.add("data", "import_dataset", settings)

    def add(
        self,
        name: str,
        stage: Any,
        settings: dict[str, Any] | None = None,
        needs: Needs | None = None,
        like: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> str:
        """Add one cell and return its full name."""
        full = f"{self.dataset}/{name}"
        self.cells.append(Cell(full, stage, settings or {}, needs or {}, like, facts or {}))
        return full

    def tuned(self, name: str, stage: str, grid: list[Any], settings: Any, needs: Needs) -> str:
        """Try every candidate of a grid; the cell that is returned is the best of them."""
        if self.options.quick:
            grid = grid[-2:]
        tries = [
            self.add(f"{name} candidate {number}", stage, settings | candidate, needs)
            for number, candidate in enumerate(grid)
        ]
        return self.add(f"{name} best", "best", needs={"candidates": tries})

    def prompts(self, role: str, backbone: str, seed: int, like: str | None, **more: Any) -> str:
        """Fit a prompt table."""
        settings = {"backbone": backbone, "role": role, "seed": seed} | more
        return self.add(
            f"{role} {backbone} {seed}", "fit_prompts", settings, {"dataset": self.data}, like
        )

    def sources(self, best: str | None) -> dict[int, str]:
        """Source prompts of every seed, with the settings of `best`."""
        backbone = self.options.source
        return {s: self.prompts("source", backbone, s, best) for s in self.options.seeds}

    def choose(self, source: str, strategy: str, share: float, seed: int) -> str:
        """Select users from source prompts."""
        settings = {"strategy": strategy, "share": share, "seed": seed}
        name = f"users by {strategy} {share:g} {seed}"
        return self.add(name, "select", settings, {"prompts": source})

    def migrate(self, name: str, needs: Needs, seed: int, like: str | None, **more: Any) -> str:
        """Migrate to the target, or to another backbone in `more`."""
        settings = {"target": self.options.target, "seed": seed} | more
        return self.add(f"{name} {seed}", "migrate", settings, needs, like)

    def evaluate(self, subject: str, **facts: Any) -> str:
        """Score a table on the test split."""
        facts = {"dataset": self.dataset} | facts
        return self.add(f"score of {subject}", "evaluate", {}, {"subject": subject}, facts=facts)

    def baselines(self) -> None:
        """Score the methods that need no language model."""
        for name in BASELINES:
            facts = {"dataset": self.dataset, "method": name, "kind": "baseline"}
            needs: Needs = {"dataset": self.data}
            self.add(f"score of {name}", "evaluate", {"subject": name}, needs, facts=facts)


def table2(options: Options) -> list[Cell]:
    """Main results: every method, tuned on the first seed, on every data set."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        build.baselines()
        first = options.seeds[0]
        on = {"role": "source", "backbone": options.source, "seed": first}
        data: Needs = {"dataset": build.data}
        best = build.tuned("source", "fit_prompts", PROMPT_GRID, on, data)
        on = {"role": "retrained", "backbone": options.target, "seed": first}
        best_again = build.tuned("retrained", "fit_prompts", PROMPT_GRID, on, data)
        sources = build.sources(best)
        to: dict[str, Any] = {"target": options.target, "seed": first}
        best_all = build.tuned("all", "migrate", ALL_GRID, to, {"sources": sources[first]})
        chosen = build.choose(sources[first], "kmeans-variance", SMALL_SHARE, first)
        few: Needs = {"sources": sources[first], "selection": chosen}
        best_few = build.tuned("few", "migrate", FEW_GRID, to, few)
        for seed, source in sources.items():
            _methods(build, seed, source, best_again, best_all, best_few)
        cells += build.cells
    return cells


def _methods(
    build: Builder, seed: int, source: str, best_again: str, best_all: str, best_few: str
) -> None:
    """Every method under one seed, scored."""
    target = build.options.target
    build.evaluate(source, method="source", kind="source", seed=seed)
    again = build.prompts("retrained", target, seed, best_again)
    build.evaluate(again, method="retrained", kind="retrained", seed=seed)
    drawn = build.prompts("random", target, seed, None, **RANDOM)
    build.evaluate(drawn, method="random prompts", kind="random", seed=seed)
    everyone = build.migrate("all", {"sources": source}, seed, best_all)
    build.evaluate(everyone, method="PUMA, all users", kind="migrated", seed=seed)
    for strategy in ("kmeans-variance", "random"):
        chosen = (
            f"{build.dataset}/users by {strategy} {SMALL_SHARE:g} {seed}"
            if strategy == "kmeans-variance" and seed == build.options.seeds[0]
            else build.choose(source, strategy, SMALL_SHARE, seed)
        )
        needs: Needs = {"sources": source, "selection": chosen}
        few = build.migrate(f"{strategy} {SMALL_SHARE:g}", needs, seed, best_few)
        method = f"PUMA, {SMALL_SHARE:.0%} ({strategy})"
        build.evaluate(few, method=method, kind="migrated", seed=seed)
        if strategy == "random":
            mixed = build.migrate("shuffled", needs, seed, best_few, shuffled=True)
            build.evaluate(mixed, method="shuffled control", kind="shuffled", seed=seed)


def table3(options: Options) -> list[Cell]:
    """Cost against quality: PUMA over budgets, full retraining over epochs."""
    cells: list[Cell] = []
    shares = options.shares or (0.01, 0.03, 0.07, 0.15, 0.3)
    for dataset in options.datasets:
        build = Builder(options, dataset)
        build.baselines()
        for seed, source in build.sources(None).items():
            for epochs in (1, 2, 4, 10):
                settings = {"training": training(1.5e-2, 1024, 0.3, epochs)}
                again = build.add(
                    f"retrained {epochs} {seed}",
                    "fit_prompts",
                    {"backbone": options.target, "role": "retrained", "seed": seed} | settings,
                    {"dataset": build.data},
                )
                method = f"retraining, {epochs} epochs"
                build.evaluate(again, method=method, kind="retrained", seed=seed)
            for share in shares:
                chosen = build.choose(source, "random", share, seed)
                needs: Needs = {"sources": source, "selection": chosen}
                few = build.migrate(f"random {share:g}", needs, seed, None)
                build.evaluate(few, method=f"PUMA, {share:.0%}", kind="migrated", seed=seed)
            every = build.migrate("all", {"sources": source}, seed, None)
            build.evaluate(every, method="PUMA, all users", kind="migrated", seed=seed)
        cells += build.cells
    return cells


def table4(options: Options) -> list[Cell]:
    """Selection strategies over budgets (Table 4 and Figure 3)."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        for seed, source in build.sources(None).items():
            for share in options.shares or SHARES:
                for strategy in STRATEGIES:
                    if strategy == "all":
                        continue
                    chosen = build.choose(source, strategy, share, seed)
                    needs: Needs = {"sources": source, "selection": chosen}
                    few = build.migrate(f"{strategy} {share:g}", needs, seed, None)
                    facts = {"strategy": strategy, "share": share, "kind": "migrated"}
                    build.evaluate(few, method=strategy, seed=seed, **facts)
        cells += build.cells
    return cells


FAMILIES = ("llama-medium", "qwen2-small", "gemma3-small", "phi3-small", "stablelm-small")


def figure4(options: Options) -> list[Cell]:
    """Gains of every ordered pair of five backbones over retraining on the second."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        for seed in options.seeds:
            tables = {one: build.prompts("source", one, seed, None) for one in FAMILIES}
            for one, table in tables.items():
                facts = {"origin": None, "target": one, "kind": "retrained"}
                build.evaluate(table, method="retrained", seed=seed, **facts)
            for origin in FAMILIES:
                for target in FAMILIES:
                    if origin == target:
                        continue
                    name, needs = f"{origin} to {target}", {"sources": tables[origin]}
                    moved = build.migrate(name, dict(needs), seed, None, target=target)
                    facts = {"origin": origin, "target": target, "kind": "migrated"}
                    build.evaluate(moved, method="migrated", seed=seed, **facts)
        cells += build.cells
    return cells


def figure5(options: Options) -> list[Cell]:
    """A chain over five backbones, and the direct migration to each of its ends."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        for seed in options.seeds:
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
        cells += build.cells
    return cells


def figure6(options: Options) -> list[Cell]:
    """All single sources, pairs and triples of three backbones to a fourth."""
    from itertools import combinations

    cells: list[Cell] = []
    target = "phi3-small"
    for dataset in options.datasets:
        build = Builder(options, dataset)
        for seed in options.seeds:
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
        cells += build.cells
    return cells


AGAINST_RETRAINING = {"method": "retrained"}
STUDIES = {
    study.name: study
    for study in (
        Study("table2", "Main results on every data set", table2, AGAINST_RETRAINING, quick=QUICK),
        Study(
            "table3",
            "Cost against quality, over budgets and epochs",
            table3,
            {"method": "retraining, 10 epochs"},
            quick=QUICK,
        ),
        Study(
            "table4",
            "Selection strategies over budgets (also Figure 3)",
            table4,
            {"method": "random"},
            within=("share",),
            quick=QUICK | {"shares": (0.1, 0.3)},
        ),
        Study(
            "figure4",
            "Gains of every pair of five backbones",
            figure4,
            AGAINST_RETRAINING,
            within=("target",),
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "figure5",
            "Chains of two to five backbones",
            figure5,
            {"method": "direct"},
            within=("target",),
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "figure6",
            "Several sources at once",
            figure6,
            AGAINST_RETRAINING,
            quick=QUICK | {"seeds": (0,)},
        ),
    )
}


def get_study(name: str) -> Study:
    """Return a study by name, or raise ConfigError that lists the names."""
    if name not in STUDIES:
        raise ConfigError(f"There is no study {name!r}; the studies are {', '.join(STUDIES)}.")
    return STUDIES[name]
