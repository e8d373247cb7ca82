"""The dashboard's server: its names, origins, headers, and metrics behind sign-in."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import CHROMIUM, SECONDS, chromium, opened, served, wait_for
from dashboard_pages import add_job

from dashboard import pages
from puma_engine.store import Workspace

SECRETS = """
[auth]
redirect_uri = "https://puma.example/oauth2callback"
cookie_secret = "0123456789012345678901234567890123456789"
client_id = "a"
client_secret = "b"
server_metadata_url = "https://id.example/.well-known/openid-configuration"
"""
SOCKET = "/_stcore/stream"
LINKS = "See https://evil.example or www.evil.example or ann@evil.example or HTTP://evil.example/x."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A dashboard on a workspace with one job, as `puma serve` starts it."""
    root = tmp_path_factory.mktemp("guard") / "workspace"
    ws = Workspace.open(root, create=True)
    add_job(ws, title=LINKS, status="cancelled")
    ws.close()
    with served(root) as address:
        yield address


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """A dashboard with sign-in on every address, started by Streamlit as in the container."""
    folder = tmp_path_factory.mktemp("container")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "secrets.toml").write_text(SECRETS)
    Workspace.open(folder / "workspace", create=True).close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(app)]
    command += ["--server.address", "0.0.0.0", "--server.port", str(port)]
    names = {"PUMA_WORKSPACE": str(folder / "workspace"), "PUMA_ALLOWED_HOSTS": "added.example"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | names, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: status(address, "/_stcore/health") == 200, "the dashboard to start")
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("There is no chromium on this machine.")
    with chromium() as chromium_browser:
        yield chromium_browser


def answer(base, path, **headers):
    request = urllib.request.Request(base + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def status(base, path, **headers):
    try:
        return answer(base, path, **headers)[0]
    except OSError:
        return None


def handshake(base, host, origin):
    """Return the status of a WebSocket's handshake."""
    lines = [f"GET {SOCKET} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ=="]
    lines += [f"Origin: {origin}"] if origin else []
    place = urlsplit(base)
    with socket.create_connection(("127.0.0.1", place.port), timeout=SECONDS) as client:
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(client.recv(100).split()[1])


def test_a_websocket_needs_a_name_of_this_machine_and_the_same_origin(base):
    own = urlsplit(base).netloc
    port = urlsplit(base).port
    assert handshake(base, own, base) == 101
    assert handshake(base, own, None) == 101
    assert handshake(base, f"127.0.0.1:{port}", f"http://127.0.0.1:{port}") == 101
    evil = f"evil.example:{port}"
    assert handshake(base, evil, f"http://{evil}") == 403
    assert handshake(base, evil, None) == 403
    assert handshake(base, own, f"http://{evil}") == 403
    assert handshake(base, own, "http://localhost:3000") == 403
    assert handshake(base, own, "null") == 403


def test_every_response_has_headers_and_needs_an_own_name(base):
    for path in ("/", "/_stcore/health", "/plan", "/nothing.js", "/_stcore/metrics"):
        code, headers, _ = answer(base, path)
        assert code in (200, 404)
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'self'" in policy and "default-src 'self'" in policy
        assert "script-src 'self' 'unsafe-eval' 'sha256-" in policy
        code, headers, content = answer(base, path, Host="evil.example")
        assert code == 403 and b"PUMA_ALLOWED_HOSTS" in content
        assert headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_opened_page_has_the_title_and_the_style_of_the_dashboard(base, encoding):
    for path in ("/", "/trade-off"):
        expected = {"Accept": "text/html", "Accept-Encoding": encoding, "If-None-Match": "old"}
        code, headers, content = answer(base, path, **expected)
        assert code == 200 and int(headers["Content-Length"]) == len(content)
        assert content.count(b"<title>PUMA Workbench</title>") == 1
        assert b'id="root"' in content and b"tabular-nums" in content
        assert b'modulepreload" crossorigin href="./static/js/Selectbox.' in content
        assert "ETag" not in headers
    code, _, content = answer(base, "/_stcore/health", Accept="text/html")
    assert (code, content) == (200, b"ok")


def test_metrics_are_behind_the_sign_in(base, container):
    from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

    assert status(base, "/_stcore/metrics") == 200
    for path in ("/_stcore/metrics", "/_stcore/metrics?families=active_sessions"):
        assert status(container, path) == 401
        assert status(container, path, Cookie="_streamlit_user=forged") == 401
    secret = SECRETS.split('cookie_secret = "')[1].split('"')[0]
    cookie = create_signed_value(secret, "_streamlit_user", "{}").decode()
    assert status(container, "/_stcore/metrics", Cookie=f"_streamlit_user={cookie}") == 200


def test_a_container_answers_to_its_addresses_and_to_added_names(container):
    port = urlsplit(container).port
    for name in ("localhost", "127.0.0.1", "10.1.2.3", "added.example", "puma.example"):
        assert status(container, "/", Host=f"{name}:{port}") == 200
        assert handshake(container, f"{name}:{port}", f"http://{name}:{port}") == 101
    assert status(container, "/", Host="evil.example") == 403
    assert handshake(container, "evil.example", "http://evil.example") == 403


def test_the_pages_log_no_error_and_keep_to_the_content_security_policy(base, browser):
    page = opened(browser, base)
    logged = []
    page.on("console", lambda message: logged.append((message.type, message.text)))
    for name in pages.PAGES:
        page.goto(f"{base}/{name}")
        page.wait_for_selector("h1")
    assert [text for _, text in logged if "Content Security Policy" in text] == []
    assert [text for kind, text in logged if kind == "error"] == []


def test_names_of_icons_are_not_read_out(base, browser):
    page = opened(browser, f"{base}/trade-off")
    heading = page.get_by_role("heading", name="Nothing to compare yet", exact=True)
    heading.wait_for()
    assert heading.locator("[role=img]").count() == 1  # drawn, for those who see it
    assert page.get_by_role("img", name="icon").count() == 0


def test_addresses_in_names_are_no_links(base, browser):
    page = opened(browser, f"{base}/jobs")
    # The table has the title, too, in cells that are drawn.
    page.get_by_role("heading", name="See https:").wait_for()
    assert page.locator("a[href*='evil.example']").count() == 0
