"""Tables with unusable rows: which are refused, with which message."""

from __future__ import annotations

import gzip
import re
import shlex
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rating_tables import EACH, USERS, changed, frame, read, save

from puma_engine.datasets import preview_table
from puma_engine.errors import DataError

BAD_ROWS = [
    ("outcome", float("nan"), "1 with a rating that is not a number from 1 to 5"),
    ("outcome", 5.5, "1 with a rating that is not a number from 1 to 5"),
    ("outcome", 0, "1 with a rating that is not a number from 1 to 5"),
    ("outcome", "inf", "1 with a rating that is not a number from 1 to 5"),
    ("outcome", "4,5", "1 with a rating that is not a number from 1 to 5"),
    ("user_id", "", "1 without a usable user id"),
    ("user_id", "a\x00b", "1 without a usable user id"),
    ("item_id", "  ", "1 without a usable item id"),
    ("time", "soon", "1 without a usable time"),
    ("time", "", "1 without a usable time"),
]


@pytest.mark.parametrize(("column", "value", "words"), BAD_ROWS)
def test_a_bad_row_is_refused_with_its_line_or_left_out(
    tmp_path: Path, column: str, value: object, words: str
) -> None:
    path = save(changed(column, value), tmp_path / "bad.csv")
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert f"1 of {USERS * EACH} rows cannot be used: {words} (data row 4: user_id" in message
    assert "drop_invalid=True" in message and "\n" not in message
    ds = read(path, drop_invalid=True)
    assert len(ds.interactions) == USERS * EACH - 1
    assert ds.report["dropped"][words.split(" ", 1)[1]] == 1
    assert ds.report["read"]["rows"] == len(ds.interactions) + sum(ds.report["dropped"].values())


def test_an_item_without_any_text_is_refused_but_one_filled_row_is_enough(tmp_path: Path) -> None:
    table = frame()
    item = table["item_id"].value_counts().index[0]
    item_rows = table.index[table["item_id"] == item]
    table.loc[item_rows[1:], "text"] = " \t"
    assert len(read(save(table, tmp_path / "some.csv")).interactions) == len(table)
    table.loc[item_rows, "text"] = "\x07\u200b"
    path = save(table, tmp_path / "none.csv")
    with pytest.raises(DataError, match=f"{len(item_rows)} whose item has no text"):
        read(path)
    assert item not in set(read(path, drop_invalid=True).items["item_id"])


def test_repeated_pairs_are_refused_or_the_latest_is_used(tmp_path: Path) -> None:
    table = frame()
    again = table.iloc[[0]].assign(outcome=1.5, time=5_000)
    path = save(pd.concat([again, table]), tmp_path / "twice.csv")
    with pytest.raises(DataError, match="1 repeating a user and item"):
        read(path)
    rows = read(path, drop_invalid=True).interactions
    pair = (rows["user_id"] == table["user_id"][0]) & (rows["item_id"] == table["item_id"][0])
    assert rows[pair]["outcome"].tolist() == [1.5]
    without_times = save(pd.concat([again, table]).drop(columns="time"), tmp_path / "untimed.csv")
    rows = read(without_times, drop_invalid=True).interactions
    pair = (rows["user_id"] == table["user_id"][0]) & (rows["item_id"] == table["item_id"][0])
    assert rows[pair]["outcome"].tolist() == [pytest.approx(table["outcome"][0])]


def test_several_kinds_of_bad_rows_are_reported_together(tmp_path: Path) -> None:
    table = changed("outcome", 9)
    table.loc[5, "user_id"] = ""
    table.loc[7, "outcome"] = -1
    path = save(table, tmp_path / "bad.csv")
    with pytest.raises(DataError, match=r"3 of 120 .* 1 without a usable user .*; 2 with a rating"):
        read(path)


def test_rows_with_another_number_of_fields_are_refused(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "ragged.csv")
    path.write_text(path.read_text() + "1,2,3,4,5,6,7\n1,2\n")
    with pytest.raises(
        DataError, match=r"2 without the header's number of fields \('1,2,3.* has 7 fields, not 5"
    ):
        read(path)
    ds = read(path, drop_invalid=True)
    assert ds.report["dropped"]["without the header's number of fields"] == 2
    assert len(ds.interactions) == USERS * EACH


def test_a_share_of_bad_rows_is_tolerated_only_if_asked_for(tmp_path: Path) -> None:
    table = frame()
    table.loc[[3, 40], "outcome"] = 9
    again = table.iloc[[0]].assign(time=5_000)
    path = save(pd.concat([table, again, again, again]), tmp_path / "bad.csv")
    path.write_text(path.read_text() + "1,2\n")
    with pytest.raises(DataError, match="1 without the header's number of fields"):
        read(path)
    ds = read(path, max_bad_share=0.025)
    assert len(ds.interactions) == USERS * EACH - 2
    assert {reason: count for reason, count in ds.report["dropped"].items() if count} == {
        "without the header's number of fields": 1,
        "with a rating that is not a number from 1 to 5": 2,
        "repeating a user and item (the latest is kept)": 3,
    }
    with pytest.raises(
        DataError, match=r"3 of 124 rows cannot .*1 without the header's.*At most 2.40 %"
    ):
        read(path, max_bad_share=0.024)
    with pytest.raises(DataError, match="from 0 to 1, not 2"):
        read(path, max_bad_share=2)


@pytest.mark.parametrize("name", ["no.csv", "empty.csv", "header.csv", "empty.parquet", "a.xlsx"])
def test_files_without_a_table_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    message = {"no.csv": "There is no file", "header.csv": "no rows", "a.xlsx": "unknown ending"}
    if name == "header.csv":
        path.write_text("user_id,item_id,text,outcome\n")
    elif name != "no.csv":
        path.write_bytes(b"")
    default = "cannot be read as Parquet" if name.endswith("parquet") else "is empty"
    with pytest.raises(DataError, match=message.get(name, default)):
        read(path)


def test_truncated_parquet_and_compressed_files_are_refused(tmp_path: Path) -> None:
    content = save(frame(), tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut.parquet cannot be read as Parquet"):
        read(tmp_path / "cut.parquet")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(content)[:200])
    with pytest.raises(DataError, match=r"cut.csv.gz"):
        read(tmp_path / "cut.csv.gz")
    (tmp_path / "binary.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"binary.csv"):
        read(tmp_path / "binary.csv")


def test_missing_unknown_or_repeated_columns_are_refused(tmp_path: Path) -> None:
    path = save(frame().drop(columns="outcome"), tmp_path / "a.csv")
    with pytest.raises(DataError, match="lacks the column outcome; it has user_id, item_id"):
        read(path)
    with pytest.raises(DataError, match="lacks the column stars"):
        read(path, columns={"outcome": "stars"})
    with pytest.raises(DataError, match="no field 'rating'; name columns for user_id"):
        read(path, columns={"rating": "stars"})
    with pytest.raises(DataError, match="two fields name the same column"):
        read(path, columns={"outcome": "time", "time": "time"})
    path.write_text("user_id,item_id,text,outcome,outcome\n1,2,t,3,4\n")
    with pytest.raises(DataError, match="column 'outcome' more than once"):
        read(path)


def test_a_missing_column_is_guessed_from_the_contents_of_columns(tmp_path: Path) -> None:
    names = {"user_id": "who", "item_id": "nr", "outcome": "stars_given", "text": "what it is"}
    path = save(frame().rename(columns=names), tmp_path / "a.csv")
    message = (
        "--column user_id=who --column item_id=nr --column outcome=stars_given "
        "--column 'text=what it is'?"
    )
    with pytest.raises(DataError, match=re.escape(f"in Python). Did you mean {message}")):
        read(path)
    with pytest.raises(DataError, match="lacks the column item_id, stars; it has who") as error:
        read(path, columns={"user_id": "who", "outcome": "stars"})
    assert str(error.value).endswith(f"Did you mean {message}")
    # The suggested options read the file.
    suggested = dict(word.split("=") for word in shlex.split(message[:-1]) if "=" in word)
    plain = read(save(frame(), tmp_path / "b.csv"))
    assert read(path, columns=suggested).content_hash == plain.content_hash
    # The preview guesses the same columns.
    assert preview_table(path).guess == suggested | {"time": "time"}
    titles = frame().drop_duplicates("item_id")[["item_id", "text"]]
    items = save(titles.rename(columns={"item_id": "nr", "text": "what"}), tmp_path / "items.csv")
    with pytest.raises(DataError, match="Did you mean --item-column item_id=nr --item-column text"):
        read(path, columns=suggested, items_path=items)
    del suggested["text"]
    with pytest.raises(DataError, match=r"no column of item texts.*text='?what it is'?"):
        read(path, columns=suggested)


def test_an_empty_result_and_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    path = save(frame().assign(outcome=7), tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"No row of 'a.csv' is left \(120 with a rating"):
        read(path, drop_invalid=True, scale="1:5")
    path = save(frame(), tmp_path / "b.csv")
    with pytest.raises(DataError, match="lower min_rows"):
        read(path, min_rows=11)
    with pytest.raises(DataError, match="max_rows at least that, not 5 and 4"):
        read(path, min_rows=5, max_rows=4)
    with pytest.raises(DataError, match="no task 'rank'"):
        read(path, task="rank")


def test_wrong_column_types_are_named(tmp_path: Path) -> None:
    table = pa.table({"user_id": [[1]], "item_id": ["a"], "text": ["t"], "outcome": [3]})
    pq.write_table(table, tmp_path / "nested.parquet")
    with pytest.raises(DataError, match="column of user ids has the type list"):
        read(tmp_path / "nested.parquet")
