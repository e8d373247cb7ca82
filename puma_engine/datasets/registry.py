"""The named data sets and how each is read from its original files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puma_engine.datasets.dataset import Dataset, TaskName
from puma_engine.datasets.importers.source_settings import OriginalSettings, settings_from
from puma_engine.datasets.population import EVERYONE, Population
from puma_engine.datasets.reading.line_blocks import ReadProgress
from puma_engine.datasets.shipped_location import data_root
from puma_engine.errors import ConfigError, DataError


@dataclass(frozen=True)
class ImportRequest:
    """What is asked of an importer: which files, whose rows, how many users, which seed.

    path: a folder, or for some sources one file. files: what the source found there, by
    role. progress: called as reading advances.
    """

    path: Path
    population: str = "product"
    users: int | None = None
    seed: int = 0
    files: dict[str, Path] = field(default_factory=dict)
    settings: OriginalSettings | None = None
    progress: ReadProgress | None = None


@dataclass(frozen=True)
class Source:
    """A named data set; sources of one family share users, items, files and foundation users.

    settings and locate belong to sources that are not shipped: their settings, and which
    files they read at a path, given where the items are if that is not beside it.
    """

    name: str
    task: TaskName
    family: str
    about: str
    read: Callable[[Source, ImportRequest], Dataset]
    settings: type[OriginalSettings] | None = None
    locate: Callable[[Path, Path | None], dict[str, Path]] | None = None

    @property
    def shipped(self) -> bool:
        """Whether its files come with the checkout."""
        return self.settings is None


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


def source_files(source: Source, path: Path, items_path: Path | None = None) -> dict[str, Path]:
    """Return the files that a source of original files reads, by role. Raises DataError."""
    assert source.locate is not None
    found = source.locate(path, items_path)
    for file in found.values():
        if not file.is_file():
            raise DataError(f"There is no file {file}; check the path.")
    return found


def import_folder(
    name: str,
    path: str | Path,
    *,
    population: Population = "product",
    users: int | None = None,
    seed: int = 0,
    items_path: str | Path | None = None,
    progress: ReadProgress | None = None,
    **settings: Any,
) -> Dataset:
    """Read a named data set from its original files at path, a folder or one file.

    population: "product" users, or the "foundation" users set apart to pre-train the zoo;
    of shipped sets only. users: how many, a seeded choice (a smaller choice is part of a
    larger one); None takes all. seed: decides caps, splits, negatives and histories.
    items_path, progress, settings: of sets that are not shipped; see their settings class.
    Raises DataError or ConfigError.
    """
    progress = settings.pop("watch", progress)  # the deprecated name of `progress`
    source, place = get_source(name), Path(path)
    if users is not None and users < 1:
        raise DataError(
            f"{users} users were asked of {name!r}; ask for 1 or more, or leave it out."
        )
    if source.settings is None:
        if settings or items_path is not None:
            given = ", ".join([*settings, *(["items_path"] if items_path is not None else [])])
            raise ConfigError(f"{given}: the shipped set {name!r} takes no such settings.")
        return source.read(source, ImportRequest(place, population, users, seed))
    if population != "product":
        raise ConfigError(f"{name!r} is read whole: population is for shipped sets.")
    chosen = settings_from(source.settings, name, settings)
    files = source_files(source, place, None if items_path is None else Path(items_path))
    return source.read(source, ImportRequest(place, EVERYONE, users, seed, files, chosen, progress))


def load_shipped(
    name: str, *, population: Population = "product", users: int | None = None, seed: int = 0
) -> Dataset:
    """Read a named data set from the files that come with the checkout; see import_folder."""
    source = get_source(name)
    if not source.shipped:
        raise DataError(f"{name!r} does not come with the checkout; give its original files.")
    folder = data_root() / source.family
    return import_folder(name, folder, population=population, users=users, seed=seed)
