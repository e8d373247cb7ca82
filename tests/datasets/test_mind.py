"""MIND from its original files: rows of sessions, the published split, histories, bad lines, filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import original_files as of
import pandas as pd
import pytest

from puma_engine.datasets import Dataset, import_folder, validate
from puma_engine.datasets.importers import mind
from puma_engine.errors import DataError

OPEN = {
    "min_history": 0,
    "min_clicks": 0,
    "min_rows": 0,
    "max_rows": 0,
    "min_test_rows": 0,
    "max_test_rows": 0,
    "max_history": 50,
    "max_history_characters": 0,
    "max_users": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of.write_mind(tmp_path_factory.mktemp("mind"))


@pytest.fixture(scope="module")
def clean(folder: Path) -> Dataset:
    return read(folder)


def read(folder: Path, **how: Any) -> Dataset:
    return import_folder("mind", folder, **how)


def accounted(ds: Dataset) -> bool:
    report = ds.report
    return report["read"]["rows"] == report["kept"]["rows"] + sum(report["dropped"].values())


def parsed(lines: list[str]) -> list[tuple[str, pd.Timestamp, list[str], list[tuple[str, int]]]]:
    sessions = []
    for line in lines:
        _, user, time, history, shown = line.split("\t")
        pairs = [(word[:-2], int(word[-1])) for word in shown.split()]
        sessions.append((user, pd.Timestamp(time), history.split(), pairs))
    return sessions


def expected(train: list[str], dev: list[str]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return the expected row of each user-item pair without filters, from the definition."""
    best: dict[tuple[str, str], tuple[Any, ...]] = {}
    for part, lines in (("train", train), ("dev", dev)):
        for user, time, history, pairs in parsed(lines):
            for item, click in pairs:
                past = sorted(set(history) - {item})
                row = (part == "dev", click, time, past)
                if (user, item) not in best or row[:3] > best[user, item][:3]:
                    best[user, item] = row
    return best


def test_paper_filters_cap_rows_clicks_and_histories(clean: Dataset) -> None:
    validate(clean)
    rows = clean.interactions
    test = rows["split"] == "test"
    assert accounted(clean) and len(clean.users) == 8
    assert set(rows[test].groupby("user_id").size()) == {20}
    assert rows[~test].groupby("user_id").size().max() <= 60
    assert rows.groupby(["user_id", test])["outcome"].mean().max() <= 0.5
    lengths = {len(past) for past in rows["history"]}
    assert lengths == {5}
    assert (rows["outcome"].isin([0, 1])).all()
    assert clean.items["text"].str.fullmatch(r'News "N\d+"').all()


def test_without_filters_every_pair_is_imported_once(folder: Path) -> None:
    train, dev, _ = of.mind_lines()
    ds = read(folder, **OPEN)
    expected_rows = expected(train, dev)
    assert len(ds.interactions) == len(expected_rows)
    for row in ds.interactions.itertuples(index=False):
        in_dev, click, time, past = expected_rows[row.user_id, row.item_id]
        assert (row.split == "test") == in_dev and row.outcome == click
        assert pd.Timestamp(row.time, unit="s") == time
        assert sorted(row.history) == past
    repeats = sum(len(pairs) for *_, pairs in parsed([*train, *dev])) - len(expected_rows)
    assert repeats and [n for n in ds.report["dropped"].values() if n] == [repeats]


def test_drawn_histories_come_from_the_history_of_the_session(clean: Dataset) -> None:
    train, dev, _ = of.mind_lines()
    past = {user: set(history) for user, _, history, _ in parsed([*train, *dev])}
    rows = clean.interactions
    for user, item, history in zip(rows["user_id"], rows["item_id"], rows["history"], strict=True):
        assert set(history) <= past[user] - {item} and len(set(history)) == len(history)
    assert rows["history"].map(tuple).nunique() > 3 * len(clean.users)


def test_dev_is_the_test_split_and_the_latest_train_rows_are_validation(clean: Dataset) -> None:
    rows = clean.interactions
    assert rows[rows["split"] != "test"]["time"].max() < rows[rows["split"] == "test"]["time"].min()
    train = rows[rows["split"] != "test"]
    for _, user_rows in train.groupby(["user_id", "outcome"]):
        late = user_rows[user_rows["split"] == "validation"]["time"]
        early = user_rows[user_rows["split"] == "train"]["time"]
        assert len(late) == (max(1, round(len(user_rows) / 8)) if len(user_rows) >= 5 else 0)
        assert not len(late) or late.min() >= early.max()


def session(number: int, user: str, shown: list[str], past: list[str], hour: int = 1) -> str:
    return of.behavior(number, user, f"11/{10 + number % 5}/2019 {hour}:00:00 AM", past, shown)


def test_clicks_and_dev_rows_are_preferred_among_repeated_pairs(tmp_path: Path) -> None:
    titles = [of.news(f"N{number}", f"Title {number}") for number in range(9)]
    train = [
        session(0, "A", ["N1-1", "N2-0", "N3-0"], ["N5"]),
        session(1, "A", ["N1-0", "N2-1", "N3-0", "N3-0"], ["N5"]),
    ]
    dev = [session(4, "A", ["N3-1", "N4-0"], ["N3", "N5", "N5", "unknown"])]
    ds = read(of.write_mind(tmp_path, (train, dev, titles)), **OPEN)
    rows = ds.interactions.set_index("item_id")
    assert rows["outcome"].to_dict() == {"N1": 1, "N2": 1, "N3": 1, "N4": 0}
    assert rows["split"].to_dict() == {"N1": "train", "N2": "train", "N3": "test", "N4": "test"}
    assert rows["history"]["N3"] == ["N5"] and sorted(rows["history"]["N4"]) == ["N3", "N5"]
    assert accounted(ds)


def test_each_user_filter_counts_what_it_drops(tmp_path: Path) -> None:
    titles = [of.news(f"N{number}", f"Title {number}") for number in range(100)]
    past = [f"N{number}" for number in range(7)]
    shown = [f"N{number}-{int(number < 24)}" for number in range(20, 50)]
    tested = [f"N{number}-0" for number in range(60, 75)]
    made = {
        "good": (shown, tested, past, past),
        "only-train": (shown, [], past, past),
        "only-dev": ([], tested, past, past),
        "short-past": (shown, tested, past[:6], past),
        "few-clicks": ([word.replace("20-1", "20-0") for word in shown], tested, past, past),
        "few-rows": (shown[:19], tested, past, past),
        "few-tests": (shown, tested[:9], past, past),
    }
    train = [session(0, user, a, h) for user, (a, _, h, _) in made.items() if a]
    dev = [session(4, user, b, h) for user, (_, b, _, h) in made.items() if b]
    ds = read(of.write_mind(tmp_path, (train, dev, titles)))
    assert ds.users.tolist() == ["good"]
    assert {reason: count for reason, count in ds.report["dropped"].items() if count} == {
        "of users that only train or only dev has": 30 + 15,
        "of users with fewer than 7 news in their history": 45,
        "of users with fewer than 4 clicks or 20 rows to train": 45 + 34,
        "of users with fewer than 10 rows to test": 39,
    }
    assert accounted(ds)


def test_long_histories_drop_the_row(tmp_path: Path) -> None:
    train, dev, titles = of.mind_lines(users=3)
    longer = [line.replace('News "N1', f'{"x" * 400} "N1') for line in titles]
    ds = read(of.write_mind(tmp_path, (train, dev, longer)), min_test_rows=1)
    texts = dict(zip(ds.items["item_id"], ds.items["text"], strict=True))
    joined = [" ".join(texts[item] for item in past) for past in ds.interactions["history"]]
    assert max(map(len, joined)) <= 512
    assert ds.report["dropped"]["with a history of more than 512 characters"] > 0
    assert accounted(ds)


def test_bad_lines_are_counted_and_change_nothing(clean: Dataset, tmp_path: Path) -> None:
    train, dev, titles = of.mind_lines()
    number, user, time, history, shown = train[0].split("\t")
    bad: list[Any] = [
        "junk",
        "\t".join([number, user, time, history]),
        "\t".join([number, user, time, history, shown, "more"]),
        "\t".join([number, " ", time, history, shown]),
        "\t".join([number, user, "13/45/2019 9:00:00 AM", history, shown]),
        "\t".join([number, user, "", history, shown]),
        "\t".join([number, user, time, history, " "]),
    ]
    unusual_line = "\t".join(
        [number, user, time, history, f"{shown} N1 N1-2 -1 N99999-1 -  untitled-0"]
    )
    stamp = str(int(pd.Timestamp(dev[0].split("\t")[2]).timestamp()))
    dev[0] = "\t".join([*dev[0].split("\t")[:2], stamp, *dev[0].split("\t")[3:]])
    titles += [of.news("untitled", " "), "N5\ttoo\tfew", of.news("N1", "A later title")]
    titles[3] = f"{titles[3]}é".encode("latin-1")
    lines = ([*bad, unusual_line, *train[1:]], dev, titles)
    ds = read(
        of.write_mind(tmp_path, lines, ending=b"\r\n", mark=b"\xef\xbb\xbf"), max_bad_share=0.2
    )
    assert ds.content_hash == clean.content_hash
    files = ds.report["files"]
    assert files["train_behaviors"]["dropped"] == {
        "without 5 fields": 3,
        "without a usable user id": 1,
        "without a usable time": 2,
        "without impressions": 1,
    }
    assert files["train_news"]["dropped"]["without 8 fields"] == 1
    assert files["train_news"]["left_out"] == {"without a usable title": 1}
    assert files["train_news"]["mended"] == {"not UTF-8, read as Windows-1252": 1}
    assert ds.report["dropped"]["impressions without a click mark of 0 or 1"] == 3
    assert ds.report["dropped"]["impressions of unknown news, or of news without a title"] == 3
    assert ds.report["warnings"] and accounted(ds)
    with pytest.raises(DataError, match=r"7 of 47 lines .*--max-bad-share"):
        read(tmp_path, max_bad_share=0.1)


def test_a_part_without_clicks_marks_is_refused(tmp_path: Path) -> None:
    train, dev, titles = of.mind_lines(users=2)
    without_marks = [line.replace("-0", "").replace("-1", "") for line in dev]
    with pytest.raises(
        DataError, match=r"96 impressions without a click mark.*test part has no marks"
    ):
        read(of.write_mind(tmp_path, (train, without_marks, titles)))


def test_the_seed_chooses_the_same_users_for_any_batch_size(
    clean: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three, two = read(folder, users=3), read(folder, users=2)
    assert set(two.users) < set(three.users) and len(three.users) == 3
    assert three.content_hash == clean.for_users(three.users).content_hash
    assert read(folder, max_users=3).content_hash == three.content_hash
    assert accounted(three) and three.report["dropped"]["of users that were not asked for"]
    monkeypatch.setattr(mind, "BATCH_USERS", 2)
    assert read(folder).content_hash == clean.content_hash
    assert read(folder, users=3).content_hash == three.content_hash
    other = read(folder, seed=1)
    assert other.content_hash != clean.content_hash
    with pytest.raises(DataError, match="9 users were requested of 'mind', which has 8 usable"):
        read(folder, users=9)
    with pytest.raises(DataError, match="0 users were requested of 'mind'"):
        read(folder, users=0)


@pytest.mark.parametrize("packed", [True, False])
def test_folders_are_found_by_their_suffixes(clean: Dataset, tmp_path: Path, packed: bool) -> None:
    source = of.write_mind(tmp_path, packed=packed)
    (source / "MINDlarge_dev").rename(source / "valid")
    if packed:
        for file in source.rglob("*.tsv"):
            file.rename(f"{file}.gz")
    assert read(source).content_hash == clean.content_hash
    (source / "train").mkdir()
    with pytest.raises(DataError, match="holds 2 folders whose names end in train"):
        read(source)
    with pytest.raises(DataError, match="There is no folder"):
        read(source / "none")
    with pytest.raises(DataError, match="give its folder alone"):
        read(source, items_path=source / "news.tsv")


def test_many_shuffled_sessions_agree_with_the_definition(tmp_path: Path) -> None:
    train, dev, titles = of.mind_lines(users=40, titles=60, seed=5)
    np.random.default_rng(0).shuffle(train)
    ds = read(of.write_mind(tmp_path, (train, dev, titles)), **OPEN)
    actual = {
        (row.user_id, row.item_id): (row.split == "test", int(row.outcome))
        for row in ds.interactions.itertuples(index=False)
    }
    assert actual == {pair: row[:2] for pair, row in expected(train, dev).items()}


def test_a_carriage_return_in_a_title_is_a_space(folder: Path, tmp_path: Path) -> None:
    train, dev, titles = of.mind_lines()
    broken = [line.replace('News "', 'News\r"') for line in titles]
    other = of.write_mind(tmp_path / "cr", (train, dev, broken))
    assert read(other, **OPEN).content_hash == read(folder, **OPEN).content_hash


def test_mostly_unknown_news_give_a_warning(folder: Path, tmp_path: Path) -> None:
    train, dev, titles = of.mind_lines()
    other = of.write_mind(tmp_path / "few", (train, dev, titles[:50]))
    warnings = read(other, **OPEN).report["warnings"]
    assert any("news.tsv lacks" in warning for warning in warnings)
    assert not read(folder, **OPEN).report["warnings"]
