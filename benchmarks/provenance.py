"""Shared by benchmarks: provenance and writing of results, functions and servers in other processes."""

import datetime
import importlib
import json
import multiprocessing
import os
import platform
import resource
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    path, current_folder = Path(value), Path.cwd()
    if not path.is_absolute():
        return word
    name = (
        str(path.relative_to(current_folder)) if path.is_relative_to(current_folder) else path.name
    )
    return option + sign + name


def machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, and the load average."""
    cores = len(os.sched_getaffinity(0))
    return {"machine": platform.machine(), "cores": cores, "load_before": os.getloadavg()[0]}


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a file of figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measured(
    work: Callable[..., Any], *arguments: Any, loaded: Sequence[str] = ()
) -> tuple[Any, dict[str, float]]:
    """Call `work` in a fresh process after importing the modules `loaded`; return its value and cost.

    The cost: seconds, cpu_seconds, and before_kib and peak_kib of resident memory.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_child, args=(work, arguments, loaded, results))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed.")
    value, cost = results.get()
    return value, cost


def _child(work: Callable[..., Any], arguments: Any, loaded: Sequence[str], results: Any) -> None:
    for name in loaded:
        importlib.import_module(name)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    value = work(*arguments)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "before_kib": before.ru_maxrss,
        "peak_kib": used.ru_maxrss,
    }
    results.put((value, cost))


def free_port() -> int:
    """Return a free port of localhost."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running_server(command: list[str], port: int, **options: Any) -> Iterator[int]:
    """Context manager: start a server, wait until it listens on a port, yield its process id, and end it."""
    server = subprocess.Popen(command, **options)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"The server did not start: {shlex.join(command)}")
        yield server.pid
    finally:
        server.terminate()
        server.wait(30)
