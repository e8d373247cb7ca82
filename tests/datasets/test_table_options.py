"""What values mean and which rows are used: ids, header names, scales, texts, clicks, splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rating_tables import EACH, USERS, changed, frame, read, save
from typer.testing import CliRunner

from puma_engine import pipeline
from puma_engine.cli.application import app
from puma_engine.datasets import check_table, preview_table, read_table
from puma_engine.datasets.reading import parquet_files
from puma_engine.datasets.reading.delimited import read_columns
from puma_engine.datasets.reading.parquet_files import unpacked_bytes
from puma_engine.errors import ConfigError, DataError
from puma_engine.store import Workspace

START = 1_400_000_000


def warned(ds: Any, words: str) -> bool:
    return any(words in warning for warning in ds.report["warnings"])


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_names_are_matched_without_capitals_and_spaces(tmp_path: Path, ending: str) -> None:
    table = frame().assign(time=lambda table: table["time"] + START)
    plain = read(save(table, tmp_path / "a.csv"))
    names = {"time": " Time", "user_id": "User_ID", "text": "TEXT ", "outcome": "outcome:float"}
    path = tmp_path / f"b.{ending}"
    other = table.rename(columns={**names, "outcome": " Outcome"})
    if ending == "jsonl":
        other.to_json(path, orient="records", lines=True)
    else:
        save(other, path)
    ds = read(path)
    assert ds.content_hash == plain.content_hash
    assert ds.report["columns_read"]["time"] == " Time"
    twice = save(other.assign(TIME=1), tmp_path / "c.csv")
    with pytest.raises(DataError, match="column 'time' more than once"):
        read(twice)


def test_an_unread_column_that_looks_like_a_field_gives_a_warning(tmp_path: Path) -> None:
    table = frame().rename(columns={"time": "timestamp"}).assign(split="train")
    ds = read(save(table, tmp_path / "a.csv"))
    assert warned(ds, "'timestamp' was not read") and warned(ds, "--column time=timestamp")
    assert warned(ds, "--column split=split") and "time" not in ds.interactions
    named = read(save(table, tmp_path / "b.csv"), columns={"time": "timestamp"})
    assert "time" in named.interactions and not warned(named, "timestamp")


def test_recbole_files_and_json_lines_are_tables(tmp_path: Path) -> None:
    table = frame().assign(time=lambda table: table["time"] + START)
    plain = read(save(table, tmp_path / "a.csv"))
    types = {"user_id": "token", "item_id": "token", "outcome": "float", "time": "float"}
    names = {name: f"{name}:{kind}" for name, kind in types.items()} | {"text": "title:token_seq"}
    inter, items = tmp_path / "mine.inter", tmp_path / "mine.item"
    table.drop(columns="text").rename(columns=names).to_csv(inter, sep="\t", index=False)
    rows = table[["item_id", "text"]].drop_duplicates().rename(columns=names)
    rows.to_csv(items, sep="\t", index=False)
    ds = read(inter, items_path=items, item_columns={"text": "title"})
    assert ds.content_hash == plain.content_hash
    assert preview_table(inter).guess["outcome"] == "outcome:float"
    lines = tmp_path / "mine.jsonl"
    table.to_json(lines, orient="records", lines=True)
    assert read(lines).content_hash == plain.content_hash
    table.to_json(tmp_path / "array.json", orient="records")
    with pytest.raises(DataError, match="holds a JSON array"):
        read(tmp_path / "array.json")
    lines.write_text(lines.read_text() + "null\n" + "[" * 9_999 + "\n")
    with pytest.raises(DataError, match=r"2 not a JSON object \(line 121: 'null'\)"):
        read(lines)
    assert read(lines, drop_invalid=True).content_hash == plain.content_hash


def test_ids_of_json_lines_keep_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    ids = [1234567890123456789, 1234567890123456790]
    rows = [
        {"user_id": user, "item_id": "i", "outcome": 4, "text": "t", "history": []} for user in ids
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read(path).users.tolist() == [str(user) for user in ids]


@pytest.mark.parametrize(("kind", "first"), [("float64", 2**53), ("float32", 2**24)])
def test_ids_that_floats_cannot_tell_apart_are_refused(
    tmp_path: Path, kind: str, first: int
) -> None:
    table = frame()
    table["user_id"] = (table["user_id"].astype(int) + first).astype(kind)
    path = save(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="several ids have become one"):
        read(path)
    table["user_id"] = frame()["user_id"].astype(int) + first
    assert len(read(save(table, path)).users) == USERS
    table["user_id"] = table["user_id"].astype(float).map("{:.6E}".format)
    table["user_id"] = "1.23457E+18"
    with pytest.raises(DataError, match="rounded numbers such as '1.23457E"):
        read(save(table.drop_duplicates("item_id"), tmp_path / "a.csv"))


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.binary_view()])
def test_views_and_dictionaries_read_like_text(tmp_path: Path, kind: pa.DataType) -> None:
    ratings = frame()
    plain = read(save(ratings, tmp_path / "plain.csv"))
    table = pa.Table.from_pandas(ratings, preserve_index=False)
    for name in ("user_id", "item_id", "text"):
        values = pa.array(ratings[name].tolist(), pa.string()).cast(pa.binary())
        values = values.cast(pa.string()).cast(kind) if kind != pa.binary_view() else values
        table = table.set_column(table.column_names.index(name), name, values.cast(kind))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=17)
    assert read(tmp_path / "a.parquet").content_hash == plain.content_hash


def test_repeated_text_of_a_parquet_file_is_in_memory_once(tmp_path: Path) -> None:
    rows, long = 20_000, "x" * 5_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([long]))
    table = pa.table(
        {
            "user_id": (np.arange(rows) // 10).astype(str).tolist(),
            "item_id": [str(n % 10) for n in range(rows)],
            "outcome": np.full(rows, 4),
            "text": texts,
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=6_000)
    # As plain text, the titles alone take 100 MB.
    assert read_columns(path, table.column_names).table.nbytes < 3_000_000
    ds = read(path)
    assert len(ds.interactions) == rows and set(ds.items["text"]) == {long}


def test_lists_that_unpack_to_far_more_than_the_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = frame().assign(outcome=1)
    table["history"] = [["0001"] * 20_000 for _ in range(len(table))]
    path = save(table, tmp_path / "a.parquet")
    assert path.stat().st_size < 60_000
    monkeypatch.setattr(parquet_files, "MAX_UNPACKED", 1 << 20)
    with pytest.raises(DataError, match="a table does not shrink that much"):
        read(path, task="click")
    short = save(table.assign(history=[["0001"]] * len(table)), tmp_path / "b.parquet")
    assert len(read(short, task="click", drop_invalid=True).interactions) == len(table)


@pytest.mark.parametrize("column", ["text", "history"])
def test_repeated_text_that_unpacks_to_far_more_when_it_is_stored_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    rows = 3_000
    table = pd.DataFrame({"user_id": "u", "item_id": [f"i{n}" for n in range(rows)], "outcome": 1})
    table["text"] = "x" * 20_000 if column == "text" else "Title"
    if column == "history":
        table["history"] = "i1 " * 20_000
    path = save(table, tmp_path / "a.parquet")
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(parquet_files, "MAX_UNPACKED", 1 << 20)
    with pytest.raises(DataError, match="a table does not shrink that much"):
        read(path, task="click", drop_invalid=True)
    table[column] = table[column].str[:30]
    short = save(table, tmp_path / "b.parquet")
    assert len(read(short, task="click", drop_invalid=True).interactions) == rows


def test_a_parquet_file_that_declares_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    rows = 50_000_000
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 20, np.int8)), pa.array(["1"]))
    table = pa.table(dict.fromkeys(("user_id", "item_id", "outcome", "text"), repeated))
    path = tmp_path / "bomb.parquet"
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(rows >> 20):
            writer.write_table(table)
    assert path.stat().st_size < 1 << 20
    assert unpacked_bytes(pq.read_metadata(path)) > 1 << 30
    for refuse in (lambda: read(path), lambda: preview_table(path)):
        with pytest.raises(DataError, match="a table does not shrink that much"):
            refuse()


def test_ratings_on_another_scale_are_mapped_or_refused(tmp_path: Path) -> None:
    table = frame().assign(outcome=lambda table: 1 + np.arange(len(table)) % 10)
    path = save(table, tmp_path / "a.csv")
    for options in ({}, {"drop_invalid": True}):
        with pytest.raises(DataError, match=r"go from 1 to 10, and 60 of 120 .*--scale 1:10"):
            read(path, **options)
    assert "--scale 1:10" in str(check_table(path, task="rating").refusal)
    rows = read(path, scale="1:10").interactions.merge(table, on=["user_id", "item_id"])
    assert np.allclose(rows["outcome_x"], 1 + 4 * (rows["outcome_y"] - 1) / 9)
    assert len(read(path, scale="1:5", drop_invalid=True).interactions) == 60
    half_stars = frame().assign(outcome=lambda table: 0.5 + (np.arange(len(table)) % 10) / 2)
    stars = read(save(half_stars, tmp_path / "half.csv"), scale="0.5:5").interactions["outcome"]
    assert stars.min() == 1 and stars.max() == 5
    unrated = table.assign(outcome=np.where(table["outcome"] == 10, -1, table["outcome"]))
    path = save(unrated, tmp_path / "unrated.csv")
    ds = read(path, scale="1:9", not_rated=-1)
    assert len(ds.interactions) == 108
    assert ds.report["dropped"]["without a rating (not_rated)"] == 12
    for scale in ("10", "5:1", "a:b", "1:inf"):
        with pytest.raises(DataError, match="the least and the largest rating"):
            read(path, scale=scale)


@pytest.mark.parametrize(("value", "suggested"), [(-1, "-1"), (0, "0"), (-99, "-99")])
def test_the_value_of_rows_without_a_rating_is_suggested(
    tmp_path: Path, value: float, suggested: str
) -> None:
    table = frame()
    table.loc[table.index[::4], "outcome"] = value
    path = save(table, tmp_path / "a.csv")
    with pytest.raises(DataError, match=rf"not_rated={suggested} \(--not-rated {suggested}\)"):
        read(path)
    assert len(read(path, not_rated=float(suggested)).interactions) == 90


def test_a_scale_that_the_ratings_hardly_use_gives_a_warning(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "a.csv")
    assert warned(read(path, scale="0:100"), "less than half of the scale 0:100")
    assert not warned(read(path, scale="0.5:5"), "of the scale")


def test_ratings_outside_the_scale_are_counted_in_a_warning(tmp_path: Path) -> None:
    path = save(changed("outcome", 9), tmp_path / "a.csv")
    with pytest.raises(DataError, match="outcome '9.*for another scale pass scale"):
        read(path)
    assert warned(read(path, drop_invalid=True), "1 ratings outside 1 to 5")


def test_a_review_is_not_taken_as_the_text_of_an_item(tmp_path: Path) -> None:
    table = frame().assign(text=[f"Review {n}" for n in range(USERS * EACH)])
    path = save(table, tmp_path / "a.csv")
    for options in ({}, {"drop_invalid": True}):
        with pytest.raises(DataError, match="'text' was read as the texts of items, and differs"):
            read(path, **options)
    # If it is so for a few items only, their rows are refused or left out.
    table = frame()
    item = table["item_id"].value_counts().index[0]
    rows = table.index[table["item_id"] == item]
    table.loc[rows[0], "text"] = "Another title"
    path = save(table, tmp_path / "b.csv")
    with pytest.raises(DataError, match=f"{len(rows)} of an item whose text differs from row"):
        read(path)
    ds = read(path, drop_invalid=True)
    assert item not in set(ds.items["item_id"])
    assert ds.report["columns_read"]["text"] == "text"


def test_a_second_table_of_reviews_is_refused_and_second_titles_give_a_warning(
    tmp_path: Path,
) -> None:
    table = frame()
    rows = save(table.drop(columns="text"), tmp_path / "rows.csv")
    reviews = save(table.assign(text=table["user_id"] + " liked it"), tmp_path / "reviews.csv")
    with pytest.raises(DataError, match="differs from row to row for"):
        read(rows, items_path=reviews)
    items = table[["item_id", "text"]].drop_duplicates()
    again = items.head(1).assign(text="Second title")
    ds = read(rows, items_path=save(pd.concat([items, again]), tmp_path / "items.csv"))
    assert warned(ds, "1 items have several texts in the second table")
    assert "Second title" not in set(ds.items["text"])


def test_the_id_may_be_the_text(tmp_path: Path) -> None:
    path = save(frame().drop(columns="text"), tmp_path / "a.csv")
    with pytest.raises(DataError, match="--id-as-text"):
        read(path)
    items = read(path, id_as_text=True).items
    assert (items["item_id"] == items["text"]).all()


@pytest.mark.parametrize(
    "write",
    [str, json.dumps, lambda past: str(np.array(past)), lambda past: f"({', '.join(past)},)"],
    ids=["python", "json", "numpy", "bare"],
)
def test_lists_written_as_text_are_histories(tmp_path: Path, write: Any) -> None:
    table = frame().assign(outcome=1)
    past = [table["item_id"].iloc[[row - 1, row - 2]].tolist() for row in range(len(table))]
    path = save(table.assign(history=[write(items) for items in past]), tmp_path / "a.csv")
    ds = read(path, task="click")
    histories = ds.interactions.set_index(["user_id", "item_id"])["history"]
    for (user, item), items in zip(table[["user_id", "item_id"]].to_numpy(), past, strict=True):
        assert histories[user, item] == [other for other in items if other != item]
    for broken in (
        "[1, {}]",
        "['a' 'b]",
        "['a''b']",
        "['a', ..., 'b']",
        "[" * 99_999 + "]",
        r"['a\xq']",
    ):
        path = save(table.head(4).assign(history=["", "[]", "[ ]", broken]), tmp_path / "b.csv")
        with pytest.raises(DataError, match="1 of 4 rows .*with a history that cannot be read"):
            read(path, task="click")


def test_histories_of_unknown_items_give_a_warning(tmp_path: Path) -> None:
    table = frame().assign(outcome=1, history="0001,0002")
    ds = read(save(table, tmp_path / "a.csv"), task="click", drop_invalid=True)
    assert warned(ds, "120 of 120 entries of histories name no item")
    ds = read(tmp_path / "a.csv", task="click", drop_invalid=True, history_separator=",")
    assert not warned(ds, "entries of histories")


def test_play_counts_become_clicks_and_negatives_are_sampled(tmp_path: Path) -> None:
    table = frame().assign(time=lambda table: table["time"] + START)
    table["outcome"] = 1 + np.arange(len(table)) % 10
    path = save(table, tmp_path / "a.csv")
    rows = read(path, task="click", click_threshold=4).interactions.merge(
        table, on=["user_id", "item_id"]
    )
    assert ((rows["outcome_x"] == 1) == (rows["outcome_y"] >= 4)).all()
    ds = read(path, task="click", click_threshold=4, draw_non_clicks=True)
    rows = ds.interactions.merge(table, on=["user_id", "item_id"], how="left")
    clicks, negatives = rows[rows["outcome_x"] == 1], rows[rows["outcome_x"] == 0]
    assert len(clicks) == (table["outcome"] >= 4).sum() == len(negatives)
    # An item that the user has a row of is never sampled, however little it was played.
    assert negatives["outcome_y"].isna().all() and (clicks["outcome_y"] >= 4).all()
    per_user = ds.interactions.groupby(["user_id", "split"])["outcome"].mean()
    assert (per_user == 0.5).all() and set(ds.interactions["split"]) == {
        *("train", "validation", "test")
    }
    part = ds.interactions[ds.interactions["user_id"].isin(["001", "007"])]
    subset = read(path, task="click", click_threshold=4, draw_non_clicks=True, users=5)
    subset_rows = subset.interactions
    assert subset_rows["user_id"].nunique() == 5 and len(part)
    expected = ds.for_users(subset.users)
    assert expected.content_hash == subset.content_hash
    with pytest.raises(DataError, match=r"pass click_threshold, such as --click-threshold 4"):
        read(path, task="click")
    full = pd.DataFrame({"user_id": np.repeat(["a", "b"], 6), "item_id": [*"012345"] * 2})
    full = save(full.assign(outcome=1, text="T" + full["item_id"]), tmp_path / "full.csv")
    assert warned(
        read(full, task="click", draw_non_clicks=True), "every user has a row of every item"
    )
    assert warned(read(full, task="click"), "draw_non_clicks (--draw-non-clicks) draws some")
    for task, options in (("rating", {"draw_non_clicks": True}), ("click", {"scale": "1:10"})):
        with pytest.raises(DataError, match=f"task {task!r} takes no"):
            read(path, task=task, **options)


def test_a_table_may_have_its_own_splits_or_be_split_at_one_time(tmp_path: Path) -> None:
    table = frame().assign(time=START + np.arange(USERS * EACH))
    splits = np.array(["Train", "valid", "test", "train"])[np.arange(len(table)) % 4]
    path = save(table.assign(fold=splits), tmp_path / "own.csv")
    rows = read(path, columns={"split": "fold"}).interactions.merge(
        table.assign(fold=splits), on=["user_id", "item_id"]
    )
    assert (rows["split"].str[:4] == rows["fold"].str.lower().str[:4]).all()
    bad_path = save(table.assign(split="all"), tmp_path / "wrong.csv")
    with pytest.raises(DataError, match="120 with a split other than train"):
        read(bad_path, columns={"split": "split"})
    shuffled = table.sample(frac=1, random_state=0).assign(time=START + np.arange(len(table)))
    ds = read(save(shuffled, tmp_path / "b.csv"), split_by="time")
    times = ds.interactions.groupby("split")["time"]
    assert times.max()["train"] < times.min()["validation"]
    assert times.max()["validation"] < times.min()["test"]
    assert 0.15 < (ds.interactions["split"] == "test").mean() < 0.25
    assert "at one time for all users" in ds.report["split"]
    # Users with late rows only have no train rows.
    by_time = read(path, split_by="time")
    trained = by_time.interactions[by_time.interactions["split"] == "train"]["user_id"]
    assert set(by_time.users) == set(trained)
    assert by_time.report["dropped"]["of users without a row to train"] > 0
    untimed = save(table.drop(columns="time"), tmp_path / "c.csv")
    with pytest.raises(DataError, match="no column of times to split by"):
        read(untimed, split_by="time")


@pytest.mark.parametrize(
    "options",
    [{"items_delimiter": ";"}, {"items_no_header": True}, {"item_columns": {"text": "t"}}],
)
def test_options_of_a_file_of_items_that_is_not_given_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = save(
        pd.DataFrame({"user_id": ["a"], "item_id": ["b"], "outcome": [1]}), tmp_path / "a.csv"
    )
    with pytest.raises(
        DataError, match=f"{next(iter(options))} is of the file of items, and none is"
    ):
        read(path, **options)


def test_items_and_users_are_filtered_and_sampled(tmp_path: Path) -> None:
    table = frame()
    path = save(table, tmp_path / "a.csv")
    ds = read(path, min_item_rows=4)
    count = table["item_id"].value_counts()
    assert set(ds.interactions["item_id"]) == set(count.index[count >= 4])
    three, five = (read(path, users=users) for users in (3, 5))
    assert len(three.users) == 3 and set(three.users) < set(five.users)
    assert read(path).for_users(three.users).content_hash == three.content_hash
    with pytest.raises(DataError, match="which has 12 usable users; ask for 1 to 12"):
        read(path, users=13)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["reviewerID", "asin", "overall"], "has asin: this is the layout of Amazon Reviews 2018"),
        (["userId", "movieId", "rating"], "puma data import movielens"),
        (["user_id", "business_id", "stars"], "puma data import yelp"),
        (
            ["user", "isbn", "score"],
            "--column user_id=user --column item_id=isbn --column outcome=score",
        ),
    ],
)
def test_the_layout_of_a_known_data_set_is_named(
    tmp_path: Path, names: list[str], message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(names) + "\n1,2,3\n")
    with pytest.raises(DataError, match=message):
        read(path)


def test_options_of_other_sources_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = str(save(frame(), tmp_path / "a.csv"))
    ws = ["-w", str(tmp_path / "ws")]
    for option in ("--max-categories=3", "--min-history=2", "--without-averages", "--max-users=9"):
        arguments = ["data", "import", "table", path, "--task", "rating", option, *ws]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and isinstance(result.exception, ConfigError | SystemExit)
        assert "Traceback" not in result.output
    with pytest.raises(ConfigError, match="'table' has no setting max_categories; it has columns"):
        read_table(path, name="a", task="rating", max_categories=3)
    arguments = ["data", "import", "table", path, "--task=rating", "--min-item-rows=4", "--users=5"]
    result = CliRunner().invoke(app, [*arguments, "--json", *ws])
    assert result.exit_code == 0 and json.loads(result.stdout)["summary"]["users"] == 5


def test_old_options_give_old_run_ids_and_an_unused_column_name_gives_a_warning(
    tmp_path: Path,
) -> None:
    path = save(frame(), tmp_path / "a.csv")
    ws = Workspace.open(tmp_path / "ws", create=True)
    run = pipeline.import_dataset(ws, "table", path=path, task="rating", min_rows=2, name="first")
    assert run.config.keys() == {"source", "task", "files", "min_rows"}
    options = ["--task=rating", "--min-rows=2", "--name=second"]
    arguments = ["data", "import", "table", str(path), *options]
    result = CliRunner().invoke(app, [*arguments, "-w", str(ws.root)])
    assert result.exit_code == 0
    assert "exists already, as 'first'" in result.stderr and "'second' is not used" in result.stderr


def test_a_check_shows_columns_and_warnings(tmp_path: Path) -> None:
    path = save(frame().rename(columns={"time": "when"}), tmp_path / "a.csv")
    result = CliRunner().invoke(app, ["data", "check", str(path), "--task=rating", "--users=4"])
    assert result.exit_code == 0 and "columns_read.text: text" in result.output
    assert "'when' was not read" in result.output
    assert "Nothing yet" not in result.output


def test_a_missing_path_or_task_of_a_table_is_named(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "a.csv")
    ws = Workspace.open(tmp_path / "ws", create=True)
    with pytest.raises(ConfigError, match=r"needs a task; choose rating or click"):
        pipeline.import_dataset(ws, "table", path=path)
    with pytest.raises(ConfigError, match=r"needs a path"):
        pipeline.import_dataset(ws, "table", task="rating")
    with pytest.raises(DataError, match=r"puma data import table FILE --task rating"):
        pipeline.import_dataset(ws, str(path))
    missing = str(tmp_path / "gone.csv")
    for name in (missing, "gone.csv"):
        with pytest.raises(DataError, match=rf"The file '{name}' does not exist.*check the path"):
            pipeline.import_dataset(ws, name)
    for name in ("nope", "x" * 5_000):
        with pytest.raises(DataError, match=r"no data set .*choose one of .*table\.$"):
            pipeline.import_dataset(ws, name)


def test_corrupt_packed_files_are_refused(tmp_path: Path) -> None:
    import gzip

    data = gzip.compress(frame().to_csv(index=False).encode())
    path = tmp_path / "a.csv.gz"
    for position in (12, len(data) // 2, len(data) - 6):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        for refuse in (
            lambda: read(path, drop_invalid=True),
            lambda: check_table(path, task="rating"),
        ):
            with pytest.raises(DataError, match="a.csv.gz"):
                refuse()


def test_whole_numbers_beyond_floats_are_outcomes_and_times(tmp_path: Path) -> None:
    table = frame().assign(time=lambda table: (table["time"] + START) * 10**9 + 1)
    table["outcome"] = 2**60
    path = save(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="are not from 1 to 5"):
        read(path)
    ds = read(path, task="click", click_threshold=1)
    assert ds.interactions["time"].min() >= START and isinstance(ds.report, dict)
    assert pd.api.types.is_integer_dtype(ds.interactions["time"])


def test_damaged_text_of_parquet_files_is_refused(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "a.parquet")
    content = path.read_bytes()
    position = content.index(b"Title 3")
    path.write_bytes(content[:position] + b"\xff" + content[position + 1 :])
    for refuse in (lambda: read(path, drop_invalid=True), lambda: preview_table(path)):
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            refuse()
