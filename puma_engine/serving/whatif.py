"""What-if predictions from a process with loaded models, which is started when needed.

This module does not load torch.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from puma_engine import errors
from puma_engine.backbone.templates import get_template
from puma_engine.errors import JobError, PumaError
from puma_engine.jobs import processes
from puma_engine.pipeline.predicting import Prediction, checked_title, checked_user
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find
from puma_engine.store import Workspace

FOLDER = "whatif"
LOG = "whatif.log"
IDLE_SECONDS = 600.0
START_SECONDS = 120.0
ANSWER_SECONDS = 180.0
# Systems limit the address of a Unix socket to 104 to 108 bytes.
MAX_ADDRESS_BYTES = 100


def socket_path(ws: Workspace) -> Path:
    """Return the path of the HTTP socket; only the owner has access to its folder."""
    return ws.root / FOLDER / "socket"


def lock_path(ws: Workspace) -> Path:
    """Return the file that is locked while the process lives."""
    return ws.root / FOLDER / "lock"


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Context manager: yield an address of a socket that the system accepts, for a path of any length.

    Raises JobError for a long path on a system without /proc.
    """
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise JobError(
            f"The path {path} is too long for a socket here; move the workspace to a shorter one."
        )
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def predict(
    ws: Workspace,
    prompts: Reference,
    user: str,
    title: str,
    *,
    template: str | None = None,
) -> Prediction:
    """Return what `pipeline.predict_title` returns, from the what-if process of the workspace.

    The process ends after IDLE_SECONDS without a request. Raises what `predict_title` raises, and
    JobError if the process cannot be started, dies, or needs more than ANSWER_SECONDS.
    """
    checked_title(title)
    checked_user(user)
    run = find(ws, prompts, *PROMPT_KINDS)
    question = {"run": run.id, "user": user, "title": title}
    if template is not None:
        question["template"] = get_template(template).spec
    # If the process reaches its idle limit between connection and answer, a second one is tried.
    for attempt in (1, 2):
        connection = _connect_or_start(ws, question)
        try:
            with contextlib.closing(connection):
                response = connection.getresponse()
                content: dict[str, Any] = json.loads(response.read())
        except TimeoutError:
            raise JobError(
                f"No answer came within {ANSWER_SECONDS:.0f} seconds; the model may be too large "
                "for this machine. Try again, or use puma predict."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == 2:
                raise JobError(
                    f"The what-if process ended before it answered; read {ws.root / 'logs' / LOG}."
                ) from error
        else:
            break
    if response.status != 200:
        kind = getattr(errors, str(content.get("type")), JobError)
        text = str(content.get("error", content))
        raise kind(text) if issubclass(kind, PumaError) else JobError(text)
    return Prediction(**content)


def preload(ws: Workspace, prompts: Sequence[str]) -> None:
    """Make the process load runs, by id, without waiting; start it if necessary."""
    connection = _send(ws, "/v1/load", {"runs": list(prompts)})
    if connection is None:
        _start(ws, prompts)
    else:
        connection.close()


# Deprecated names.
ask, warm = predict, preload


class _Connection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self.path = path

    def connect(self) -> None:
        """Connect to the path instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with socket_address(self.path) as address:
            self.sock.connect(address)


def _send(ws: Workspace, route: str, body: Any) -> _Connection | None:
    """POST a body as JSON and return the connection; None if no process listens."""
    connection = _Connection(socket_path(ws))
    try:
        connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _connect_or_start(ws: Workspace, question: dict[str, str]) -> _Connection:
    deadline = time.monotonic() + START_SECONDS
    # Exit code 0: another process held the lock; it may have been about to end.
    exit_code: int | None = 0
    while exit_code in (None, 0) and time.monotonic() < deadline:
        connection = _send(ws, "/v1/predict", question)
        if connection is not None:
            return connection
        if exit_code == 0:
            process = _start(ws, [question["run"]])
        time.sleep(0.05)
        exit_code = process.poll()
    raise JobError(f"The what-if process did not start; read {ws.root / 'logs' / LOG}.")


def _start(ws: Workspace, runs: Sequence[str]) -> subprocess.Popen[bytes]:
    command = processes.python(
        "puma_engine.serving.whatif_server", str(ws.root), str(IDLE_SECONDS), *runs
    )
    return processes.start_detached(command, ws.root / "logs" / LOG)
