"""What benchmarks share: how a file of figures was made, its writing, and a free port."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from puma_engine.store.records import versions


def provenance(*packages: str) -> dict[str, Any]:
    """Return the command of this process, today's date, and versions, with those of packages."""
    today = datetime.datetime.now(datetime.UTC).date()
    command = "python " + shlex.join(map(_published, sys.argv))
    return {
        "command": command,
        "date": today.isoformat(),
        "versions": versions() | {name: version(name) for name in packages},
    }


def _published(word: str) -> str:
    """Return a word of a command without the folders of this machine.

    Paths in the working folder become relative to it, others their last part.
    """
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path, here = Path(value), Path.cwd()
    if not path.is_absolute():
        return word
    name = str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return option + sign + name


def machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, and the load average."""
    cores = len(os.sched_getaffinity(0))
    return {"machine": platform.machine(), "cores": cores, "load_before": os.getloadavg()[0]}


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a file of figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def free_port() -> int:
    """Return a port of localhost that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
