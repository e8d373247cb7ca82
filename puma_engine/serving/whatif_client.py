"""Asking the warm process, which is started if it does not live. Loads no torch."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from puma_engine import errors
from puma_engine.errors import JobError, PumaError
from puma_engine.jobs import processes
from puma_engine.pipeline.predicting import Prediction, checked_title, checked_user
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find
from puma_engine.serving.whatif_protocol import address, receive, send, socket_path
from puma_engine.store import Workspace

IDLE_SECONDS = 600.0
START_SECONDS = 30.0
ANSWER_SECONDS = 180.0
LOG = "whatif.log"


def ask(
    ws: Workspace,
    prompts: Reference,
    user: str,
    title: str,
    *,
    idle_seconds: float = IDLE_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> Prediction:
    """Return what `predict_title` returns, from the warm process of the workspace.

    The process ends by itself when nobody has asked for idle_seconds. Raises what
    `predict_title` raises, and JobError when the process cannot be started or dies.
    """
    checked_title(title)
    checked_user(user)
    run = find(ws, prompts, *PROMPT_KINDS)
    question = {"do": "predict", "run": run.id, "user": user, "title": title}
    try:
        reply = _exchange(ws, question, idle_seconds, answer_seconds)
    except OSError:
        # It may have ended just then, having been idle for long; another is started once.
        try:
            reply = _exchange(ws, question, idle_seconds, answer_seconds)
        except OSError as error:
            raise JobError(
                f"The what-if process ended before it answered; read {ws.root / 'logs' / LOG}."
            ) from error
    if "error" in reply:
        kind = getattr(errors, str(reply.get("type")), JobError)
        raise kind(reply["error"]) if issubclass(kind, PumaError) else JobError(reply["error"])
    return Prediction(**reply["prediction"])


def _exchange(
    ws: Workspace, question: dict[str, str], idle_seconds: float, answer_seconds: float
) -> dict[str, Any]:
    with _connected(ws, idle_seconds, [question["run"]]) as connection:
        connection.settimeout(answer_seconds)
        try:
            send(connection, question)
            return receive(connection)
        except TimeoutError:
            raise JobError(
                f"No answer came within {answer_seconds:.0f} seconds; the model may be too large for "
                "this machine. Try again, or use puma predict."
            ) from None


def warm(ws: Workspace, prompts: Sequence[str], *, idle_seconds: float = IDLE_SECONDS) -> None:
    """Let the process load some runs, by id, without waiting for it; start it if it does not live."""
    connection = _connect(ws)
    if connection is None:
        _start(ws, idle_seconds, prompts)
        return
    with connection, contextlib.suppress(OSError):
        send(connection, {"do": "warm", "runs": list(prompts)})


def stop(ws: Workspace, *, seconds: float = 10.0) -> bool:
    """End the process when it has answered; return whether there was one."""
    connection = _connect(ws)
    if connection is None:
        return False
    with connection:
        connection.settimeout(seconds)
        send(connection, {"do": "stop"})
        receive(connection)
    return True


def _connect(ws: Workspace) -> socket.socket | None:
    """Return a connection to the process, or None if it does not live."""
    path = socket_path(ws)
    if not path.parent.is_dir():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(path) as place:
            connection.connect(place)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _connected(ws: Workspace, idle_seconds: float, prompts: Sequence[str]) -> socket.socket:
    connection = _connect(ws)
    if connection is not None:
        return connection
    process = _start(ws, idle_seconds, prompts)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        ended = process.poll() is not None
        connection = _connect(ws)
        if connection is not None:
            return connection
        if ended:
            break
        time.sleep(0.02)
    raise JobError(f"The what-if process did not start; read {ws.root / 'logs' / LOG}.")


def _start(ws: Workspace, idle_seconds: float, prompts: Sequence[str]) -> subprocess.Popen[bytes]:
    command = processes.python(
        "puma_engine.serving.whatif_server", str(ws.root), str(idle_seconds), *prompts
    )
    return processes.start_detached(command, ws.root / "logs" / LOG)
