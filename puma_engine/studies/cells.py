"""What a study is made of: cells that need each other, each one run of the workspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from puma_engine.errors import ConfigError

Stage = Literal["import_dataset", "fit_prompts", "select", "migrate", "refine", "evaluate", "best"]
# Settings of a run that a cell may lend to another.
LENT = ("training", "prompt", "adapter")
Needs = dict[str, "str | list[str]"]


@dataclass(frozen=True)
class Options:
    """What a user may set of any study.

    shares are of all users, in (0, 1]; strategies of choosing users, none: all there are, where a
    study compares them; users None: all; fixed: no grids, but the settings that
    the project has by default.
    """

    datasets: tuple[str, ...] = ("goodbooks", "movietweetings", "goodbooks-to-read")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    shares: tuple[float, ...] = ()
    strategies: tuple[str, ...] = ()
    users: int | None = None
    source: str = "llama-small"
    target: str = "llama-medium"
    quick: bool = False
    fixed: bool = False

    def __post_init__(self) -> None:
        if not self.datasets or not self.seeds:
            raise ConfigError("A study needs at least one data set and one seed.")
        wrong = [share for share in self.shares if not 0 < share <= 1]
        if wrong:
            raise ConfigError(f"A budget is a share of all users in (0, 1], not {wrong[0]:g}.")


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    needs: the cells whose runs are arguments of the stage, by argument. like: a cell whose
    run lends its training, prompt and adapter settings. facts: of an evaluation, what its row
    says besides its scores; `seed` is one of them, and rows that differ in it alone belong
    together. The stage "best" is the one of its candidates with the lowest validation value.
    """

    name: str
    stage: Stage
    settings: dict[str, Any] = field(default_factory=dict)
    needs: Needs = field(default_factory=dict)
    like: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def waits_for(self) -> list[str]:
        """Names of all cells that must be done before."""
        names = [] if self.like is None else [self.like]
        for given in self.needs.values():
            names += [given] if isinstance(given, str) else given
        return names


@dataclass(frozen=True)
class Study:
    """A named list of cells, and how their rows are compared.

    reference: facts of the rows that all others of their data set (and of equal `within`
    facts) are compared with.
    """

    name: str
    about: str
    cells: Callable[[Options], list[Cell]]
    reference: dict[str, Any]
    within: Sequence[str] = ()
    quick: dict[str, Any] = field(default_factory=dict)
