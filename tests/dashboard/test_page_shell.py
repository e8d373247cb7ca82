"""The HTML page around the dashboard: its style names what the pages draw, and widgets load early."""

import json
import re
import subprocess
import sys
from pathlib import Path

from streamlit.testing.v1 import AppTest

from dashboard import audit, shell

DASHBOARD = Path(shell.__file__).parent
RESULTS = DASHBOARD.parent / "benchmarks" / "results" / "dashboard.json"


def test_places_that_the_style_keeps_are_those_of_elements_that_the_pages_draw():
    keys = set(re.findall(r"\.st-key-([\w-]+)", shell.STYLE.read_text(encoding="utf-8")))
    sources = "".join(file.read_text(encoding="utf-8") for file in DASHBOARD.rglob("*.py"))
    assert {"people-maps", "plan-costs", "budget", "margin"} <= keys
    assert not [key for key in keys if f'key="{key}"' not in sources]


def test_the_page_is_completed_and_loads_widgets_of_this_streamlit():
    page = shell.index().decode("utf-8")
    assert f"<title>{shell.TITLE}</title>" in page and "Streamlit</title>" not in page
    assert shell.STYLE.read_text(encoding="utf-8") in page
    names = {name.partition(".")[0] for name in shell.widget_scripts()}
    assert set(shell.WIDGETS) <= names


def test_the_published_audit_has_every_page_in_both_themes_and_misses_no_limit():
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["lighthouse"]["rows"]
    actual = {(row["page"], row["theme"]) for row in rows}
    assert actual == {(page, theme) for page in audit.PAGES for theme in audit.THEMES}
    assert not [row for row in rows if audit.misses_limits(row)]


def test_an_audit_of_some_pages_keeps_the_figures_of_the_others():
    rows = [{"page": page, "theme": "dark", "accessibility": 90} for page in audit.PAGES]
    again = {"page": "models", "theme": "dark", "accessibility": 100}
    added = {"page": "models", "theme": "light", "accessibility": 100}
    merged = audit.with_rows(rows, [again, added])
    assert len(merged) == len(rows) + 1 and again in merged and added in merged
    assert all(row in merged for row in rows if row["page"] != "models")


def test_the_server_loads_its_pages_at_the_start_and_keeps_them_out_of_garbage_collections():
    report = (
        "import gc, sys, dashboard.app; from dashboard.pages import PAGES;"
        "missing = {f'dashboard.views.{name}' for name in PAGES} - sys.modules.keys();"
        "late = {'torch', 'umap'} & sys.modules.keys();"
        "print(missing, late, len(gc.get_objects()) < gc.get_freeze_count() / 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", report],
        cwd=DASHBOARD.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["set()", "set()", "True"]
    assert done.stderr == ""


def test_a_page_that_is_drawn_again_leaves_the_search_path_of_modules_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "none"))
    app = AppTest.from_file(str(DASHBOARD / "main.py"), default_timeout=120).run()
    paths = list(sys.path)
    app.run()
    assert not app.exception and sys.path == paths
