"""The registry of named data sets: settings, files and importer of each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from puma_engine.datasets.dataset import Dataset, TaskName
from puma_engine.datasets.population import EVERYONE, Population
from puma_engine.datasets.reading.line_blocks import ReadProgress
from puma_engine.errors import ConfigError, DataError

DATA_VARIABLE = "PUMA_DATA"
S = TypeVar("S")


@dataclass(frozen=True)
class OriginalSettings:
    """Settings of a source that is read from its publisher's files; defaults are the paper's.

    Shares are in [0, 1]. Names that begin with max_ are upper bounds; 0 means no bound.
    max_bad_share: share of unusable lines above which a file is refused. Raises ConfigError that
    names all wrong settings.
    """

    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        wrong = []
        for item in dataclasses.fields(self):
            name, value = item.name, getattr(self, item.name)
            if isinstance(item.default, bool):
                if not isinstance(value, bool):
                    wrong.append(f"{name} must be true or false")
            elif not isinstance(value, int | float) or isinstance(value, bool):
                wrong.append(f"{name} must be a number, not {value!r}")
            elif isinstance(item.default, float):
                if not 0 <= value <= 1:
                    wrong.append(f"{name} must be from 0 to 1, not {value}")
            elif isinstance(value, float) or value < 0:
                wrong.append(f"{name} must be a whole number of 0 or more, not {value}")
        if wrong:
            raise ConfigError(f"{' and '.join(wrong)}.")


@dataclass(frozen=True)
class RatingSettings(OriginalSettings):
    """Filters of ratings, applied in this order.

    min_item_rows: items with fewer ratings are left out. min_rows: then users with fewer. max_rows:
    users with more keep their latest ratings.
    """

    min_rows: int = 20
    max_rows: int = 85
    min_item_rows: int = 0


@dataclass(frozen=True)
class ImportRequest:
    """The request to an importer.

    path: a folder, or for some sources one file. population: "product", "foundation" or
    everyone. users: size of a seeded sample; None takes all. files: the source's files by
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

    settings, locate: of sources that are not shipped: the class of their settings, and a
    function from a path, and the path of the items if given, to the files by role.
    """

    name: str
    task: TaskName
    family: str
    description: str
    read: Callable[[Source, ImportRequest], Dataset]
    settings: type[OriginalSettings] | None = None
    locate: Callable[[Path, Path | None], dict[str, Path]] | None = None

    @property
    def shipped(self) -> bool:
        """Whether the files ship with PUMA."""
        return self.settings is None


REGISTRY: dict[str, Source] = {}


def get_source(name: str) -> Source:
    """Return a source by name. Raises DataError for an unknown one."""
    if name not in REGISTRY:
        raise DataError(f"There is no data set {name!r}; choose one of {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def source_files(source: Source, path: Path, items_path: Path | None = None) -> dict[str, Path]:
    """Return the files that a source of original files reads, by role. Raises DataError."""
    assert source.locate is not None
    files = source.locate(path, items_path)
    for file in files.values():
        if not file.is_file():
            raise DataError(f"There is no file {file}; check the path.")
    return files


def settings_from(kind: type[S], source: str, values: Mapping[str, Any]) -> S:
    """Build a source's settings; None keeps a default. Raises ConfigError for an unknown name."""
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"The source {source!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}."
        )
    return kind(**{name: value for name, value in values.items() if value is not None})


def first_file(folder: Path, *names: str) -> Path:
    """Return the first of these files that is in a folder, plain or .gz. Raises DataError."""
    for name in names:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    raise DataError(f"{folder} holds no {' or '.join(names)} (.gz too); give the right folder.")


def plain_name(path: Path) -> str:
    """Return a file's name without .gz."""
    return path.name.removesuffix(".gz")


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
    of shipped sets only. users: size of a seeded sample (a smaller sample is part of a
    larger one); None takes all. seed: decides caps, splits, negatives and histories.
    items_path, progress, settings: of sets that are not shipped; see their settings class.
    Raises DataError or ConfigError.
    """
    progress = settings.pop("watch", progress)  # the deprecated name of `progress`
    source, path = get_source(name), Path(path)
    if users is not None and users < 1:
        raise DataError(
            f"{users} users were requested of {name!r}; ask for 1 or more, or leave it out."
        )
    if source.settings is None:
        if settings or items_path is not None:
            refused = ", ".join([*settings, *(["items_path"] if items_path is not None else [])])
            raise ConfigError(f"{refused}: the shipped set {name!r} takes no such settings.")
        return source.read(source, ImportRequest(path, population, users, seed))
    if population != "product":
        raise ConfigError(f"{name!r} is read whole: population is for shipped sets.")
    chosen = settings_from(source.settings, name, settings)
    files = source_files(source, path, None if items_path is None else Path(items_path))
    request = ImportRequest(path, EVERYONE, users, seed, files, chosen, progress)
    return source.read(source, request)


def load_shipped(
    name: str, *, population: Population = "product", users: int | None = None, seed: int = 0
) -> Dataset:
    """Read a named data set from the files that ship with PUMA; see import_folder."""
    source = get_source(name)
    if not source.shipped:
        raise DataError(f"{name!r} does not come with the checkout; give its original files.")
    folder = data_root() / source.family
    return import_folder(name, folder, population=population, users=users, seed=seed)


def data_root() -> Path:
    """Return the folder of the shipped data.

    PUMA_DATA names it. Without that it is `data/` of the checkout that holds this package, the
    copy inside an installed package, or `data/` of the current folder, whichever comes first.
    Raises DataError if there is none.
    """
    if named := os.environ.get(DATA_VARIABLE):
        root = Path(named).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{DATA_VARIABLE} names {root}, which is not a folder; set it to the folder data/ of "
                "a checkout, or unset it."
            )
        return root
    package = Path(__file__).resolve().parents[1]
    candidates = (package.parent / "data", package / "shipped" / "data", Path.cwd() / "data")
    for root in candidates:
        if (root / "goodbooks").is_dir() or (root / "zoo").is_dir():
            return root
    raise DataError(
        f"There are no shipped data in {' or '.join(map(str, candidates))}; run inside a "
        f"checkout, or set {DATA_VARIABLE} to its folder data/."
    )
