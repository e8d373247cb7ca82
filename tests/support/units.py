"""Numbers of a page without a unit, which are no counts and no terms that the documents define either;
and words that pages say otherwise.

Metrics, headers of columns of numbers, as numbers or as texts, and titles of axes are read; a help text is
no unit. Numbers within sentences are not read.
"""

import json
import re

from dashboard_pages import texts

from puma_engine.evaluation.metrics import METRICS
from puma_engine.report.glossary import TERMS, heading

# Words for things that are counted or numbered.
COUNTS = {
    "Comparisons", "Count", "Data sets", "Fitted prompts", "Held-out rows", "Id", "Item", "Items", "Migrations", "Models", "Pairs",
    "Of these used for training", "Records", "Records per user", "Seed", "Seeds", "Training records", "User", "Users", "Users trained",
}  # fmt: skip
DEFINED = {heading(name).lower() for name in TERMS} | {
    item.label.lower() for item in METRICS.values()
}
BARE = re.compile(r"[+-]?[\d,]+(\.\d+)?")
FORMAT = re.compile("%%|percent|★")
UNIT = re.compile(r"\(.+\)|%|★|\b(s|min|h|stars|seconds|users|people|bytes|[KMG]iB|FLOPs?)\b", re.I)


def has_unit(text):
    """Whether a header, a title or a value says what its number is measured in."""
    plain = re.sub(r"<br>", " ", text)
    term = plain.rpartition(": ")[2].lower()
    return plain in COUNTS or term in DEFINED or bool(UNIT.search(plain))


def columns_without_unit(frame, settings=None):
    """Columns of numbers whose header, or format, says nothing about their unit."""
    for name in frame.columns:
        setting = (settings or {}).get(str(name)) or {}
        kind = setting.get("type_config") or {}
        if setting.get("hidden") or not are_numbers(frame[name]):
            continue
        label = str(setting.get("label") or name)
        if not (has_unit(label) or FORMAT.search(str(kind.get("format")))):
            yield f"column {label}"


def are_numbers(values):
    """Whether a column holds numbers, or texts of which one is a bare number."""
    if values.dtype.kind in "iuf":
        return True
    return any(isinstance(value, str) and BARE.fullmatch(value) for value in values)


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
    """Whether every shown axis, if there is one, has its unit, or names instead of numbers, at its ticks."""
    return all(
        has_unit(f"{axis.get('ticksuffix', '')} {' '.join(axis.get('ticktext') or [])}")
        or (axis.get("ticktext") and not any(map(BARE.fullmatch, axis["ticktext"])))
        for axis in axes_of(figure, letter)
    )


def is_of_categories(figure, letter):
    return any(
        isinstance(values := trace.get(letter), list) and values and isinstance(values[0], str)
        for trace in figure["data"]
    )


def numbers_without_unit(app):
    """All numbers without a unit on a page that is open in an AppTest."""
    missing = [
        f"{item.label}: {item.value}"
        for item in app.metric
        if not (has_unit(item.value) or has_unit(item.label))
    ]
    for table in app.dataframe:
        missing += columns_without_unit(table.value, json.loads(table.proto.columns or "{}"))
    return missing + list(axes_without_unit(app.get("plotly_chart")))


# Words that docs/dashboard.md translates, and words that say nothing as a heading.
OLD_WORDS = re.compile(
    r"Undecided|Margin \(|Migrated, \d+ users|Shuffled control|Misfit|Nearest users kept|Facility"
    r"|Topology|Backbone\b|Budget\b|\bReally\b|\bClosest\b|\bWay\b"
)
LABELLED = ("selectbox", "number_input", "text_input", "slider", "metric", "expander", "toggle")


def old_words(app):
    """Words of OLD_WORDS in texts, labels of widgets and tables; the glossary may have them."""
    (glossary,) = [box for box in app.expander if "What do these words mean" in box.label] or [None]
    words = {text.value for text in glossary.markdown} if glossary else set()
    written = "\n".join(line for line in texts(app).split("\n") if line not in words)
    labels = [element.label for kind in LABELLED for element in app.get(kind)]
    tables = [element.value for element in app.dataframe]
    names = [str(name) for table in tables for name in table]
    cells = [str(cell) for table in tables for cell in table.select_dtypes("object").stack()]
    return OLD_WORDS.findall("\n".join([written, *labels, *names, *cells]))
