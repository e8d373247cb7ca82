"""Every number of every page has a unit, or is a count or a term that the documents define.

And every text says in plain words what tables of runs and exports name by the field's terms.
"""

import compared
import pandas as pd
import pytest
from dashboard_pages import open_page
from units import columns_without_unit, has_unit, numbers_without_unit, old_words

from dashboard.pages import PAGES


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("RMSE", True), ("Users", True), ("Time (s)", True), ("12 %", True), ("Score", False), ("3", False)],
)  # fmt: skip
def test_what_counts_as_a_unit(text, wanted):
    assert has_unit(text) is wanted


def test_columns_of_numbers_need_a_unit_even_as_texts_and_with_a_help_text():
    frame = pd.DataFrame({"Cost": ["0.016", "unknown"], "Change": [0.3, 0.1], "Name": ["a", "7b"]})
    settings = {"Change": {"help": "in stars", "type_config": {"format": "%+.3f"}}}
    assert list(columns_without_unit(frame, settings)) == ["column Cost", "column Change"]
    settings["Change"]["label"] = "Change (stars)"
    frame = frame.rename(columns={"Cost": "Cost (money)"})
    assert not list(columns_without_unit(frame, settings))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    ws = compared.workspace(tmp_path_factory.mktemp("units"))["ws"]
    ws.close()
    return ws.root


# The page Models needs models, which this workspace only names; see its own tests, and those of the
# page New migration and of the drawer of a person.
STATES = [
    *((name, {}) for name in PAGES if name != "models"),
    ("compare", {"view": "users"}),
    ("studies", {"view": "study", "from": "published"}),
    ("users", {"users": ["001", "030"]}),
]


@pytest.mark.parametrize(("name", "query"), STATES)
def test_every_number_has_a_unit_and_every_word_is_plain(name, query, root, monkeypatch):
    app = open_page(name, root, monkeypatch, **query)
    assert not app.exception
    assert not numbers_without_unit(app)
    assert old_words(app) == []
