"""Sign-in: where configured, pages show nothing before it; otherwise everything."""

from pathlib import Path

import pytest
from dashboard_pages import assert_plain, texts
from streamlit.testing.v1 import AppTest

from puma_engine.store import Workspace

APP = str(Path(__file__).resolve().parents[2] / "dashboard" / "main.py")
ONE = {"redirect_uri": "https://puma.example/oauth2callback", "cookie_secret": "x" * 40}
OWN = {"client_id": "a", "client_secret": "b", "server_metadata_url": "https://id.example/x"}


@pytest.fixture
def app(tmp_path, monkeypatch):
    Workspace.open(tmp_path / "ws", create=True)
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return AppTest.from_file(APP, default_timeout=120)


def test_without_sign_in_configured_the_overview_opens(app):
    app.run()
    assert_plain(app)
    assert app.title[0].value == "Summary"


@pytest.mark.parametrize(
    ("auth", "buttons"),
    [({**ONE, **OWN}, ["Sign in"]), ({**ONE, "okta": OWN}, ["Sign in with okta"])],
)
def test_nothing_is_shown_before_the_sign_in(auth, buttons, app):
    app.secrets["auth"] = auth
    app.user["is_logged_in"] = False
    app.run()
    assert_plain(app)
    assert [button.label for button in app.button] == buttons
    assert "Summary" not in texts(app) and not app.metric


def test_who_signed_in_sees_the_pages_and_can_sign_out(app):
    app.secrets["auth"] = {**ONE, **OWN}
    app.user["is_logged_in"] = True
    app.user["email"] = "**ann**@example.com"
    app.run()
    assert_plain(app)
    assert app.title[0].value == "Summary"
    assert "**ann**@example.com" in app.sidebar.text[0].value


def test_a_public_dashboard_without_sign_in_shows_nothing(app, monkeypatch):
    monkeypatch.setenv("PUMA_PUBLIC", "1")
    app.run()
    assert "shows nothing" in app.error[0].value and not app.title
