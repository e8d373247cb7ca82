"""How a file of figures was made: command, date and versions."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Any

from puma_engine.store.records import versions


def provenance() -> dict[str, Any]:
    """Return the command of this process, today's date, and the versions that decide results."""
    today = datetime.datetime.now(datetime.UTC).date()
    command = "python " + shlex.join(map(_published, sys.argv))
    return {"command": command, "date": today.isoformat(), "versions": versions()}


def _published(word: str) -> str:
    """A word of a command without where files lie on this machine.

    Paths below the working folder are told from there, others by their last part.
    """
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path, here = Path(value), Path.cwd()
    if not path.is_absolute():
        return word
    told = str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return option + sign + told
