"""The engine's guard of HTTP servers, for the dashboard's own server."""

from puma_engine.serving.hosts import AllowedHosts, HostGuard, ResponseHeaders, added_hosts

__all__ = ["AllowedHosts", "HostGuard", "ResponseHeaders", "added_hosts"]
