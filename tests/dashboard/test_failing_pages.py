"""Pages of empty or damaged workspaces show one sentence and no traceback."""

import sqlite3
import subprocess
import sys

import pytest
from claim_reports import moved, report, retrained
from dashboard_pages import add_comparison, assert_plain, finished, open_page, texts
from rating_tables import frame
from streamlit.testing.v1 import AppTest

from dashboard.pages import PAGES, address
from puma_engine.pipeline import COMMANDS
from puma_engine.store import Workspace
from puma_engine.studies import save_report


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "ws", create=True)


def change(ws, statement):
    """Change a database behind the back of the engine."""
    ws.close()
    with sqlite3.connect(ws.path) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(statement)
    db.close()


# Studies are files; some pages show no jobs, or nothing but jobs.
SPARED = {
    "jobs": {"data", "studies", "users", "reports"},
    "runs": {"studies", "jobs"},
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("lost", SPARED)
def test_a_database_without_a_table_is_reported_on_every_page(ws, monkeypatch, name, lost):
    change(ws, f"DROP TABLE {lost}")
    app = open_page(name, ws.root, monkeypatch)
    assert_plain(app)
    said = f"no such table: {lost}" in texts(app)
    assert said == (name not in SPARED[lost]) and len(app.error) == said
    assert app.title


def test_an_unexpected_error_is_logged_and_shown_as_one_sentence(ws, monkeypatch, caplog):
    finished(ws, "prompts", "books")
    change(ws, "UPDATE runs SET created = 'no time', checksum = NULL")
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    script = "from dashboard import pages\npages.run(pages.navigation('overview'))"
    app = AppTest.from_string(script, default_timeout=120).run()
    assert_plain(app)
    assert app.title[0].value == "Summary"
    assert "unexpected error" in app.error[0].value and "puma doctor" in texts(app)
    assert "no time" in caplog.text and "Traceback" in caplog.text


def test_a_damaged_run_leaves_the_others(ws, monkeypatch):
    finished(ws, "dataset", "books")
    change(ws, "UPDATE runs SET summary = '{damaged'")
    for name in PAGES:
        app = open_page(name, ws.root, monkeypatch)
        assert_plain(app)
        assert not app.error, name


def test_pages_can_be_run_without_an_engine():
    code = (
        "import sys, dashboard.pages; print('pandas' in sys.modules, 'puma_engine' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False False"


def test_a_damaged_data_set_leaves_the_others(ws, tmp_path, monkeypatch):
    runs = []
    for name in ("good", "bad"):
        path = tmp_path / f"{name}.csv"
        frame().iloc[len(runs) * 10 :].to_csv(path, index=False)
        runs.append(COMMANDS["import_dataset"](ws, "table", path=path, task="rating", name=name))
    next(ws.folder(runs[1].id).glob("user-profiles*")).unlink()
    app = open_page("data", ws.root, monkeypatch, dataset=runs[1].id)
    assert_plain(app)
    assert "This data set cannot be shown completely." in texts(app) and "is missing" in texts(app)
    assert app.dataframe[0].value["Data set"].tolist() == ["bad", "good"]
    app = app.selectbox("choose-dataset").select(runs[0].id).run()
    assert_plain(app)
    assert not app.error and len(app.get("plotly_chart")) == 3


def test_a_damaged_comparison_leaves_no_empty_frame(ws, monkeypatch):
    run = add_comparison(ws)
    next(ws.folder(run.id).glob("methods*")).unlink()
    app = open_page("compare", ws.root, monkeypatch)
    assert_plain(app)
    assert [error.value for error in app.error] == [
        "This comparison cannot be shown completely; choose another, or make it again."
    ]
    assert not [field for field in app.number_input if field.label == "Error I accept (%)"]
    assert "Jobs" in [header.value for header in app.header]


@pytest.mark.parametrize("name", ["compare", "reports"])
def test_a_comparison_of_another_version_is_reported(ws, monkeypatch, name):
    add_comparison(ws)
    change(ws, "UPDATE runs SET summary = '{}', checksum = NULL")
    app = open_page(name, ws.root, monkeypatch)
    assert_plain(app)
    assert "not those of this version" in texts(app)


def test_a_log_that_cannot_be_written_starts_nothing(ws, monkeypatch):
    (ws.root / "logs").write_text("in the way")
    app = open_page("overview", ws.root, monkeypatch)
    app.button("start-demo").click().run()
    assert_plain(app)
    assert "no worker is running" in texts(app)
    (start,) = (button for button in app.button if button.label == "Start a worker")
    start.click().run()
    assert_plain(app)
    assert "cannot be written" in app.toast[0].value and "nothing was started" in app.toast[0].value


def test_a_damaged_report_leaves_the_other_studies(ws, monkeypatch):
    for name in ("table2", "table3"):
        save_report(ws, report(name, [retrained(), moved(0.002)]))
    file = ws.root / "studies" / "table3.json"
    file.write_text(file.read_text()[:-9])
    app = open_page("studies", ws.root, monkeypatch, **{"from": "workspace"})
    assert_plain(app)
    assert [error.value for error in app.error] == ["One report is left out."]
    assert "run `puma study table3`" in texts(app)
    assert app.button(key="verdict all-users 0").label == ":orange-badge[Not reproduced]"


STEPS = {
    ("dataset",): ("add the old and the new model", "models"),
    ("dataset", "backbone"): ("add the old and the new model", "models"),
    ("backbone", "backbone"): ("import ratings or clicks", "data"),
    ("dataset", "backbone", "backbone"): ("fit prompts on the old model", "models"),
    ("dataset", "backbone", "backbone", "prompts"): ("migrate the prompts", "plan"),
    ("dataset", "backbone", "backbone", "prompts", "migration"): ("compare the", "compare"),
}


@pytest.mark.parametrize("there", STEPS)
def test_the_overview_says_what_a_verdict_still_needs(ws, monkeypatch, there):
    for number, kind in enumerate(there):
        finished(ws, kind, f"{kind} {number}", config={"number": number})
    said, page = STEPS[there]
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    assert said in texts(app)
    assert app.get("page_link")[0].proto.page == address(page)
