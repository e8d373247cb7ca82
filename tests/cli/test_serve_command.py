"""`puma serve`: local by default; public only with a complete sign-in."""

import os
import subprocess
import sys

import pytest
from waiting import free_port, wait_for_server

from puma_engine.cli.dashboard import auth_settings, refuse_without_sign_in
from puma_engine.errors import ConfigError

ONE = {
    "redirect_uri": "https://puma.example/oauth2callback",
    "cookie_secret": "x" * 40,
    "client_id": "a",
    "client_secret": "b",
    "server_metadata_url": "https://id.example/.well-known/openid-configuration",
}
SHARED = {key: ONE[key] for key in ("redirect_uri", "cookie_secret")}
# Long enough for a busy machine.
SECONDS = 240
OWN = {key: value for key, value in ONE.items() if key not in SHARED}


@pytest.mark.parametrize("auth", [ONE, {**SHARED, "okta": OWN}, {**SHARED, "a": OWN, "b": OWN}])
def test_a_complete_sign_in_is_accepted(auth):
    refuse_without_sign_in(auth)


@pytest.mark.parametrize("missing", ONE)
def test_each_missing_sign_in_setting_is_named(missing):
    with pytest.raises(ConfigError, match=missing):
        refuse_without_sign_in({key: value for key, value in ONE.items() if key != missing})


def test_an_incomplete_provider_and_a_short_secret_are_refused():
    with pytest.raises(ConfigError, match=r"okta\.client_id"):
        refuse_without_sign_in({**SHARED, "okta": {}})
    with pytest.raises(ConfigError, match="cookie_secret"):
        refuse_without_sign_in({**ONE, "cookie_secret": "short"})


def serve(folder, *options):
    environment = os.environ | {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    puma = [sys.executable, "-m", "puma_engine.cli"]
    command = [*puma, "serve", "-w", str(folder / "ws"), *options]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("auth = [broken", "secrets.toml cannot be read"),
        ("auth = " + "[" * 200_000, "nested too deep"),
        ("auth = 1", "auth in .* is not a section"),
    ],
)
def test_a_damaged_file_of_secrets_ends_in_a_sentence(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "secrets.toml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        auth_settings()


def test_public_without_sign_in_is_refused_in_one_sentence(tmp_path):
    process = serve(tmp_path, "--public")
    output = process.communicate(timeout=SECONDS)[0].decode()
    assert process.returncode == 1
    assert output.startswith("Error: A public dashboard needs sign-in") and output.count("\n") == 1


def test_serve_listens_on_localhost_only_and_stops_on_sigterm(tmp_path):
    port = free_port()
    process = serve(tmp_path, "--port", str(port))
    try:
        assert wait_for_server(f"http://localhost:{port}/_stcore/health", process) == b"ok"
        listening = subprocess.run(
            [sys.executable, "-c", LISTENING, str(process.pid)], capture_output=True, text=True
        )
        addresses = set(listening.stdout.split())
        assert addresses and addresses <= {"127.0.0.1", "::1"}
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


LISTENING = """
import sys, psutil
for connection in psutil.Process(int(sys.argv[1])).net_connections():
    if connection.status == psutil.CONN_LISTEN:
        print(connection.laddr.ip)
"""
