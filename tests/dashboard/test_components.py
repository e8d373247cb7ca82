"""Shared components of pages: addresses, escaped text, charts and their data."""

import io
import itertools
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import compared
import pandas as pd
import pytest
from dashboard_pages import open_page
from streamlit.testing.v1 import AppTest

from dashboard.components import figures, formatting
from dashboard.components.formatting import ago, duration_range, escaped, plotly_lines, short
from dashboard.components.theme import KINDS
from dashboard.engine import people
from dashboard.pages import PAGES, SECTIONS, address, url

SCRIPT = """
import streamlit as st
from dashboard.components import query_params

choice = query_params.choose("One", ["a", "b"], "single", labels={"a": "<b>first</b>"}, default="b")
many = query_params.choose_many("Many", ["a", "b", "c"], "many", default=["a"])
st.text(f"{choice} {many} {query_params.read('free', str.isdigit, 'none')}")
st.button("write", on_click=lambda: query_params.write("free", "7"))
"""


def open_script(**query):
    app = AppTest.from_string(SCRIPT, default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def shown(app):
    assert not app.exception
    return app.text[-1].value


def test_a_first_visit_shows_the_defaults_and_writes_them_into_the_address():
    app = open_script()
    assert shown(app) == "b ['a'] none"
    assert app.query_params["single"] == "b" and app.query_params["many"] == "a"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([24.0, 73.0, 100.0], [10, 20, 30, 50, 100, 200, 300, 500]),
        ([0.3, 700.0], [0.1, 1, 10, 100, 1000]),
        ([10.0], [10, 20, 30, 50]),
        ([], []),
    ],
)
def test_a_logarithmic_axis_has_ticks_within_a_power_of_ten(values, ticks):
    assert figures.log_ticks(pd.Series(values, dtype=float)) == pytest.approx(ticks)


def test_an_address_restores_its_choices():
    app = open_script(single="a", many=["c", "b"], free="12")
    assert shown(app) == "a ['c', 'b'] 12" and not app.warning
    app.selectbox[0].select("b").run()
    app.multiselect[0].unselect("c").run()
    app.button[0].click().run()
    assert shown(app) == "b ['b'] 7"
    again = open_script(**{name: app.query_params[name] for name in ("single", "many", "free")})
    assert shown(again) == shown(app)


def test_an_emptied_choice_stays_empty():
    app = open_script(many="b")
    app.multiselect[0].unselect("b").run()
    assert shown(app) == "b [] none" and "many" not in app.query_params


ALIKE = """
import streamlit as st
from dashboard.components import query_params

labels = {"abcdef1": "Same", "abcdef2": "Same", "other": "Same", "x": "Another"}
choice = query_params.choose("One", list(labels), "single", labels=labels)
many = query_params.choose_many("Many", list(labels), "many", labels=labels)
st.text(f"{choice} {many}")
st.button("again")
"""


@pytest.mark.parametrize("choice", ["abcdef1", "abcdef2", "other"])
def test_a_choice_among_equal_names_stays(choice):
    app = AppTest.from_string(ALIKE, default_timeout=120)
    app.query_params["single"] = choice
    app.query_params["many"] = ["other", choice] if choice != "other" else ["abcdef2", "other"]
    app.run()
    before = shown(app)
    assert before.startswith(choice)
    app.button[0].click().run()
    assert shown(app) == before
    app.selectbox[0].select("abcdef1").run()
    app.selectbox[0].select(choice).run()
    assert shown(app) == before
    assert len(set(app.selectbox[0].options)) == 4


@pytest.mark.parametrize("value", ["../../etc/passwd", "<script>alert(1)</script>", "x" * 5000])
def test_a_wrong_value_in_an_address_is_reported_and_replaced_by_the_default(value):
    app = open_script(single=value, many=[value, "b"], free=value)
    assert shown(app) == "b ['b'] none"
    assert len(app.warning) == 2
    assert all(value not in element.value for element in app.markdown)


def test_markup_is_escaped_and_long_or_bidirectional_text_is_cut():
    assert escaped("**b** [x](y) :red[z]") == r"\*\*b\*\* \[x\]\(y\) \:red\[z\]"
    links = "https://evil.example HTTP://x.de www.evil.example a.b@evil.example"
    assert escaped(links).replace("\\", "") == (
        "https:\u2060//evil.example HTTP:\u2060//x.de www\u2060.evil.example a.b@\u2060evil.example"
    )
    assert short("a\u202eb\nc" + "d" * 100, 10) == "a b cdddd…"


def test_chart_data_is_complete_and_contains_no_spreadsheet_formula():
    data = pd.DataFrame({"title": ["=1+1", "@x", "plain"], "value": [1.5, -2.0, 3.0]})
    csv = pd.read_csv(io.BytesIO(figures.to_csv(data)))
    assert csv["title"].tolist() == ["'=1+1", "'@x", "plain"]
    assert csv["value"].tolist() == data["value"].tolist()
    hidden = [
        " =1",
        "\t=1",
        "\u00a0-1",
        "\ufeff+1",
        "\x00@x",
        "\n=1",
        "\uff1d1",
        "\tplain",
        "a =1",
        "–1",
    ]
    texts = pd.DataFrame(
        {"a": hidden, "b": pd.Categorical(hidden), "c": pd.array(hidden, "string")}
    )
    csv = pd.read_csv(io.BytesIO(figures.to_csv(texts)))
    for name in csv:
        assert csv[name].str.startswith("'").tolist() == [True] * 8 + [False] * 2
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(figures.to_parquet(data))), data)


def test_every_kind_has_its_own_colour_and_mark():
    for part in ("label", "colour", "symbol"):
        assert len({getattr(kind, part) for kind in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("page", ["#FFFFFF", "#10161D"])
def test_every_kind_stands_out_from_the_light_and_the_dark_page(page):
    for kind in KINDS.values():
        high, low = sorted((luminance(kind.colour), luminance(page)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_captions_can_be_read(theme):
    """Streamlit draws a caption in the text's colour at 60 %."""
    config = Path(figures.__file__).parents[1] / ".streamlit" / "config.toml"
    colours = tomllib.loads(config.read_text(encoding="utf-8"))["theme"][theme]
    text, page = (
        [int(colours[name][i : i + 2], 16) for i in (1, 3, 5)]
        for name in ("textColor", "backgroundColor")
    )
    mixed = [round(0.6 * ink + 0.4 * paper) for ink, paper in zip(text, page, strict=True)]
    drawn = "#" + "".join(f"{part:02X}" for part in mixed)
    high, low = sorted((luminance(drawn), luminance(colours["backgroundColor"])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(colour):
    """Relative luminance of #RRGGBB as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture(scope="module")
def workspace_root(tmp_path_factory):
    return compared.workspace(tmp_path_factory.mktemp("headings"))["ws"].root


# The models of this workspace were never loaded, so the page Models has nothing to show.
@pytest.mark.parametrize("name", [name for name in PAGES if name != "models"])
def test_headings_skip_no_level(name, workspace_root, monkeypatch):
    app = open_page(name, workspace_root, monkeypatch)
    assert not app.exception
    levels = [level for element in app.main for level in [heading_level(element)] if level]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels


def heading_level(element):
    """The level of a heading, or 0."""
    if element.type in ("title", "header", "subheader"):
        return {"title": 1, "header": 2, "subheader": 3}[element.type]
    text = str(element.value) if element.type == "markdown" else ""
    marks = len(text) - len(text.lstrip("#"))
    return marks if text[marks : marks + 1] == " " else 0


def test_every_page_is_in_one_section_and_its_address_is_its_own():
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(PAGES)
    addresses = {name: address(name) for name in PAGES}
    assert len(set(addresses.values())) == len(PAGES)
    # Names of pages were addresses before, so none may be the address of another page today.
    assert all(other == name for name, other in addresses.items() if other in PAGES)
    assert url("compare", margin="2.0") == "trade-off?margin=2.0"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_without_a_workspace_has_its_title_and_creates_none(name, tmp_path, monkeypatch):
    app = open_page(name, tmp_path / "none", monkeypatch)
    assert not app.exception and app.title[0].value.startswith(PAGES[name][0])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.0, 3.0, "0 to 5 s"),
        (20.0, 20.0, "20 s"),
        (61.0, 92.0, "1 to 2 min"),
        (125.0, 219.0, "2 to 4 min"),
        (180.0, 180.0, "3 min"),
        (4000.0, 9000.0, "1 to 3 h"),
    ],
)
def test_a_range_of_time_is_rounded_outwards_in_one_unit(low, high, text):
    assert duration_range(low, high) == text


def test_names_of_methods_are_wrapped_rather_than_cut():
    name = "Migration trained on 60 users, refined for 60 users"
    assert plotly_lines(name) == "Migration trained on 60 users,<br>refined for 60 users"
    lines = plotly_lines(f"<b>{'word ' * 60}").split("<br>")
    assert len(lines) == 3 and lines[0].startswith("&lt;b&gt;") and lines[-1].endswith("…")


def test_prompts_of_several_seeds_are_told_apart_by_their_seed(tmp_path, monkeypatch):
    parts = compared.workspace(tmp_path)
    ws, data = parts["ws"], parts["data"]
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    again = ws.run(parts["runs"]["again"].inputs["prompts"])
    new = ws.run(again.inputs["backbone"])
    other = compared.prompts(ws, data, new, "retrained", 40.0, "other", seed=1)
    assert people.labels()[again.id] == "Full retraining · seed 0"
    assert people.labels()[other.id] == "Full retraining · seed 1"
    twin = compared.prompts(ws, data, compared.backbone(ws, "third"), "retrained", 1.0, "twin")
    # A retraining for another model is told apart by its model.
    assert people.labels()[twin.id] == "Full retraining · third"
    assert people.labels()[again.id] == "Full retraining · new · seed 0"
    assert people.labels()[other.id] == "Full retraining · new · seed 1"
    assert people.brief(people.labels()[other.id]) == "Full retraining"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s ago"),
        (59.4, "59 s ago"),
        (59.7, "1 min ago"),
        (59.4 * 60, "59 min ago"),
        (59.7 * 60, "1 h ago"),
        (90 * 60 + 5, "2 h ago"),
        (23.4 * 3600, "23 h ago"),
    ],
)
def test_an_age_has_the_largest_unit_of_which_it_is_one(seconds, text, monkeypatch):
    moment = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    clock = type("Clock", (datetime,), {"now": staticmethod(lambda _zone: moment)})
    monkeypatch.setattr(formatting, "datetime", clock)
    assert ago((moment - timedelta(seconds=seconds)).isoformat()) == text
    assert ago((moment - timedelta(hours=23.7)).isoformat()) == "2026-02-28"


def test_a_name_within_a_sentence_keeps_its_abbreviations():
    names = ["Full retraining", "PUMA, 7%", "UMAP", "x", ""]
    assert [formatting.mid_sentence(name) for name in names] == ["full retraining", *names[1:]]
