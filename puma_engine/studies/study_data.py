"""The data set of a study: one that ships, or original files in the layout of a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_engine.datasets.registry import REGISTRY, get_source
from puma_engine.errors import ConfigError

# Sources for a user's own table, by its task.
TABLES = ("rating", "click")


@dataclass(frozen=True)
class StudyData:
    """The data set that a study imports. name: in the report; task: rating or click; settings: of the import."""

    name: str
    task: str
    settings: dict[str, Any]


def study_data(text: str) -> StudyData:
    """Return a data set by the name of a shipped one, or by SOURCE=PATH.

    SOURCE: amazon, amazon-2018, yelp, mind or movielens, whose original files are at the path; or
    rating or click, for a table at the path. Raises DataError for an unknown name, ConfigError for an
    unknown source or a path that does not exist.
    """
    source, separator, path = text.partition("=")
    if not separator:
        return StudyData(text, get_source(text).task, {"source": text})
    sources = [name for name, source_info in REGISTRY.items() if not source_info.shipped]
    if source not in (*sources, *TABLES):
        raise ConfigError(
            f"{text!r} names no source of original files; write SOURCE=PATH with one of "
            f"{', '.join([*sources, *TABLES])}."
        )
    folder = Path(path).expanduser()
    if not path or not folder.exists():
        raise ConfigError(
            f"There is nothing at {path!r}; give the path of the files as {source}=PATH."
        )
    stem = folder.resolve().name.split(".")[0]
    # Never the name of a shipped data set, since its rows would count as evidence on that.
    name = stem if stem.startswith(source) else f"{source}-{stem}"
    if source in TABLES:
        return StudyData(name, source, {"source": "table", "path": str(folder), "task": source})
    return StudyData(name, get_source(source).task, {"source": source, "path": str(folder)})
