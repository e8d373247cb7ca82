"""Declare studies: a function adds the cells for one data set to a builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puma_engine.evaluation.baselines import BASELINES
from puma_engine.studies.cells import ORDERS, Cell, Inputs, Options, Stage, Study
from puma_engine.studies.grids import Candidate, grids_for
from puma_engine.studies.study_data import study_data

SMALL_SHARE = 0.07
# Name in reports of a migration that is trained on all users.
ALL_USERS = "PUMA, all users"
# Name of a migration trained on the source model's predictions, which reads no outcome of a user.
WITHOUT_RECORDS = f"{ALL_USERS}, from predictions"
# Suffix of the name of a method whose predictions are blended with a baseline's.
BLENDED = "blended with MF"
# Candidates of source prompts are compared by their mean over so many seeds, since a single training may
# fail to learn.
SOURCE_SEEDS = 2
# The same for migrations that a few users train.
FEW_USERS_SEEDS = 2
QUICK = {"users": 200, "seeds": (0, 1)}
RETRAINED = {"method": "retrained"}


def few_users(strategy: str, share: float = SMALL_SHARE) -> str:
    """Return the name in reports of a migration trained on a share of users that a strategy selected."""
    return f"PUMA, {share:.0%} ({strategy})"


class Builder:
    """Collects the cells for one data set. Methods that add a cell return its full name."""

    def __init__(self, options: Options, dataset: str) -> None:
        data = study_data(dataset)
        self.options, self.dataset, self.task = options, data.name, data.task
        self.grids = grids_for(self.task, options.target)
        self.cells: list[Cell] = []
        settings = data.settings | ({"users": options.users} if options.users else {})
        self.data = self.add("data", "import_dataset", settings)

    def add(
        self,
        name: str,
        stage: Stage,
        settings: dict[str, Any] | None = None,
        inputs: Inputs | None = None,
        settings_from: str | None = None,
        labels: dict[str, Any] | None = None,
        after: tuple[str, ...] = (),
    ) -> str:
        """Add one cell."""
        name = f"{self.dataset}/{name}"
        if stage == "fit_prompts" and self.options.order is not None:
            template = f"{self.task}{ORDERS[self.options.order]}"
            settings = {"template": template} | (settings or {})
        self.cells.append(
            Cell(name, stage, settings or {}, inputs or {}, settings_from, labels or {}, after)
        )
        return name

    def fit(
        self,
        name: str,
        role: str,
        backbone: str,
        seed: int,
        settings_from: str | None = None,
        **settings: Any,
    ) -> str:
        """Fit prompts on a backbone, as source prompts, full retraining or random prompts."""
        settings = {"backbone": backbone, "role": role, "seed": seed} | settings
        return self.add(name, "fit_prompts", settings, {"dataset": self.data}, settings_from)

    def prompts(self, role: str, backbone: str, seed: int, *args: Any, **settings: Any) -> str:
        """Fit prompts of a role, with a name made from role, backbone and seed; other arguments as for `fit`."""
        return self.fit(f"{role} {backbone} {seed}", role, backbone, seed, *args, **settings)

    def sources(self, settings_from: str | None = None) -> dict[int, str]:
        """Fit source prompts with every seed; return the cells by seed."""
        backbone = self.options.source
        return {
            seed: self.prompts("source", backbone, seed, settings_from)
            for seed in self.options.seeds
        }

    def source_and_retraining(self, backbones: Sequence[str], seed: int) -> dict[str, str]:
        """Fit prompts on each backbone, as sources for the others; score them as full retraining."""
        tables = {backbone: self.prompts("source", backbone, seed) for backbone in backbones}
        for backbone, table in tables.items():
            labels = {"origin": None, "target": backbone, "kind": "retrained"}
            self.evaluate(table, method="retrained", seed=seed, **labels)
        return tables

    def select(
        self, source: str, strategy: str, share: float, seed: int, origin: str | None = None
    ) -> str:
        """Select users from source prompts. origin: their backbone, if a study has several."""
        settings = {"strategy": strategy, "share": share, "seed": seed}
        name = f"users by {strategy} {share:g} {seed}" + (f" on {origin}" if origin else "")
        return self.add(name, "select", settings, {"prompts": source})

    def migrate(
        self,
        name: str,
        source: str | list[str],
        seed: int,
        settings_from: str | None = None,
        selection: str | None = None,
        **settings: Any,
    ) -> str:
        """Migrate source prompts to the target or, in settings, another backbone.

        selection: the cell that selects the users who train the adapter; None: all users train it.
        """
        settings = {"target": self.options.target, "seed": seed} | settings
        inputs: Inputs = {"sources": source} | ({"selection": selection} if selection else {})
        return self.add(f"{name} {seed}", "migrate", settings, inputs, settings_from)

    def refine(
        self,
        name: str,
        start: str,
        seed: int,
        settings_from: str | None = None,
        selection: str | None = None,
        **settings: Any,
    ) -> str:
        """Fit migrated prompts further: those of all users, of a selection, or of a share."""
        inputs = {"start": start} | ({"selection": selection} if selection else {})
        return self.add(name, "refine", {"seed": seed} | settings, inputs, settings_from)

    def evaluate(
        self,
        prompts: str,
        name: str | None = None,
        settings: dict[str, Any] | None = None,
        /,
        **labels: Any,
    ) -> str:
        """Score prompts on the test split.

        name: of the cell, if prompts are scored more than once. settings: of the evaluation.
        """
        labels = {"dataset": self.dataset} | labels
        name = f"score of {prompts if name is None else name}"
        return self.add(name, "evaluate", settings, {"subject": prompts}, labels=labels)

    def evaluate_baselines(self) -> None:
        """Score the methods without a language model."""
        for name in BASELINES:
            labels = {"dataset": self.dataset, "method": name, "kind": "baseline"}
            data = {"dataset": self.data}
            self.add(f"score of {name}", "evaluate", {"subject": name}, data, labels=labels)

    def evaluate_blends(self, baseline: str, methods: Sequence[str]) -> None:
        """Score methods blended with a baseline; both have been scored alone."""
        on_validation = self.add(
            f"validation of {baseline}",
            "evaluate",
            {"subject": baseline, "split": "validation"},
            {"dataset": self.data},
        )
        prerequisites = f"{self.dataset}/score of {baseline}", on_validation
        for scored in [cell for cell in self.cells if cell.labels.get("method") in methods]:
            labels = scored.labels | {
                "method": f"{scored.labels['method']}, {BLENDED}",
                "kind": "blended",
            }
            name = f"{scored.name.removeprefix(f'{self.dataset}/')}, {BLENDED}"
            settings = {"blend": baseline}
            self.add(
                name,
                "evaluate",
                settings,
                scored.inputs,
                None,
                labels,
                (scored.name, *prerequisites),
            )

    def tune(
        self,
        name: str,
        stage: Stage,
        grid: list[Candidate],
        settings: dict[str, Any],
        inputs: Inputs,
    ) -> str | None:
        """Try every candidate of a grid; return the best, or None with fixed settings."""
        if self.options.fixed:
            return None
        candidates = self._candidates(name, stage, grid, settings, inputs)
        return self.add(f"{name} best", "best", inputs={"candidates": candidates})

    def tune_over_seeds(
        self,
        name: str,
        stage: Stage,
        grid: list[Candidate],
        settings: dict[str, Any],
        inputs: Mapping[int, Inputs],
    ) -> str | None:
        """Try every candidate with every seed; return the one with the best mean, or None with fixed settings.

        inputs: of the candidates of each seed.
        """
        if self.options.fixed:
            return None
        runs = [
            self._candidates(f"{name} {seed}", stage, grid, settings | {"seed": seed}, seed_inputs)
            for seed, seed_inputs in inputs.items()
        ]
        return self._best_by_mean(name, runs)

    def _best_by_mean(
        self, name: str, runs: list[list[str]], settings: dict[str, Any] | None = None
    ) -> str:
        """Return the candidate with the best mean over seeds. runs: for each seed, by candidate."""
        candidates = [run for candidate_runs in zip(*runs, strict=True) for run in candidate_runs]
        settings = (settings or {}) | {"runs_per_candidate": len(runs)}
        return self.add(f"{name} best", "best", settings, {"candidates": candidates})

    def tune_source(self) -> str | None:
        """Try every candidate of source prompts; return the one whose migrations are best.

        Candidates are compared by the validation value of migrations trained on all users, in the
        mean over the first seeds.
        """
        if self.options.fixed:
            return None
        seeds = self.options.seeds[:SOURCE_SEEDS]
        migrations = []
        for seed in seeds:
            settings = {"role": "source", "backbone": self.options.source, "seed": seed}
            grid, data = self.grids.source, {"dataset": self.data}
            sources = self._candidates(f"source {seed}", "fit_prompts", grid, settings, data)
            name, trained = "all from source candidate", self.grids.source_migration
            migrations.append(
                [
                    self.migrate(f"{name} {number}", source, seed, **trained)
                    for number, source in enumerate(sources)
                ]
            )
        return self._best_by_mean("source", migrations, {"take_input": "source_0"})

    def _candidates(
        self,
        name: str,
        stage: Stage,
        grid: list[Candidate],
        settings: dict[str, Any],
        inputs: Inputs,
    ) -> list[str]:
        grid = grid[-2:] if self.options.quick else grid
        return [
            self.add(f"{name} candidate {number}", stage, settings | candidate, inputs)
            for number, candidate in enumerate(grid)
        ]


def study(
    description: str,
    reference: dict[str, Any],
    *,
    within: Sequence[str] = (),
    quick: dict[str, Any] | None = None,
) -> Callable[[Callable[[Builder], None]], Study]:
    """Declare a study by the function that adds the cells of one data set.

    The study has the function's name; for the other arguments see `Study`.
    """

    def declare(add_cells: Callable[[Builder], None]) -> Study:
        def cells(options: Options) -> list[Cell]:
            cells: list[Cell] = []
            for dataset in options.datasets:
                builder = Builder(options, dataset)
                add_cells(builder)
                cells += builder.cells
            return cells

        name = add_cells.__name__
        return Study(name, description, cells, reference, within, QUICK | (quick or {}))

    return declare
