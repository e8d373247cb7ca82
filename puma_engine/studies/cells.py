"""The parts of a study: cells that depend on each other, each one run of the workspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from puma_engine.errors import ConfigError

Stage = Literal[
    "import_dataset",
    "vectors_from_baseline",
    "fit_prompts",
    "select",
    "migrate",
    "refine",
    "evaluate",
    "best",
]
# Settings in which candidates differ, and which other cells take from the best candidate.
TUNED_SETTINGS = ("training", "prompt", "adapter")
# Suffixes of template names by the order of a template.
ORDERS = {"prompt-first": "", "item-first": "-item-first", "prompt-last": "-prompt-last"}
Inputs = Mapping[str, "str | list[str]"]
# Options that some studies ignore, each with two values; a study uses an option if its cells differ from
# those with one of the values.
_TRIED: dict[str, tuple[Any, Any]] = {
    "shares": ((0.41,), (0.43,)),
    "strategies": (("loss",), ("variance",)),
    "source": ("llama-small", "qwen2-small"),
    "target": ("llama-medium", "phi3-small"),
    "order": ("item-first", "prompt-last"),
}
_FLAGS = {"shares": "share", "strategies": "strategy"}


@dataclass(frozen=True)
class Options:
    """Options of every study; the names are keys of the reports.

    datasets: names of shipped data sets, or SOURCE=PATH (`study_data`). seeds: of every training;
    candidates are tried with the first. shares: budgets as shares of all users, in (0, 1]; empty:
    those of the study. strategies: selection strategies of `table4`; empty: all of them. users:
    number drawn from each data set; None: all. source, target: backbones, if the study uses them.
    order: of the template, a key of ORDERS; None: the default of each task. quick: try only two
    candidates of each grid. fixed: train with the default settings instead of tuning them. Raises
    ConfigError for no data set, no seed, an unknown order, or a share outside (0, 1].
    """

    datasets: tuple[str, ...] = ("goodbooks", "movietweetings", "goodbooks-to-read")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    shares: tuple[float, ...] = ()
    strategies: tuple[str, ...] = ()
    users: int | None = None
    source: str = "llama-small"
    target: str = "llama-medium"
    order: str | None = None
    quick: bool = False
    fixed: bool = False

    def __post_init__(self) -> None:
        if not self.datasets or not self.seeds:
            raise ConfigError("A study needs at least one data set and one seed.")
        if self.order is not None and self.order not in ORDERS:
            raise ConfigError(
                f"There is no order {self.order!r} of the template; choose {', '.join(ORDERS)}."
            )
        invalid = [share for share in self.shares if not 0 < share <= 1]
        if invalid:
            raise ConfigError(f"A budget is a share of all users in (0, 1], not {invalid[0]:g}.")


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    name: unique within the study. stage: the pipeline stage that makes the run; "best" makes none:
    it is the run among its `candidates` with the lowest validation value. settings: arguments of
    the stage. inputs: cells whose runs are arguments of the stage, by argument. settings_from: a
    cell whose run's training, prompt and adapter settings are used; those in `settings` take
    precedence. labels: of an evaluation, the columns of its row in the report besides its scores.
    Rows whose labels differ only in `seed` are repetitions of one method. after: further cells that
    must finish first, because the stage looks their runs up in the workspace.
    """

    name: str
    stage: Stage
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)
    settings_from: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    @property
    def dependencies(self) -> list[str]:
        """Names of the cells that must finish before this one starts."""
        names = [*self.after] if self.settings_from is None else [self.settings_from, *self.after]
        for cells in self.inputs.values():
            names += [cells] if isinstance(cells, str) else cells
        return names


@dataclass(frozen=True)
class Study:
    """A named list of cells, and the reference that their rows are compared with.

    name: argument of `puma study`. description: the comparison in a few words. cells: returns the
    cells for options. reference: labels of the rows with which all others of their data set are
    compared. within: labels that a row and its reference must share. quick: options that `--quick`
    replaces.
    """

    name: str
    description: str
    cells: Callable[[Options], list[Cell]]
    reference: dict[str, Any]
    within: Sequence[str] = ()
    quick: dict[str, Any] = field(default_factory=dict)

    def check_used(self, options: Options) -> None:
        """Raise ConfigError for an option with another value than its default that the study does not use."""
        default = Options()
        for name, tried in _TRIED.items():
            value = getattr(options, name)
            if value == getattr(default, name):
                continue
            cells = self.cells(options)
            if all(self.cells(replace(options, **{name: other})) == cells for other in tried):
                flag = _FLAGS.get(name, name)
                raise ConfigError(
                    f"That --{flag} would change nothing in the study {self.name}; leave it out."
                )
