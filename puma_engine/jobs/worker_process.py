"""A detached worker: `python -m puma_engine.jobs.worker_process <workspace> <idle seconds> [device ...]`."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from puma_engine.jobs.worker_loop import Runner, run_command, worker
from puma_engine.store import Workspace


def main(arguments: Sequence[str] | None = None, runner: Runner = run_command) -> int:
    """Serve a workspace until idle for long, or told to end."""
    root, idle, *devices = arguments if arguments is not None else sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    worker(
        Workspace.open(root),
        devices=devices or None,
        idle_seconds=float(idle),
        runner=runner,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
