"""Other processes that use a workspace, for tests of concurrency."""

import os
import subprocess
import sys
from pathlib import Path

from puma_engine.jobs import processes

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import json, os, sys, time
from puma_engine.errors import PumaError, StoreError
from puma_engine.store import Workspace
ws = Workspace.open(sys.argv[1], create=True) if sys.argv[1] else None
"""


def start_process(code, root=""):
    """Start Python code with an open workspace `ws`."""
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code, str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_process(code, root=""):
    """Run Python code to its end and return what it printed."""
    out, err = start_process(code, root).communicate(timeout=240)
    assert not err, err
    return out.strip()


def kill_all(ws):
    """End the workers and jobs of a workspace."""
    for row in [
        *ws.query("SELECT pid, process FROM workers"),
        *ws.query("SELECT pid, process FROM jobs WHERE pid IS NOT NULL"),
    ]:
        if row["pid"] != os.getpid():
            processes.kill(row["pid"], row["process"])
