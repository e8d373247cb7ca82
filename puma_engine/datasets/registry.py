"""The named data sets and how each is read from its folder of original files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from puma_engine.datasets.base import Dataset, TaskName
from puma_engine.datasets.location import data_root
from puma_engine.datasets.population import Population
from puma_engine.errors import DataError


@dataclass(frozen=True)
class Request:
    """What is asked of an importer: the folder, whose rows, how many users, which seed."""

    folder: Path
    population: Population = "product"
    users: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """A named data set; sources of one family share users, items, files and foundation users."""

    name: str
    task: TaskName
    family: str
    about: str
    read: Callable[[Source, Request], Dataset]


REGISTRY: dict[str, Source] = {}


def register(source: Source) -> Source:
    """Add a source; it stands beside its importer."""
    REGISTRY[source.name] = source
    return source


def get_source(name: str) -> Source:
    """Return a source by name. Raises DataError for an unknown one."""
    if name not in REGISTRY:
        raise DataError(f"There is no data set {name!r}; choose one of {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def import_folder(
    name: str,
    folder: str | Path,
    *,
    population: Population = "product",
    users: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a named data set from a folder of its original files (Parquet or CSV).

    population: "product" users, or the "foundation" users set apart to pre-train the zoo.
    users: how many of them, a seeded choice (a smaller choice is part of a larger one);
    None takes all. seed: decides caps, splits, negatives and histories. Raises DataError.
    """
    return get_source(name).read(
        get_source(name), Request(Path(folder), population=population, users=users, seed=seed)
    )


def load_shipped(
    name: str, *, population: Population = "product", users: int | None = None, seed: int = 0
) -> Dataset:
    """Read a named data set from the files that come with the checkout; see import_folder."""
    folder = data_root() / get_source(name).family
    return import_folder(name, folder, population=population, users=users, seed=seed)
