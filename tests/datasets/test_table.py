"""Tables of any origin: columns, ids, titles, outcomes, times, histories."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rating_tables import EACH, USERS, frame, read, save

from puma_engine.datasets import read_dataset, write_dataset
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.errors import DataError

TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.tuples(TEXT, TEXT),
        st.tuples(st.floats(1, 5).map(np.float32), st.integers(10**9, 2**31)),
        min_size=1,
        max_size=25,
    )
)
def test_ids_outcomes_and_times_survive_csv_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[str, str], Any]
) -> None:
    folder: Path = tmp_path_factory.mktemp("tables")
    table = pd.DataFrame(
        [(user, item, f"Title of {item}", *values) for (user, item), values in rows.items()],
        columns=["user_id", "item_id", "text", "outcome", "time"],
    )
    datasets = [read(save(table, folder / name)) for name in ("a.csv", "a.parquet")]
    assert datasets[0].content_hash == datasets[1].content_hash
    frame = datasets[0].interactions
    records = zip(frame["user_id"], frame["item_id"], frame["outcome"], frame["time"], strict=True)
    assert {(user, item): values for user, item, *values in records} == {
        pair: list(values) for pair, values in rows.items()
    }


def test_row_order_and_column_order_do_not_matter(tmp_path: Path) -> None:
    table = frame()
    shuffled = table.sample(frac=1, random_state=1)[table.columns[::-1]]
    first, other = read(save(table, tmp_path / "a.csv")), read(save(shuffled, tmp_path / "b.csv"))
    assert first.content_hash == other.content_hash


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("bom.csv", lambda text: text.encode("utf-8-sig")),
        ("crlf.csv", lambda text: text.replace("\n", "\r\n").encode()),
        ("wide.csv", lambda text: text.encode("utf-16")),
        ("tabs.tsv", lambda text: text.replace(",", "\t").encode()),
        ("packed.csv.gz", lambda text: gzip.compress(text.encode())),
        ("blank.csv", lambda text: (text + "\n\n").encode()),
        ("UPPER.CSV", lambda text: text.encode()),
    ],
)
def test_common_csv_dialects_read_the_same(tmp_path: Path, name: str, convert: Any) -> None:
    plain = save(frame(), tmp_path / "plain.csv")
    (tmp_path / name).write_bytes(convert(plain.read_text()))
    assert read(tmp_path / name).content_hash == read(plain).content_hash


def test_another_encoding_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_bytes(frame().replace("Title 1", "Amélie").to_csv(index=False).encode("cp1252"))
    with pytest.raises(DataError, match=r"old.csv is not UTF-8 text \(line \d+\)"):
        read(path)
    assert "Amélie" in set(read(path, encoding="cp1252").items["text"])
    with pytest.raises(DataError, match="no text encoding named 'klingon'"):
        read(path, encoding="klingon")


def test_named_columns_and_delimiter_are_used(tmp_path: Path) -> None:
    names = {"user_id": "reviewer", "item_id": "asin", "text": "title", "outcome": "stars"}
    path = tmp_path / "named.csv"
    frame().rename(columns=names).to_csv(path, index=False, sep=";")
    assert read(path, columns=names, delimiter=";").content_hash == (
        read(save(frame(), tmp_path / "plain.csv")).content_hash
    )
    with pytest.raises(DataError, match=r"be ';': pass delimiter=';' \(--delimiter ';'\)"):
        read(path, columns=names)
    items = tmp_path / "items.txt"
    items.write_text("item_id\ttext\n0001\tA\n")
    with pytest.raises(DataError, match=r"--items-delimiter '\\t'"):
        read(path, columns=names, delimiter=";", items_path=items)


def test_texts_may_come_from_a_second_table(tmp_path: Path) -> None:
    table = frame()
    items = table[["item_id", "text"]].drop_duplicates("item_id")
    extra = pd.DataFrame({"item_id": ["never met"], "text": ["Unused"]})
    rows = save(table.drop(columns="text"), tmp_path / "rows.parquet")
    texts = save(pd.concat([items, extra]).rename(columns={"text": "t"}), tmp_path / "items.csv")
    ds = read(rows, items_path=texts, item_columns={"text": "t"})
    assert ds.content_hash == read(save(table, tmp_path / "all.csv")).content_hash
    with pytest.raises(DataError, match="no column of item texts"):
        read(rows)


def test_titles_lose_control_characters_only(tmp_path: Path) -> None:
    table = frame()
    expected = [
        'She said "no", twice',
        "<s>[INST] </s> <|endoftext|>",
        "é" * 10_000,
        "line one line two",
    ]
    inputs = [*expected[:3], "line\x08 one\r\n\tline\u202e two "]
    for item, title in zip(table["item_id"].unique(), inputs, strict=False):
        table.loc[table["item_id"] == item, "text"] = title
    for name in ("odd.csv", "odd.parquet"):
        assert set(expected) <= set(read(save(table, tmp_path / name)).items["text"])


def test_ids_keep_their_text_whatever_their_type(tmp_path: Path) -> None:
    table = frame()
    table["item_id"] = table["item_id"].astype("int64")
    table["user_id"] = table["user_id"].astype("category")
    ds = read(save(table, tmp_path / "typed.parquet"))
    assert set(ds.items["item_id"]) == set(table["item_id"].astype(str))
    assert ds.users[1] == "001"
    gaps = table.assign(item_id=table["item_id"].astype("float64"))
    assert read(save(gaps, tmp_path / "gaps.parquet")).content_hash == ds.content_hash
    gaps["item_id"] += 0.5
    with pytest.raises(DataError, match="holds fractions"):
        read(save(gaps, tmp_path / "halves.parquet"))
    words = frame().replace({"user_id": {"000": "NA", "001": "null", "002": "nan"}})
    assert {"NA", "null", "nan"} <= set(read(save(words, tmp_path / "words.csv")).users)


def test_times_are_read_as_dates_and_milliseconds(tmp_path: Path) -> None:
    table = frame()
    table["time"] += 1_400_000_000
    plain = read(save(table, tmp_path / "plain.csv"))
    dates = pd.to_datetime(table["time"], unit="s", utc=True)
    for name, column in (("date.parquet", dates), ("date.csv", dates.dt.strftime("%FT%TZ"))):
        assert read(save(table.assign(time=column), tmp_path / name)).content_hash == (
            plain.content_hash
        )
    in_milliseconds = save(table.assign(time=table["time"] * 1_000), tmp_path / "ms.csv")
    with pytest.raises(DataError, match="look like milliseconds. Pass time_unit='ms'"):
        read(in_milliseconds, time_unit="s")
    for unit in (None, "ms"):
        assert read(in_milliseconds, time_unit=unit).content_hash == plain.content_hash


def test_splits_follow_time_and_small_users_only_train(tmp_path: Path) -> None:
    table = pd.concat([frame(), frame().head(4).assign(user_id="few")])
    rows = read(save(table, tmp_path / "a.csv")).interactions
    ordered = rows.sort_values(["user_id", "time"]).groupby("user_id")["split"].agg(list)
    assert ordered.pop("few") == ["train"] * 4
    assert all(splits == ["train"] * 7 + ["validation"] + ["test"] * 2 for splits in ordered)


def test_filters_keep_the_latest_rows_of_active_users(tmp_path: Path) -> None:
    table = pd.concat([frame(), frame().head(4).assign(user_id="few")])
    ds = read(save(table, tmp_path / "a.csv"), min_rows=5, max_rows=6)
    assert "few" not in ds.users
    latest = table.sort_values("time").groupby("user_id").tail(6)
    matched = ds.interactions.merge(latest, on=["user_id", "item_id", "time"])
    assert len(matched) == len(ds.interactions) == 6 * USERS


def test_clicks_are_read_with_histories(tmp_path: Path) -> None:
    table = frame().drop(columns="time")
    table["outcome"] = np.arange(len(table)) % 2
    past: list[Any] = [["0001", "0002"], [], ["0003"]]
    lists = table.assign(history=[past[row % 3] for row in range(len(table))])
    lists = lists[~lists["item_id"].isin(["0001", "0002", "0003"])]
    more = pd.DataFrame({"item_id": ["0001", "0002", "0003"], "text": ["a", "b", "c"]})
    items = pd.concat([table[["item_id", "text"]], more])
    texts = save(items.drop_duplicates("item_id", keep="last"), tmp_path / "items.csv")
    rows = lists.drop(columns="text")
    first = read(save(rows, tmp_path / "l.parquet"), task="click", items_path=texts)
    joined = rows.assign(history=rows["history"].str.join("|"))
    path = save(joined, tmp_path / "j.csv")
    other = read(path, task="click", items_path=texts, history_separator="|")
    assert first.content_hash == other.content_hash
    assert {"0001", "0002", "0003"} <= set(first.items["item_id"])
    by_pair = first.interactions.set_index(["user_id", "item_id"])["history"].to_dict()
    histories = rows.set_index(["user_id", "item_id"])["history"].to_dict()
    assert by_pair == histories
    loaded = read_dataset(write_dataset(first, tmp_path / "saved"))
    assert loaded.interactions["history"].tolist() == first.interactions["history"].tolist()


def test_histories_with_unknown_items_or_the_row_itself_are_mended_or_refused(
    tmp_path: Path,
) -> None:
    table = frame().assign(outcome=1, history="")
    table.loc[0, "history"] = f"nowhere {table['item_id'][0]} {table['item_id'][1]}"
    path = save(table, tmp_path / "a.csv")
    with pytest.raises(DataError, match="1 whose history names an item without text"):
        read(path, task="click")
    ds = read(path, task="click", drop_invalid=True)
    rows = ds.interactions.set_index(["user_id", "item_id"])
    assert rows["history"][table["user_id"][0], table["item_id"][0]] == [table["item_id"][1]]
    assert len(ds.interactions) == len(table)
    assert any("All outcomes are equal" in warning for warning in ds.report["warnings"])


@pytest.mark.parametrize(("value", "is_valid"), [("True", True), ("0", True), ("2", False)])
def test_click_outcomes_are_read(tmp_path: Path, value: str, is_valid: bool) -> None:
    path = save(frame().assign(outcome=value), tmp_path / "a.csv")
    if is_valid:
        assert len(read(path, task="click").interactions) == USERS * EACH
    else:
        with pytest.raises(DataError, match="120 with a click that is not 0 or 1"):
            read(path, task="click")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\t b\u00a0c ", "a b c"),
        ("a\u2028b", "a b"),
        ("e\u0301", "é"),
        ("\ufeffTitle", "Title"),
        ("\u202eevil\u2066", "evil"),
        ("می‌خواهم", "می‌خواهم"),
        ("bad \ud800 half", "bad half"),
        ("\x00\x1b[31m", "[31m"),
    ],
)
def test_clean_text_removes_control_characters(text: str, expected: str) -> None:
    assert clean_text(text) == expected == clean_text(clean_text(text))


@pytest.mark.parametrize(
    ("column", "first", "other"),
    [
        ("user_id", "101", "101 "),
        ("user_id", "1002", "1002.0"),
        ("item_id", "9007", " 9007"),
        ("item_id", "9007", '"9007'),
        ("item_id", "caf\u00e9", "cafe\u0301"),
    ],
)
def test_ids_that_differ_only_by_additions_of_programs_give_a_warning(
    tmp_path: Path, column: str, first: str, other: str
) -> None:
    table = frame()
    rows = table.index[table[column] == table[column][0]]
    table.loc[rows, column] = first
    ds = read(save(table, tmp_path / "a.csv"))
    assert not any("differ from others" in text for text in ds.report["warnings"])
    table.loc[rows[:1], column] = other
    ds = read(save(table, tmp_path / "b.csv"))  # the writer quotes values where needed
    assert {first, other} <= set(ds.interactions[column])
    (warning,) = [text for text in ds.report["warnings"] if "differ from others" in text]
    assert warning.startswith(f"1 {column[:4]} ids differ") and f"one is {other!r}" in warning


def test_texts_in_another_encoding_give_a_warning(tmp_path: Path) -> None:
    table = frame().assign(text=lambda table: "Amélie " + table["item_id"])
    path = save(table, tmp_path / "a.csv")
    assert not any("UTF-8" in text for text in read(path).report["warnings"])
    warnings = read(path, encoding="cp1252").report["warnings"]
    (warning,) = [text for text in warnings if "UTF-8" in text]
    assert warning.startswith("40 item texts look like UTF-8") and "'AmÃ©lie " in warning
    assert "for 'Amélie " in warning


def test_item_ids_spelled_differently_in_the_second_table_give_a_warning(tmp_path: Path) -> None:
    table = frame()
    items = table[["item_id", "text"]].drop_duplicates("item_id")
    items["item_id"] = [id_ if id_ > "0030" else id_.lstrip("0") for id_ in items["item_id"]]
    path = save(table.drop(columns="text"), tmp_path / "a.csv")
    items_path = save(items, tmp_path / "items.csv")
    with pytest.raises(DataError, match="whose item has no text"):
        read(path, items_path=items_path)
    ds = read(path, items_path=items_path, drop_invalid=True)
    (warning,) = [text for text in ds.report["warnings"] if "without a text" in text]
    assert "of 120 rows name an item without a text" in warning and "alike in both files" in warning


@pytest.mark.parametrize(
    "change", [{"user_id": True}, {"item_id": False}, {"history": ["0001", True]}]
)
def test_booleans_are_refused_as_ids_in_json_lines(tmp_path: Path, change: dict[str, Any]) -> None:
    records = frame().to_dict("records")
    for record in records:
        record |= {"outcome": record["outcome"] > 3, "history": []}
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    # An outcome may be true or false.
    assert set(read(path, task="click").interactions["outcome"]) == {0.0, 1.0}
    records[2] |= change
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match="1 with true or false as an id .line 3: "):
        read(path, task="click")
    ds = read(path, task="click", drop_invalid=True)
    assert ds.report["dropped"]["with true or false as an id"] == 1
    assert len(ds.interactions) == len(records) - 1
