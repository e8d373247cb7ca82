"""Every number of every page has a unit, or is a count or a term that the documents define.

The test reads metrics, headers of numeric columns and titles of axes. Numbers within sentences are not read.
"""

import json
import re

import compared
import pytest
from dashboard_pages import open_page

from dashboard.pages import PAGES
from puma_engine.evaluation.metrics import METRICS
from puma_engine.report.glossary import TERMS, heading

# What is counted, or numbered.
COUNTS = {
    "Comparisons", "Count", "Data sets", "Fitted prompts", "Items", "Migrations", "Models", "Pairs", "Records",
    "Of these in the train split", "Records per user", "Seed", "Seeds", "Users", "Users trained",
}  # fmt: skip
DEFINED = {heading(name).lower() for name in TERMS} | {
    item.label.lower() for item in METRICS.values()
}
UNIT = re.compile(r"\(.+\)|%|\b(s|min|h|stars|seconds|users|people|bytes|[KMG]iB|FLOPs?)\b", re.I)


def has_unit(text):
    """Whether a header, a title or a value says what its number is measured in."""
    plain = re.sub(r"<br>", " ", text)
    return plain in COUNTS or plain.lower() in DEFINED or bool(UNIT.search(plain))


def columns_without_unit(table):
    settings = json.loads(table.proto.columns or "{}")
    for name in table.value.columns:
        setting = settings.get(str(name)) or {}
        kind = setting.get("type_config") or {}
        if table.value[name].dtype.kind not in "iuf" or setting.get("hidden"):
            continue
        label = str(setting.get("label") or name)
        if not (has_unit(label) or setting.get("help") or "%%" in str(kind.get("format"))):
            yield f"column {label}"


def axes_without_unit(charts):
    """Axes whose values are numbers. Charts and panels side by side share the title of an axis."""
    drawn = [json.loads(chart.proto.spec) for chart in charts]
    shared = {titles_of(figure, "x")[0] for figure in drawn if any(titles_of(figure, "y"))}
    for figure in drawn:
        for letter in "xy":
            titles = [title for title in titles_of(figure, letter) if title]
            yield from (f"axis {title}" for title in titles if not has_unit(title))
            beside = letter == "y" and titles_of(figure, "x")[0] in shared
            if not (titles or beside or is_of_categories(figure, letter) or ticks(figure, letter)):
                yield f"{letter} axis without a title"


def axes_of(figure, letter):
    named = {name: axis for name, axis in figure["layout"].items() if name[:5] == f"{letter}axis"}
    return [
        axis
        for axis in named.values()
        if axis.get("visible", True) and axis.get("showticklabels", True)
    ]


def titles_of(figure, letter):
    """The titles of the shown axes; one without text where there is no axis."""
    return [(axis.get("title") or {}).get("text") for axis in axes_of(figure, letter)] or [None]


def ticks(figure, letter):
    """Whether every shown axis, if there is one, has its unit at its ticks."""
    return all(
        has_unit(f"{axis.get('ticksuffix', '')} {' '.join(axis.get('ticktext') or [])}")
        for axis in axes_of(figure, letter)
    )


def is_of_categories(figure, letter):
    return any(
        isinstance(values := trace.get(letter), list) and values and isinstance(values[0], str)
        for trace in figure["data"]
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("RMSE", True), ("Users", True), ("Time (s)", True), ("12 %", True), ("Score", False), ("3", False)],
)  # fmt: skip
def test_what_counts_as_a_unit(text, wanted):
    assert has_unit(text) is wanted


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    ws = compared.workspace(tmp_path_factory.mktemp("units"))["ws"]
    ws.close()
    return ws.root


# The page Models needs models, which this workspace only names.
@pytest.mark.parametrize("name", [name for name in PAGES if name != "models"])
def test_every_number_has_a_unit(name, root, monkeypatch):
    app = open_page(name, root, monkeypatch)
    assert not app.exception
    missing = [
        f"{item.label}: {item.value}"
        for item in app.metric
        if not (has_unit(item.value) or has_unit(item.label))
    ]
    for table in app.dataframe:
        missing += columns_without_unit(table)
    missing += axes_without_unit(app.get("plotly_chart"))
    assert not missing
