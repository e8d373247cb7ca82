"""Data sets: shipped ones, their documented properties, splits, populations, and files."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from puma_engine.datasets import (
    REGISTRY,
    Dataset,
    data_root,
    import_folder,
    is_foundation,
    load_shipped,
    read_dataset,
    statistics,
    validate,
    write_dataset,
)
from puma_engine.datasets.population import Population
from puma_engine.datasets.shipped_builder import ship, shipped_tables
from puma_engine.errors import DataError, StoreError

NAMES = ("goodbooks", "goodbooks-to-read", "movietweetings")
ORIGINALS = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module", params=NAMES)
def shipped(request: pytest.FixtureRequest) -> Dataset:
    return load_once(request.param)


@pytest.fixture(scope="module")
def films() -> Dataset:
    return load_shipped("movietweetings", users=80)


def shuffled(ds: Dataset, seed: int = 3) -> Dataset:
    rows = ds.interactions.sample(frac=1, random_state=seed).reset_index(drop=True)
    items = ds.items.sample(frac=1, random_state=seed).reset_index(drop=True)
    return Dataset(ds.name, ds.task, rows, items, ds.report)


@cache
def load_once(name: str, population: Population = "product") -> Dataset:
    return load_shipped(name, population=population)


def test_every_source_is_registered_and_matches_its_documentation(shipped: Dataset) -> None:
    assert set(NAMES) == {name for name, source in REGISTRY.items() if source.shipped}
    validate(shipped)
    assert shipped.interactions["outcome"].dtype == np.float32
    assert all(isinstance(user, str) for user in shipped.users[:5].tolist())
    assert list(shipped.users) == sorted(set(shipped.interactions["user_id"]))
    assert json.loads(json.dumps(shipped.report)) == shipped.report
    assert not shipped.items["text"].str.contains(r"[\x00-\x1f\x7f]|\s\s|^\s|\s$", regex=True).any()


def test_shipped_goodbooks_has_the_users_that_the_documentation_promises() -> None:
    books = load_once("goodbooks")
    foundation = load_once("goodbooks", "foundation")
    assert len(books.users) + len(foundation.users) == 14_612
    assert abs(len(foundation.users) / 14_612 - 0.30) < 0.01
    assert books.report["users_with_enough_rows"] == 14_612
    rows_per_user = books.interactions["user_id"].value_counts()
    assert rows_per_user.max() == 45 and rows_per_user.min() == 20


def test_report_accounts_for_every_row(shipped: Dataset) -> None:
    report = shipped.report
    added = int((shipped.interactions["outcome"] == 0).sum()) if shipped.task == "click" else 0
    rows_left = report["kept"]["rows"] - added
    assert report["read"]["rows"] == rows_left + sum(report["dropped"].values())
    assert report["kept"]["users"] == len(shipped.users)
    assert report["kept"]["items"] == len(shipped.items)


def test_each_user_has_train_validation_and_test_rows_in_the_promised_shares(
    shipped: Dataset,
) -> None:
    counts = shipped.interactions.groupby(["user_id", "split"]).size().unstack(fill_value=0)
    share = counts.sum() / counts.to_numpy().sum()
    assert (counts > 0).all(axis=None)
    assert share["test"] == pytest.approx(0.20, abs=0.015)
    assert share["validation"] == pytest.approx(0.10, abs=0.015)


def test_foundation_and_product_users_are_disjoint_across_tasks() -> None:
    product = set(load_once("goodbooks").users) | set(load_once("goodbooks-to-read").users)
    for name in ("goodbooks", "goodbooks-to-read"):
        assert product.isdisjoint(load_once(name, "foundation").users)


def test_foundation_rule_is_the_documented_hash() -> None:
    users = [str(number) for number in range(3_000)]
    expected = [
        int.from_bytes(hashlib.sha256(f"goodbooks:{user}".encode()).digest()[:8], "big")
        < 0.3 * 2**64
        for user in users
    ]
    assert is_foundation(users, "goodbooks").tolist() == expected
    assert is_foundation(users, "other").tolist() != expected


def test_a_subset_of_users_has_exactly_their_rows_of_the_full_data_set(shipped: Dataset) -> None:
    subset = load_shipped(shipped.name, users=120)
    same = shipped.for_users(subset.users)
    assert len(subset.users) == 120
    assert subset.content_hash == same.content_hash
    assert set(load_shipped(shipped.name, users=40).users) < set(subset.users)


def test_the_seed_determines_the_data_set(films: Dataset) -> None:
    assert load_shipped("movietweetings", users=80).content_hash == films.content_hash
    books = [load_shipped("goodbooks", users=1_000, seed=seed) for seed in (0, 1)]
    first, second = (ds.interactions for ds in books)
    both = first.merge(second, on=["user_id", "item_id"], suffixes=("_a", "_b"))
    assert set(books[0].users) != set(books[1].users)
    assert 0.4 < (both["split_a"] == both["split_b"]).mean() < 0.7


def test_chronological_hold_out_is_later_than_training(films: Dataset) -> None:
    times = films.interactions.groupby(["user_id", "split"])["time"]
    last, first = times.max().unstack(), times.min().unstack()
    assert (last["train"] <= first["validation"]).all()
    assert (last["validation"] <= first["test"]).all()


def test_movietweetings_keeps_the_latest_85_and_halves_ratings_upwards() -> None:
    folder = data_root() / "movietweetings"
    raw = pq.read_table(folder / "ratings.parquet").to_pandas()
    raw = raw[raw["rating"] > 0].astype({"user_id": str, "imdb_id": str})
    films = load_once("movietweetings")
    user = films.interactions["user_id"].value_counts().index[0]
    latest = raw[raw["user_id"] == user].sort_values("timestamp").tail(85)
    rows = films.for_users([user]).interactions
    expected = dict(zip(latest["imdb_id"], np.ceil(latest["rating"] / 2), strict=True))
    assert len(raw[raw["user_id"] == user]) > 85
    assert dict(zip(rows["item_id"], rows["outcome"], strict=True)) == expected


def test_a_repeated_goodbooks_rating_counts_once_with_its_last_value() -> None:
    raw = pq.read_table(data_root() / "goodbooks" / "ratings.parquet").to_pandas()
    raw = raw.astype({"user_id": str, "book_id": str}).rename(columns={"book_id": "item_id"})
    repeated = raw[raw.duplicated(["user_id", "item_id"], keep=False)]
    last = repeated.groupby(["user_id", "item_id"])["rating"].last()
    rows = load_once("goodbooks").interactions
    books = rows.set_index(["user_id", "item_id"])["outcome"].sort_index()
    seen = last.index.intersection(books.index)
    assert len(seen) > 500
    assert (books.loc[seen] == last.loc[seen]).all()


def test_sampled_negatives_were_never_marked_nor_rated() -> None:
    folder = data_root() / "goodbooks"
    known = {
        pair
        for stem in ("ratings", "to_read")
        for pair in zip(
            *pq.read_table(folder / f"{stem}.parquet", columns=["user_id", "book_id"])
            .to_pydict()
            .values(),
            strict=True,
        )
    }
    clicks = load_once("goodbooks-to-read")
    negatives = clicks.interactions[clicks.interactions["outcome"] == 0]
    pairs = zip(negatives["user_id"].astype(int), negatives["item_id"].astype(int), strict=True)
    assert known.isdisjoint(pairs)
    per_user = clicks.interactions.groupby("user_id")["outcome"].mean()
    assert (per_user == 0.5).all()


def test_popularity_hardly_separates_clicks_from_sampled_negatives() -> None:
    clicks = load_once("goodbooks-to-read").interactions
    marks = pq.read_table(data_root() / "goodbooks" / "to_read.parquet").to_pandas()
    count = clicks["item_id"].map(marks["book_id"].astype(str).value_counts()).fillna(0)
    rank = count.rank().to_numpy()
    positive = clicks["outcome"].to_numpy() == 1
    n, m = positive.sum(), (~positive).sum()
    area = (rank[positive].sum() - n * (n + 1) / 2) / (n * m)
    assert 0.45 < area < 0.55


def test_histories_are_five_other_train_positives_of_the_same_user() -> None:
    clicks = load_shipped("goodbooks-to-read", users=300).interactions
    train = clicks[(clicks["split"] == "train") & (clicks["outcome"] == 1)]
    allowed = train.groupby("user_id")["item_id"].agg(set)
    for user, item, past in clicks[["user_id", "item_id", "history"]].itertuples(index=False):
        assert len(set(past)) == 5
        assert set(past) <= allowed[user] - {item}


def test_content_hash_depends_on_values_but_not_on_order_or_name(films: Dataset) -> None:
    assert shuffled(films).content_hash == films.content_hash
    renamed = Dataset("other", films.task, films.interactions, films.items, {})
    assert renamed.content_hash == films.content_hash
    for column, value in (("outcome", 2.5), ("split", "test"), ("time", 1), ("item_id", "x")):
        rows = films.interactions.copy()
        row = int(np.flatnonzero(rows[column] != value)[0])
        rows.loc[row, column] = value
        assert Dataset("n", "rating", rows, films.items, {}).content_hash != films.content_hash
    items = films.items.copy()
    items.loc[0, "text"] = "Another title"
    assert Dataset("n", "rating", films.interactions, items, {}).content_hash != films.content_hash


def test_row_numbers_identify_every_user_and_item(shipped: Dataset) -> None:
    frame = shipped.interactions
    assert (shipped.users[shipped.user_rows] == frame["user_id"].to_numpy(dtype=str)).all()
    items = shipped.items["item_id"].to_numpy()
    assert (items[shipped.item_rows] == frame["item_id"].to_numpy()).all()


def test_for_users_joins_by_id_and_refuses_unknown_users(films: Dataset) -> None:
    some = films.users[[7, 3]]
    part = shuffled(films).for_users(some)
    assert part.content_hash == films.for_users(some[::-1]).content_hash
    validate(part)
    with pytest.raises(DataError, match=r"1 of 2 users are not in.*'nobody'"):
        films.for_users([films.users[0], "nobody"])


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_is_the_same_after_a_round_trip(name: str, tmp_path: Path) -> None:
    ds = load_shipped(name, users=30)
    folder = write_dataset(ds, tmp_path / "made" / "here")
    loaded = read_dataset(folder)
    pd.testing.assert_frame_equal(loaded.interactions, ds.interactions)
    pd.testing.assert_frame_equal(loaded.items, ds.items)
    assert (loaded.report, loaded.task, loaded.name) == (ds.report, ds.task, ds.name)
    assert write_dataset(ds, folder) == folder


def test_a_folder_in_use_is_not_overwritten(films: Dataset, tmp_path: Path) -> None:
    folder = write_dataset(films, tmp_path / "films")
    with pytest.raises(DataError, match="is in use"):
        write_dataset(films.for_users(films.users[:3]), folder)
    assert read_dataset(folder).content_hash == films.content_hash


def test_damaged_files_and_newer_formats_are_refused(films: Dataset, tmp_path: Path) -> None:
    folder = write_dataset(films, tmp_path / "films")
    path = folder / "dataset.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        read_dataset(folder)
    path.write_text(json.dumps({**description, "content_hash": "0" * 16}))
    with pytest.raises(DataError, match="was changed"):
        read_dataset(folder)
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_dataset(folder)
    path.write_text(json.dumps(description))
    (folder / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_dataset(folder)
    with pytest.raises(DataError, match="holds no data set"):
        read_dataset(tmp_path)


def test_a_full_disk_leaves_nothing_behind(
    films: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="is full"):
        write_dataset(films, tmp_path / "films")
    assert list(tmp_path.iterdir()) == []


def test_statistics_agree_with_the_rows(shipped: Dataset) -> None:
    facts = statistics(shipped)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["records"] == sum(facts["rows"].values()) == len(shipped.interactions)
    assert facts["users"] == len(shipped.users)
    assert sum(facts["outcomes"].values()) == pytest.approx(1)
    assert facts["density"] == facts["records"] / (facts["users"] * facts["items"])
    assert ("time" in facts) == (shipped.name == "movietweetings")
    assert facts.get("history", 5.0) == 5.0


@pytest.mark.parametrize("family", ["goodbooks", "movietweetings"])
def test_shipped_files_are_made_by_the_shipping_command(family: str) -> None:
    source = ORIGINALS / family
    if not source.is_dir():
        pytest.skip("the original tables are not beside the checkout")
    for stem, table in shipped_tables(family, source).items():
        assert table.equals(pq.read_table(data_root() / family / f"{stem}.parquet"))
    name = "goodbooks-to-read" if family == "goodbooks" else family
    assert import_folder(name, source).content_hash == load_once(name).content_hash


def test_shipping_shipped_data_again_changes_nothing(tmp_path: Path) -> None:
    folder = data_root() / "movietweetings"
    for path in ship("movietweetings", folder, tmp_path):
        assert pq.read_table(path).equals(pq.read_table(folder / path.name))


def test_an_original_folder_of_csv_files_reads_like_parquet(tmp_path: Path) -> None:
    folder = data_root() / "goodbooks"
    for stem in ("ratings", "books", "to_read"):
        frame = pq.read_table(folder / f"{stem}.parquet").to_pandas()
        if "user_id" in frame:
            frame = frame[frame["user_id"] < 2_000]
        frame.to_csv(tmp_path / f"{stem}.csv", index=False)
    small = import_folder("goodbooks", tmp_path)
    assert small.content_hash == load_once("goodbooks").for_users(small.users).content_hash
    # A book that is marked twice is one click.
    clicks = import_folder("goodbooks-to-read", tmp_path)
    marks = pd.read_csv(tmp_path / "to_read.csv")
    marks = pd.concat([marks, marks[::3]])
    marks.to_csv(tmp_path / "to_read.csv", index=False)
    again = import_folder("goodbooks-to-read", tmp_path)
    validate(again)
    assert again.content_hash == clicks.content_hash
    assert again.report["dropped"]["repeating a user and item (the latest is kept)"] > 0


def test_impossible_requests_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, films: Dataset
) -> None:
    with pytest.raises(DataError, match="no data set 'nope'; choose one of .*goodbooks"):
        load_shipped("nope")
    with pytest.raises(DataError, match="1802 product users; ask for 1 to 1802"):
        load_shipped("movietweetings", users=2_000)
    with pytest.raises(DataError, match="no population 'both'"):
        load_shipped("movietweetings", population="both")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no split 'dev'"):
        films.rows("dev")
    with pytest.raises(DataError, match=r"neither ratings.parquet nor ratings.csv"):
        import_folder("goodbooks", tmp_path)
    (tmp_path / "ratings.csv").write_text("user_id,rating\n1,5\n")
    with pytest.raises(DataError, match="lacks the column book_id; it has user_id, rating"):
        import_folder("goodbooks", tmp_path)
    monkeypatch.setenv("PUMA_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="PUMA_DATA names"):
        load_shipped("goodbooks")
