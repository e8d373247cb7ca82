"""What the studies share: candidate settings, and a collector of the cells of one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from puma_engine.evaluation.baselines import BASELINES
from puma_engine.studies.cells import Cell, Needs, Options

SHARES = (0.01, 0.03, 0.07, 0.15, 0.3, 0.5)
SMALL_SHARE = 0.07
# How reports name a migration of all users.
ALL = "PUMA, all users"
# Seeds whose migrations choose the settings of source prompts.
SOURCE_SEEDS = 2


def training(rate: float, batch: int, decay: float = 0.01, epochs: int = 10) -> dict[str, Any]:
    """Settings of one candidate; it waits three epochs for a better validation value."""
    return {
        "learning_rate": rate,
        "batch_size": batch,
        "weight_decay": decay,
        "epochs": epochs,
        "patience": 3,
    }


def migrating(rate: float, batch: int, noise: float, epochs: int = 10) -> dict[str, Any]:
    """Settings of one candidate for adapters."""
    how = training(rate, batch, epochs=epochs)
    return {"training": how, "adapter": {"hidden": 1024, "noise": noise}}


def waiting(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the candidates without patience: from clicks some learn nothing for epochs, and then much."""
    return [one | {"training": one["training"] | {"patience": 0}} for one in candidates]


# What each row of a comparison may choose from, on the validation split of the first seed.
PROMPT_GRID = [
    {"training": training(rate, batch, decay, epochs)}
    for rate, batch, decay, epochs in (
        (1.5e-2, 1024, 0.0, 20),
        (7e-3, 1024, 1.0, 10),
        (1.5e-2, 1024, 0.1, 10),
        (1e-2, 256, 0.3, 10),
        (1.5e-2, 1024, 0.3, 10),
        (2e-2, 256, 1.0, 10),
    )
]
ALL_GRID = [
    migrating(rate, batch, noise)
    for rate, batch, noise in (
        (1e-3, 1024, 0.2),
        (2e-3, 256, 0.2),
        (1e-3, 256, 0.2),
        (1e-3, 128, 0.3),
        (1e-3, 256, 0.3),
    )
]
# The last candidate for few users is what the project has by default, whose batches follow their number.
FEW_GRID: list[dict[str, Any]] = [
    migrating(1e-3, batch, noise, epochs=6)
    for batch, noise in ((512, 0.3), (256, 0.3), (256, 0.5), (128, 0.3))
] + [{}]
ITEM_GRID = [
    {"training": training(1.5e-2, batch, decay, epochs)}
    for batch, decay, epochs in (
        (512, 3.0, 12),
        (256, 2.0, 10),
        (1024, 1.0, 10),
        (512, 1.0, 10),
        (1024, 1.0, 6),
    )
]
# Of refining migrated prompts, the last is what the project has by default, the shortest.
REFINE_GRID: list[dict[str, Any]] = [
    {"training": training(rate, batch, decay, epochs)}
    for rate, batch, decay, epochs in (
        (3e-3, 1024, 0.1, 6),
        (1e-2, 256, 0.3, 6),
        (1.5e-2, 1024, 0.3, 10),
        (1.5e-2, 1024, 0.15, 10),
        (6e-3, 1024, 0.1, 3),
    )
] + [{}]
# Clicks say less than ratings, so that adapters need more passes over them. Here, too, the last is
# what the project has by default.
CLICK_GRID: list[dict[str, Any]] = [
    *waiting(
        [
            migrating(rate, batch, noise, epochs=25)
            for rate, batch, noise in (
                (1e-4, 64, 0.3),
                (1e-3, 256, 0.2),
                (1e-3, 256, 0.3),
                (3e-4, 256, 0.3),
            )
        ]
    ),
    {},
]
CLICK_FEW_GRID: list[dict[str, Any]] = [
    *waiting(
        [
            migrating(rate, batch, 0.3, epochs=25)
            for rate, batch in ((1e-3, 256), (3e-4, 128), (1e-4, 64), (1e-4, 32))
        ]
    ),
    {},
]
CLICK_REFINE_GRID: list[dict[str, Any]] = [
    *waiting(
        [
            {"training": training(rate, 256, decay, epochs)}
            for rate, decay, epochs in (
                (7e-3, 0.3, 20),
                (7e-3, 0.0, 10),
                (1.5e-2, 0.3, 10),
                (7e-3, 0.3, 10),
                (3e-3, 0.1, 10),
            )
        ]
    ),
    {},
]
# With large batches some seeds of source prompts learn nothing from clicks.
CLICK_PROMPT_GRID: list[dict[str, Any]] = [
    *waiting([{"training": training(7e-3, 256, decay, 20)} for decay in (0.0, 0.3)]),
    *waiting(PROMPT_GRID),
    {},
]
CLICK_ITEM_GRID = waiting(ITEM_GRID)
CLICKS = "goodbooks-to-read"
RANDOM = {"training": training(1e-2, 256, 0.0, epochs=3)}


def few_by(strategy: str) -> str:
    """Return how reports name a migration that was trained on few users, chosen like this."""
    return f"PUMA, {SMALL_SHARE:.0%} ({strategy})"


class Builder:
    """Collects cells of one data set."""

    def __init__(self, options: Options, dataset: str) -> None:
        self.options, self.dataset = options, dataset
        self.cells: list[Cell] = []
        settings = {"source": dataset} | ({"users": options.users} if options.users else {})
        self.data = self.add("data", "import_dataset", settings)

    @property
    def prompt_grid(self) -> list[dict[str, Any]]:
        """Candidates of prompts that are fitted, sources or retrained."""
        return CLICK_PROMPT_GRID if self.dataset == CLICKS else PROMPT_GRID

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

    def tuned(
        self, name: str, stage: str, grid: list[Any], settings: Any, needs: Needs
    ) -> str | None:
        """Try every candidate of a grid; the cell that is returned is the best of them."""
        if self.options.fixed:
            return None
        tries = self._tries(name, stage, grid, settings, needs)
        return self.add(f"{name} best", "best", needs={"candidates": tries})

    def _tries(self, name: str, stage: str, grid: list[Any], own: Any, needs: Needs) -> list[str]:
        grid = grid[-2:] if self.options.quick else grid
        return [
            self.add(f"{name} candidate {number}", stage, own | candidate, needs)
            for number, candidate in enumerate(grid)
        ]

    def tuned_source(self, how: dict[str, Any]) -> str | None:
        """Try every candidate of source prompts; the best is the one that migrates best.

        how: settings of the migrations on all users that decide it, by their mean over the
        first seeds: one training alone may have stayed at chance.
        """
        if self.options.fixed:
            return None
        seeds = self.options.seeds[:SOURCE_SEEDS]
        moved = {seed: self._moved(seed, how) for seed in seeds}
        candidates = [one for together in zip(*moved.values(), strict=True) for one in together]
        settings = {"of": "source_0", "each": len(seeds)}
        return self.add("source best", "best", settings, {"candidates": candidates})

    def _moved(self, seed: int, how: dict[str, Any]) -> list[str]:
        """Migrations on all users from every candidate of source prompts."""
        on = {"role": "source", "backbone": self.options.source, "seed": seed}
        name = f"source {seed}"
        return [
            self.migrate(f"all from source candidate {number}", {"sources": one}, seed, None, **how)
            for number, one in enumerate(
                self._tries(name, "fit_prompts", self.prompt_grid, on, {"dataset": self.data})
            )
        ]

    def prompts(self, role: str, backbone: str, seed: int, like: str | None, **more: Any) -> str:
        """Fit a prompt table."""
        settings = {"backbone": backbone, "role": role, "seed": seed} | more
        return self.add(
            f"{role} {backbone} {seed}", "fit_prompts", settings, {"dataset": self.data}, like
        )

    def each_retrained(self, backbones: Sequence[str], seed: int) -> dict[str, str]:
        """Fit prompts on each backbone: sources for the others, scored as its full retraining."""
        tables = {one: self.prompts("source", one, seed, None) for one in backbones}
        for one, table in tables.items():
            facts = {"origin": None, "target": one, "kind": "retrained"}
            self.evaluate(table, method="retrained", seed=seed, **facts)
        return tables

    def sources(self, best: str | None) -> dict[int, str]:
        """Source prompts of every seed, with the settings of `best`."""
        backbone = self.options.source
        return {s: self.prompts("source", backbone, s, best) for s in self.options.seeds}

    def choose(
        self, source: str, strategy: str, share: float, seed: int, origin: str | None = None
    ) -> str:
        """Select users from source prompts; origin tells several sources of a study apart."""
        settings = {"strategy": strategy, "share": share, "seed": seed}
        name = f"users by {strategy} {share:g} {seed}" + (f" on {origin}" if origin else "")
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


def each_dataset(part: Callable[[Builder], None]) -> Callable[[Options], list[Cell]]:
    """Make a study of what adds the cells of one data set."""

    @wraps(part)
    def cells(options: Options) -> list[Cell]:
        found: list[Cell] = []
        for dataset in options.datasets:
            build = Builder(options, dataset)
            part(build)
            found += build.cells
        return found

    return cells
