"""Guesses of columns, from their values and their names."""

import numpy as np
import pandas as pd
import pytest

from puma_engine.datasets import load_shipped, preview_table
from puma_engine.datasets.importers.column_guess import guess_columns, guess_task

FIELDS = ("user_id", "item_id", "text", "outcome")


@pytest.fixture(scope="module")
def rows():
    """Ratings of real books by thirty readers, in the order of the file, as text."""
    books = load_shipped("goodbooks", users=30)
    frame = books.interactions.merge(books.items, on="item_id")[list(FIELDS)]
    return frame.sample(frac=1, random_state=0).head(400).astype(str).reset_index(drop=True)


def renamed(rows, names):
    return rows.rename(columns=dict(zip(FIELDS, names, strict=True)))


@pytest.mark.parametrize(
    "names",
    [
        ("customer_no", "sku", "product name", "stars given"),
        ("a", "b", "c", "d"),
        ("Kunde", "Artikel", "Bezeichnung", "Note"),
        ("client ref", "isbn13", "what they read", "how much they liked it"),
        # Names that contradict the contents of the columns.
        ("name", "label", "user", "product"),
    ],
)
def test_columns_are_guessed_from_their_values(rows, names):
    table = renamed(rows, names)
    for order in (names, names[::-1]):
        assert guess_columns(order, table[list(order)]) == dict(zip(FIELDS, names, strict=True))


def test_unusual_column_names_are_guessed_in_a_file(rows, tmp_path):
    path = tmp_path / "team.csv"
    names = ("customer_no", "sku", "product name", "stars given")
    renamed(rows, names).to_csv(path, index=False)
    preview = preview_table(path)
    assert preview.guess == dict(zip(FIELDS, names, strict=True)) and preview.task == "rating"
    assert len(preview.frame) == 50


@pytest.mark.parametrize(
    "times",
    [
        pd.date_range("2023-01-01", periods=400, freq="7h").strftime("%Y-%m-%d %H:%M").tolist(),
        (1_600_000_000 + 3600 * np.arange(400)).astype(str).tolist(),
    ],
)
def test_times_are_guessed_without_their_name_and_years_are_not(rows, times):
    names = ("a", "b", "c", "d")
    table = renamed(rows, names).assign(e=times, f=[str(1950 + n % 70) for n in range(400)])
    assert guess_columns(list(table), table) == dict(zip(FIELDS, names, strict=True)) | {
        "time": "e"
    }


def test_a_column_without_ratings_is_not_guessed_by_its_name(rows):
    table = rows.assign(rating=["PG-13", "R"] * 200).rename(columns={"outcome": "value"})
    assert guess_columns(list(table), table)["outcome"] == "value"


def test_ids_are_not_guessed_as_titles(rows):
    table = rows[["user_id", "item_id", "outcome"]].assign(user_id="u" + rows["user_id"])
    guess = guess_columns(list(table), table)
    assert guess == {"user_id": "user_id", "item_id": "item_id", "outcome": "outcome"}


def test_clicks_are_recognised_by_their_values():
    assert guess_task(pd.Series(["0", "1", "1"])) == "click"
    assert guess_task(pd.Series(["1", "5"])) == "rating" == guess_task(pd.Series(["", "x"]))


def test_without_rows_columns_are_guessed_by_name():
    names = ["user", "rating", "score", "name"]
    by_name = {"user_id": "user", "outcome": "rating", "text": "name"}
    assert guess_columns(names) == guess_columns(names, pd.DataFrame(columns=names)) == by_name
