"""puma serve: the dashboard, on this machine or for people who sign in."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.session import session
from puma_engine.errors import ConfigError
from puma_engine.files import parse_toml

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
MIN_SECRET = 32


def serve(
    public: Annotated[
        bool, typer.Option("--public", help="Listen on every address; everybody must sign in.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 8501,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(
            "--allowed-hosts", help="Names that browsers call this server by, separated by commas."
        ),
    ] = None,
) -> None:
    """Open the dashboard on http://localhost until it is stopped with Ctrl-C."""
    from puma_engine.serving import hosts
    from puma_engine.store.workspace import VARIABLE, locate

    if not APP.is_file():
        raise ConfigError(f"The dashboard is not at {APP}; start it from a checkout.")
    if public:
        refuse_without_sign_in(auth_settings())
    address = "0.0.0.0" if public else "localhost"
    names = hosts.added_hosts(allowed_hosts)
    hosts.AllowedHosts(address, names)
    environment = os.environ | {VARIABLE: str(locate(session.path))}
    environment[hosts.VARIABLE] = ",".join(names)
    environment["PUMA_PUBLIC"] = "1" if public else ""
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(APP.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    arguments = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)]
    arguments += ["--server.address", address]
    # Streamlit takes this process over, so that signals reach it directly.
    os.execve(sys.executable, arguments, environment)


def auth_settings() -> dict[str, Any]:
    """Return the [auth] section that Streamlit reads, {} without one. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for folder in (Path.home(), Path.cwd(), APP.parent):
        path = folder / ".streamlit" / "secrets.toml"
        if not path.is_file():
            continue
        try:
            section = parse_toml(path.read_text(encoding="utf-8")).get("auth", {})
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); correct it.") from error
        if not isinstance(section, dict):
            raise ConfigError(f"auth in {path} is not a section; write it as [auth].")
        settings |= section
    return settings


def refuse_without_sign_in(auth: Mapping[str, Any]) -> None:
    """Raise ConfigError unless sign-in with OpenID Connect is set up completely."""
    providers = {name: value for name, value in auth.items() if isinstance(value, Mapping)}
    missing = [key for key in ("redirect_uri", "cookie_secret") if not auth.get(key)]
    for name, provider in (providers or {"": auth}).items():
        prefix = f"{name}." if name else ""
        keys = ("client_id", "client_secret", "server_metadata_url")
        missing += [f"{prefix}{key}" for key in keys if not provider.get(key)]
    if missing:
        raise ConfigError(
            "A public dashboard needs sign-in: set "
            f"{', '.join(missing)} in the section [auth] of .streamlit/secrets.toml (docs/"
            "dashboard.md says how), or leave --public away to serve this machine alone."
        )
    if len(str(auth["cookie_secret"])) < MIN_SECRET:
        raise ConfigError(
            f"The cookie_secret in [auth] must have {MIN_SECRET} or more random characters; "
            "anybody who guesses it can sign in as anybody."
        )
    if importlib.util.find_spec("authlib") is None:
        raise ConfigError("Sign-in needs the package Authlib; run: pip install 'streamlit[auth]'.")
