"""The class Run, checks of its fields, and JSON values."""

import contextlib
import functools
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puma_engine.errors import StoreError
from puma_engine.version import __version__

KINDS = (
    "dataset",
    "backbone",
    "prompts",
    "selection",
    "migration",
    "evaluation",
    "comparison",
    "projection",
    "anchors",
    "calibration",
)
# damaged: the rows of the run in the database have changed.
STATUSES = ("running", "finished", "failed", "interrupted", "damaged")
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pandas", "sqlite-utils")
RUN_ID = re.compile(r"[0-9a-f]{16}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MAX_NAME = 200
# The key in the summary of a run that comes from a published archive.
PUBLISHED = "published"


@dataclass(frozen=True)
class Run:
    """One run of a stage. Times are ISO 8601 in UTC; seconds is the measured work.

    status: running, finished, failed, interrupted (its process ended first) or damaged. config: the
    settings that decide the result; inputs: run ids by role; cost: resources other than time, such
    as users_trained; summary: the results.
    """

    id: str
    kind: str
    name: str
    status: str
    config: dict[str, Any]
    inputs: dict[str, str]
    seed: int | None
    versions: dict[str, str]
    device: str | None
    created: str
    started: str
    finished: str | None
    seconds: float | None
    cost: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    note: str | None = None

    @property
    def published(self) -> dict[str, Any] | None:
        """The origin of a run that was added from a published archive; None for a run of this workspace.

        See `puma_engine.pipeline.publishing`.
        """
        origin = self.summary.get(PUBLISHED)
        return origin if isinstance(origin, dict) else None


def now() -> str:
    """Return the time in UTC, to the microsecond, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def to_json(value: Any, label: str) -> str:
    """Return JSON text; NumPy numbers become plain, NaN and infinity become null."""
    return json.dumps(plain(value, label), ensure_ascii=False)


def plain(value: Any, label: str) -> Any:
    """Convert a value to JSON types. Raises StoreError, which names `label`."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item, label) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, label) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist(), label)
    raise StoreError(f"The {label} cannot hold a {type(value).__name__}; give plain JSON values.")


def checked_run_id(run_id: str) -> str:
    """Return a run id; raise StoreError if it is invalid, since ids are parts of paths."""
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise StoreError(f"{run_id!r} is not a run id; an id has 16 hexadecimal digits.")
    return run_id


def checked_file_name(name: str) -> str:
    """Return the name of an artifact; raise StoreError if it is invalid, since names are parts of paths."""
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name an artifact; use letters, digits, dot, dash and underscore."
        )
    return name


def checked_name(name: str) -> str:
    """Return the name of a run; raise StoreError if it is invalid."""
    if not isinstance(name, str) or not name.strip():
        raise StoreError("A run needs a name; none is given.")
    if len(name) > MAX_NAME or not name.isprintable():
        raise StoreError(
            f"A run's name has at most {MAX_NAME} printable characters; choose another name."
        )
    return name


def checked_member(value: str, allowed: tuple[str, ...], label: str) -> str:
    """Return a value; raise StoreError if it is not one of the allowed ones."""
    if value not in allowed:
        raise StoreError(f"{value!r} is not a {label}; it is one of {', '.join(allowed)}.")
    return value


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, this package, and packages that influence results."""
    packages = {"python": platform.python_version(), "puma_engine": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    return packages
