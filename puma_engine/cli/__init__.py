"""The command line `puma`: every stage of the engine, one command each."""

from __future__ import annotations

import sys

from puma_engine.cli.application import app

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process with 0, 1 (it failed) or 2 (wrong usage)."""
    app(sys.argv[1:] if arguments is None else arguments)
