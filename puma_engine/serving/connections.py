"""Limits of a server: number of connections, time for a request to arrive, and log lines.

uvicorn has no deadline for a request that never ends, and its limit of connections answers all
requests with 503 while idle connections use it up.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# The application answers a late body with 408 before its connection is closed.
GRACE_SECONDS = 5.0
SHUTDOWN_SECONDS = 30
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of a server's connections.

    request_seconds: for the headers of a request, and again for its body; write_seconds: for a
    client to read the next part of a response.
    """

    connections: int = 256
    request_seconds: float = 30.0
    write_seconds: float = 60.0


class LimitedConnection(H11Protocol):
    """A connection with deadlines. A new one beyond the limit closes the oldest slow connection.

    A connection is slow if its request has not arrived completely, or if its client does not read
    the response. If there is none, the new connection gets 503.
    """

    limits: ClassVar[ConnectionLimits]
    dropped: ClassVar[Callable[[], None]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection, make room for it, and start its deadline."""
        super().connection_made(transport)
        self._made = self.loop.time()
        self._watched: Any = None
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            others = [
                connection
                for connection in self.connections
                if isinstance(connection, LimitedConnection)
            ]
            slow = [
                connection
                for connection in others
                if connection is not self and connection.is_slow()
            ]
            if not slow:
                self.connections.discard(self)
                transport.write(_BUSY)
                transport.close()
                type(self).dropped()
                return
            oldest = min(slow, key=lambda connection: connection._made)
            self.connections.discard(oldest)
            oldest._drop()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read data; a part of a request does not move its deadline."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Finish a response. The rest of an unread body has a deadline, too."""
        self._watched = None
        _cancel(self._request_timer)
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def pause_writing(self) -> None:
        """Start the deadline for a client that does not read its response."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_seconds, self._drop)

    def resume_writing(self) -> None:
        """End that deadline."""
        _cancel(self._write_timer)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all deadlines."""
        _cancel(self._request_timer)
        _cancel(self._write_timer)
        super().connection_lost(exc)

    def is_slow(self) -> bool:
        """Return whether the connection waits for its client: for a request, or to read a response."""
        return self.flow.write_paused or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _watch(self) -> None:
        state = self.conn.their_state
        if state is self._watched or self.transport.is_closing():
            return
        self._watched = state
        _cancel(self._request_timer)
        seconds = {
            h11.IDLE: self.limits.request_seconds,
            h11.SEND_BODY: self.limits.request_seconds + GRACE_SECONDS,
        }
        if state in seconds:
            self._request_timer = self.loop.call_later(seconds[state], self._drop)

    def _drop(self) -> None:
        type(self).dropped()
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def server_config(
    app: Any,
    limits: ConnectionLimits | None = None,
    *,
    dropped: Callable[[], None] = lambda: None,
    **options: Any,
) -> uvicorn.Config:
    """Return uvicorn's configuration of an app with limits of connections.

    dropped: called for each connection that is closed for its deadline or to make room.
    """
    values = {"limits": limits or ConnectionLimits(), "dropped": staticmethod(dropped)}
    config = uvicorn.Config(
        app,
        http=type("_Connection", (LimitedConnection,), values),
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        **options,
    )
    # Clients can cause log lines, so each logger has a limit.
    for name in ("uvicorn.error", "asyncio", "puma_engine.serving"):
        limit_log(logging.getLogger(name))
    return config


class LogLimit(logging.Filter):
    """Passes `records` of each level in `seconds`; the next one says how many were left out."""

    def __init__(self, records: int = 20, seconds: float = 60.0) -> None:
        super().__init__()
        self.records, self.seconds = records, seconds
        self._windows: dict[int, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        now = time.monotonic()
        start, count = self._windows.get(record.levelno, (now, 0))
        if now - start >= self.seconds:
            if count > self.records:
                record.msg = f"{record.getMessage()} ({count - self.records:,} messages left out)"
                record.args = ()
            start, count = now, 0
        self._windows[record.levelno] = (start, count + 1)
        return count < self.records


def limit_log(logger: logging.Logger) -> None:
    """Add a LogLimit to a logger, unless it has one."""
    if not any(isinstance(existing, LogLimit) for existing in logger.filters):
        logger.addFilter(LogLimit())


def shorten_log(path: Path, max_bytes: int) -> None:
    """Move a log of more than max_bytes to NAME.1.log and empty it, while its writer appends to it."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > max_bytes:
            shutil.copy(path, path.with_suffix(f".1{path.suffix}"))
            os.truncate(path, 0)
