"""How a file of figures was made: command, date and versions."""

from __future__ import annotations

import datetime
import shlex
import sys
from typing import Any

from puma_engine.store.records import versions


def provenance() -> dict[str, Any]:
    """Return the command of this process, today's date, and the versions that decide results."""
    today = datetime.datetime.now(datetime.UTC).date()
    command = "python " + shlex.join(sys.argv)
    return {"command": command, "date": today.isoformat(), "versions": versions()}
