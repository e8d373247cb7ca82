"""The host names that a server answers to, and the web pages from which it accepts requests.

A page of another site can make its name point to this machine (DNS rebinding); the browser then
sends that name as Host. Requests of a page have its address as Origin.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puma_engine.errors import ConfigError

VARIABLE = "PUMA_ALLOWED_HOSTS"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("", "0.0.0.0", "::")
_ENTRY = re.compile(
    r"\*|(\*\.)?[a-z0-9_.-]+(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?|[0-9a-f:.]+", re.I
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SAFE = ("GET", "HEAD", "OPTIONS")


class AllowedHosts:
    """Names that a server answers to.

    address: the address it listens on. A server that is reachable from other machines answers to
    its addresses, which no page can take over, and to this machine's name. added: further names,
    each with or without a port, such as puma.example, *.puma.example or puma.example:8443; * allows
    every name. Raises ConfigError.
    """

    def __init__(self, address: str, added: Iterable[str] = ()) -> None:
        self.added = [name.strip().lower().rstrip(".") for name in added if name.strip()]
        invalid = [name for name in self.added if not _ENTRY.fullmatch(name)]
        if invalid:
            raise ConfigError(
                f"{invalid[0]!r} is not a name of a host; give names such as puma.example or "
                f"puma.example:8443, separated by commas, in --allowed-hosts or {VARIABLE}."
            )
        self.names = {*LOOPBACK, address.lower()} - set(WILDCARDS)
        self.any_address = address not in LOOPBACK
        if self.any_address:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def allows(self, host: str | None) -> bool:
        """Return whether a request with this Host header is answered."""
        parts = _host_and_port(host)
        if parts is None:
            return False
        name, port = parts
        if name in self.names or self._is_added(name, port, any_port=True):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback

    def allows_origin(self, origin: str, host: str | None) -> bool:
        """Return whether a page of this origin may send requests to this Host.

        The page must come from the same name and port, or from an added name (without a port: the
        usual port of http or https).
        """
        try:
            split = urlsplit(origin)
            origin_port = split.port or _DEFAULT_PORTS.get(split.scheme)
        except ValueError:
            return False
        parts = _host_and_port(host)
        if not split.hostname or parts is None or split.scheme not in _DEFAULT_PORTS:
            return False
        name, port = parts
        same = name == split.hostname and (port or _DEFAULT_PORTS[split.scheme]) == origin_port
        explicit = None if origin_port == _DEFAULT_PORTS[split.scheme] else origin_port
        return same or self._is_added(split.hostname, explicit, any_port=False)

    def _is_added(self, name: str, port: int | None, *, any_port: bool) -> bool:
        for entry in self.added:
            if entry == "*":
                return any_port
            added, added_port = _host_and_port(entry) or (entry, None)
            fits = name.endswith(added[1:]) if added.startswith("*.") else name == added
            if fits and (port == added_port or (any_port and added_port is None)):
                return True
        return False


def added_hosts(option: str | None = None) -> list[str]:
    """Return the names of an option, or of PUMA_ALLOWED_HOSTS, separated by commas."""
    return [name for name in (option or os.environ.get(VARIABLE, "")).split(",") if name.strip()]


class HostGuard:
    """ASGI middleware that refuses requests to other names and from pages of other origins with 403."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a WebSocket, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        reads_only = scope["type"] == "http" and scope["method"] in _SAFE
        if len(headers.getlist("host")) > 1 or not self.hosts.allows(host):
            parts = _host_and_port(host)
            name = parts[0] if parts and _ENTRY.fullmatch(parts[0]) else "NAME"
            error = (
                f"This server does not answer to the name {(host or '')[:100]!r}. If it is the server's, "
                f"start it with --allowed-hosts {name[:100]}, or set {VARIABLE}."
            )
        elif origin is not None and not reads_only and not self.hosts.allows_origin(origin, host):
            error = f"This server takes no requests from pages of {origin[:100]!r}."
        else:
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await JSONResponse({"error": error}, 403)(scope, receive, send)


class ResponseHeaders:
    """ASGI middleware that adds headers to every response that does not set them itself."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    response.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def _host_and_port(host: str | None) -> tuple[str, int | None] | None:
    if host is None or not re.fullmatch(r"[^\s/@?#\\]+", host):
        return None
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"  # an IPv6 address of an option; a Host header has brackets
    try:
        split = urlsplit(f"//{host}")
        name, port = split.hostname, split.port
    except ValueError:
        return None
    return (name.rstrip("."), port) if name else None
