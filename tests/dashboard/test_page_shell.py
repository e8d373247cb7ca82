"""The HTML page around the dashboard: its style names what the pages draw, and widgets load early."""

import json
import re
from pathlib import Path

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
