"""Every page on a workspace that cannot be written: shown, with nothing that would change it."""

import gc
import os
from pathlib import Path

import compared
import pytest
from dashboard_pages import open_page, texts
from open_folders import open_folder
from streamlit.testing.v1 import AppTest

from dashboard import pages
from puma_engine import jobs
from puma_engine.store import Workspace

NOBODY = 65534
# Buttons that read, or leave the page.
READING = {"Clear", "Prepare the file", "Open the study"}
# Pages that need more than this workspace has; their actions are those of components on the others.
UNFILLED = {"models"}


@pytest.fixture(scope="module")
def root():
    """A workspace with results, a failed job and a waiting one, in a folder that nobody may write."""
    with open_folder() as folder:
        ws = compared.workspace(folder)["ws"]
        jobs.enqueue(ws, "demo", {}, title="Waits")
        failed = jobs.enqueue(ws, "demo", {}, title="Failed")
        with ws.transaction() as db:
            db.execute("UPDATE jobs SET status = 'failed', error = 'x' WHERE id = ?", [failed.id])
        ws.close()
        for path in [ws.root, *ws.root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield ws.root


def opened(name, root, monkeypatch, **query):
    """Open a page as a user who may not write, which root may whatever the rights say."""
    monkeypatch.setenv("PUMA_WORKSPACE", str(root))
    script = f"from dashboard import pages\npages.navigation({name!r}).run()"
    gc.collect()  # removes folders of earlier apps, which the other user could not
    app = AppTest.from_string(script, default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    # What a page imports may be where only root may read.
    app.run()
    Path(app._script_path).parent.chmod(0o755)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        app.run()
    finally:
        if is_root:
            os.seteuid(0)
    assert not app.exception, app.exception
    assert not app.error, texts(app)
    return app


@pytest.mark.parametrize("name", [name for name in pages.PAGES if name not in UNFILLED])
def test_every_page_is_shown_without_actions(name, root, monkeypatch):
    app = opened(name, root, monkeypatch)
    acting = {button.label for button in app.button if "-badge[" not in button.label}
    assert acting <= READING
    assert "may only be viewed" in texts(app)
    # The title comes first, as where the workspace can be written; the Summary's is in a row.
    if name != "overview":
        assert app.main.children[0].type == "title"


def test_adding_a_model_is_not_offered(monkeypatch):
    with open_folder() as folder:
        ws = Workspace.open(folder / "workspace", create=True)
        ws.close()
        for path, rights in ((ws.path, 0o444), (ws.root, 0o555)):
            path.chmod(rights)
        app = opened("models", ws.root, monkeypatch)
        assert "may only be viewed" in texts(app) and not app.button


def test_importing_is_not_offered(root, monkeypatch):
    app = opened("data", root, monkeypatch, view="import")
    assert "may only be viewed" in texts(app) and not app.button
    assert not sorted(path for path in root.rglob("*") if path.name.startswith("upload"))


def test_the_same_pages_have_actions_where_the_workspace_can_be_written(root, monkeypatch):
    """Root can write it, so this shows that the test above would notice a button."""
    if os.geteuid() != 0:
        pytest.skip("only root may write a workspace without rights")
    assert {"Cancel", "Start a worker"} <= {
        button.label for button in open_page("jobs", root, monkeypatch).button
    }
    assert "Continue" in {button.label for button in open_page("plan", root, monkeypatch).button}
