"""One question a connection, on a Unix socket in the workspace: a line of JSON each way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puma_engine.errors import JobError
from puma_engine.store import Workspace

FOLDER = "whatif"
MOST_BYTES = 1 << 16
# The system's limit for the address of a socket, and some room for its end.
LONGEST_ADDRESS = 100


def socket_path(ws: Workspace) -> Path:
    """Return where the process listens; only the owner of the workspace may enter the folder."""
    return ws.root / FOLDER / "socket"


def lock_path(ws: Workspace) -> Path:
    """Return the file that is locked while the process lives."""
    return ws.root / FOLDER / "lock"


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """Yield an address of a socket that the system takes, however long its path is."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
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


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: socket.socket) -> dict[str, Any]:
    """Receive one message. Raises ConnectionError if it is cut off, JobError if it is none."""
    found = b""
    while not found.endswith(b"\n"):
        part = connection.recv(MOST_BYTES)
        if not part:
            raise ConnectionError("the connection ended within a message")
        found += part
        if len(found) > MOST_BYTES:
            raise JobError(f"The message has more than {MOST_BYTES:,} bytes; ask a shorter one.")
    try:
        message = json.loads(found)
    except ValueError:
        raise JobError("The message is no JSON; ask through puma_engine.serving.") from None
    if not isinstance(message, dict):
        raise JobError("The message is no JSON object; ask through puma_engine.serving.")
    return message
