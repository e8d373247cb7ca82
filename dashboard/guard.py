"""What stands before the dashboard's pages: names of the server, headers, and metrics behind sign-in."""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.web.server.server_util import AUTH_COOKIE_NAME, get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value

from dashboard import access, shell
from dashboard.engine.hosts import AllowedHosts, HostGuard, ResponseHeaders, added_hosts

METRICS = "/_stcore/metrics"


def middleware() -> list[Middleware]:
    """Return the middleware of the dashboard, outermost first. Raises ConfigError for wrong names."""
    auth = access.auth_section()
    listens_on = st.get_option("server.address") or "0.0.0.0"
    hosts = AllowedHosts(listens_on, [*added_hosts(), *_configured_hosts(auth)])
    return [
        Middleware(ResponseHeaders, headers=headers()),
        Middleware(HostGuard, hosts=hosts),
        Middleware(MetricsGuard, closed=auth is not None or bool(os.environ.get("PUMA_PUBLIC"))),
        Middleware(shell.CompletePage),
    ]


def headers() -> dict[str, str]:
    """Return the headers of every response: no frames of others, no scripts but the page's own."""
    inline = [
        "'sha256-" + base64.b64encode(hashlib.sha256(script).digest()).decode() + "'"
        for script in re.findall(rb"<script>(.*?)</script>", shell.index(), re.DOTALL)
    ]
    policy = {
        "default-src": "'self'",
        # plotly.js compiles the shaders of large scatter plots with the Function constructor.
        "script-src": " ".join(["'self'", "'unsafe-eval'", *inline]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'self'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Frame-Options": "SAMEORIGIN",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }


class MetricsGuard:
    """ASGI middleware that shows the server's metrics to people who signed in alone, where closed."""

    def __init__(self, app: ASGIApp, closed: bool) -> None:
        self.app, self.closed = app, closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with 401."""
        is_metrics = scope["type"] == "http" and scope["path"].rstrip("/").endswith(METRICS)
        if is_metrics and self.closed and not _signed_in(HTTPConnection(scope).cookies):
            text = "Sign in to see the metrics.\n"
            await PlainTextResponse(text, 401)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _signed_in(cookies: Mapping[str, str]) -> bool:
    secret, value = get_cookie_secret(), cookies.get(AUTH_COOKIE_NAME, "")
    return bool(secret) and decode_signed_value(secret, AUTH_COOKIE_NAME, value) is not None


def _configured_hosts(auth: Mapping[str, Any] | None) -> list[str]:
    """Return the names that Streamlit's settings and the sign-in give to this server."""
    addresses = [
        str((auth or {}).get("redirect_uri", "")),
        *st.get_option("server.corsAllowedOrigins"),
    ]
    names = [urlsplit(address).netloc for address in addresses]
    return [name for name in [*names, *st.get_option("server.allowedHosts")] if name]
