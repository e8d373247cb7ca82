"""The command line `puma`: every stage of the engine, one command each."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout

from puma_engine.cli.application import app
from puma_engine.training import distributed

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process with 0, 1 (it failed) or 2 (wrong usage).

    Of several processes that train together, only the first prints.
    """
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        # A title that the terminal cannot show must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if distributed.is_main_process():
            app(words)
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            app(words)
    finally:
        distributed.shutdown()
