"""Amazon, Yelp and MovieLens from original files: clean, dirty, filtered, refused; exact counts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import original_files as of
import pandas as pd
import pytest
from dirty_files import clean_lines, made_dirty

from puma_engine.datasets import Dataset, import_folder, validate
from puma_engine.datasets.importers import ratings
from puma_engine.datasets.importers.amazon import AmazonSettings
from puma_engine.datasets.importers.mind import MindSettings
from puma_engine.datasets.importers.yelp import YelpSettings
from puma_engine.datasets.registry import RatingSettings
from puma_engine.errors import ConfigError, DataError

BOM = b"\xef\xbb\xbf"
SIZES = {"amazon": (12, 24), "yelp": (6, 28), "csv": (6, 24), "dat": (6, 24)}
RATINGS = {
    "amazon": "Movies_and_TV.jsonl",
    "yelp": "yelp_academic_dataset_review.json",
    "csv": "ratings.csv",
    "dat": "ratings.dat",
}


def lay_out(kind: str, folder: Path, records: Any = None, **options: Any) -> Path:
    """Write a source's two files; returns the folder."""
    if kind == "amazon":
        of.write_amazon(folder, records=records, **options)
    elif kind == "yelp":
        of.write_yelp(folder, records, **options)
    else:
        of.write_movielens(folder, kind, records, **options)
    return folder


def read(kind: str, folder: Path, **options: Any) -> Dataset:
    return import_folder(kind if kind in ("amazon", "yelp") else "movielens", folder, **options)


def accounted(ds: Dataset) -> bool:
    report = ds.report
    return report["read"]["rows"] == report["kept"]["rows"] + sum(report["dropped"].values())


@pytest.fixture(scope="module", params=list(SIZES))
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind = request.param
    return kind, read(kind, lay_out(kind, tmp_path_factory.mktemp(kind)))


def test_clean_files_are_imported_completely(clean: tuple[str, Dataset]) -> None:
    kind, ds = clean
    users, items = SIZES[kind]
    validate(ds)
    assert accounted(ds) and sum(ds.report["dropped"].values()) == 0
    assert ds.report["kept"] == {"rows": users * items, "users": users, "items": items}
    assert ds.report["repeats_counted"] == {
        "records": users * items,
        "users": users,
        "items": items,
    }
    assert json.loads(json.dumps(ds.report)) == ds.report
    ratings = {(u, i): (r, s) for u, i, r, s in of.ratings(users, items)}
    formats = {"amazon": ("AE{:04}", "B{:04}", 0), "yelp": ("u-{:04}", "b_{:04}", 0)}
    user, item, first = formats.get(kind, ("{}", "{}", 1))
    rows = ds.interactions.set_index(["user_id", "item_id"])
    for (u, i), (rating, seconds) in ratings.items():
        row = rows.loc[(user.format(u + first), item.format(i + first))]
        assert (row["outcome"], row["time"]) == (rating, seconds)


def test_item_texts_have_the_documented_form(clean: tuple[str, Dataset]) -> None:
    kind, ds = clean
    texts = dict(zip(ds.items["item_id"], ds.items["text"], strict=True))
    assert {
        "amazon": ("B0003", "Film 3"),
        "yelp": ("b_0003", "Café 3; 4.5 stars in 12 reviews; Thai, Restaurants"),
        "csv": ("4", "Film, The 3 (1999)"),
        "dat": ("4", "Les Misérables: Part 3 (1999)"),
    }[kind] in texts.items()


@pytest.mark.parametrize(
    "options",
    [{"packed": True}, {"ending": b"\r\n", "mark": BOM}, {"ending": b"\n\n  \n"}],
    ids=["gzip", "crlf and mark", "blank lines"],
)
def test_compression_byte_order_marks_and_line_ends_do_not_matter(
    clean: tuple[str, Dataset], options: dict[str, Any], tmp_path: Path
) -> None:
    kind, ds = clean
    other = read(kind, lay_out(kind, tmp_path, **options))
    assert other.content_hash == ds.content_hash
    assert other.report["dropped"] == ds.report["dropped"]


def test_a_compressed_file_is_recognised_by_its_content(
    clean: tuple[str, Dataset], tmp_path: Path
) -> None:
    kind, ds = clean
    folder = lay_out(kind, tmp_path)
    file = folder / RATINGS[kind]
    file.write_bytes(gzip.compress(file.read_bytes()) + gzip.compress(b""))
    assert read(kind, folder).content_hash == ds.content_hash


def test_dirty_lines_are_counted_by_reason_and_change_nothing(
    clean: tuple[str, Dataset], tmp_path: Path
) -> None:
    kind, ds = clean
    records, counts = made_dirty(kind)
    imported = read(kind, lay_out(kind, tmp_path, records), max_bad_share=0.5)
    assert imported.content_hash == ds.content_hash
    assert {reason: n for reason, n in imported.report["dropped"].items() if n} == counts
    assert accounted(imported)
    units = imported.report["ratings_file"]["times_written_as"]
    assert len(units) > 1 and "written in several ways" in imported.report["warnings"][0]


def test_users_with_only_unknown_items_are_counted_as_read(tmp_path: Path) -> None:
    users, _ = SIZES["csv"]
    folder = lay_out("csv", tmp_path)
    with (folder / RATINGS["csv"]).open("a") as file:
        file.write("998,77777,4.0,1588687728\n999,77777,4.0,1588687728\n1,77777,4.0,1588687728\n")
    report = read("csv", folder).report
    assert report["read"]["users"] == users + 2
    assert report["kept"]["users"] == users
    assert report["dropped"][ratings.UNKNOWN_ITEM] == 3


def test_the_report_counts_mended_and_left_out_lines(tmp_path: Path) -> None:
    records, _ = made_dirty("amazon")
    report = read("amazon", lay_out("amazon", tmp_path, records), max_bad_share=0.5).report
    without_time = 8 + 1 + 7  # lines without an object, the empty object, and unusable times
    assert report["ratings_file"]["mended"] == {
        "not UTF-8, read as Windows-1252": 1,
        "with a number written as text": 1,
    }
    assert report["ratings_file"]["times_written_as"] == {
        "milliseconds": len(records[0]) - without_time - 2,
        "seconds": 2,
    }
    assert report["items_file"]["left_out"] == {"without a usable title": 3}
    assert report["items_file"]["dropped"] == {
        "not a JSON object": 1,
        "without a usable item id": 1,
    }
    assert report["items_file"]["items_with_several_texts"] == 1


@pytest.mark.parametrize("kind", list(SIZES))
def test_too_many_bad_lines_are_refused_with_reasons_and_line_numbers(
    kind: str, tmp_path: Path
) -> None:
    (rows, _), counts = made_dirty(kind)
    folder = lay_out(kind, tmp_path, (rows, clean_lines(kind)[1]))
    valid = ("of an unknown item", "repeating")
    bad = {reason: count for reason, count in counts.items() if not reason.startswith(valid)}
    with pytest.raises(DataError) as caught:
        read(kind, folder)
    text = str(caught.value)
    lines = len(rows) - (kind == "csv")
    assert f"{sum(bad.values())} of {lines} lines cannot be used" in text
    assert all(f"{count} {reason} (first: line " in text for reason, count in bad.items())
    assert "1.00 %" in text and "--max-bad-share" in text


def test_the_threshold_is_a_share_of_the_lines(tmp_path: Path) -> None:
    reviews, items = of.amazon_records()
    rows: list[Any] = [*reviews, *(["bad"] * 12)]
    folder = lay_out("amazon", tmp_path, (rows, items))
    tolerant = read("amazon", folder, max_bad_share=0.04)
    assert tolerant.report["ratings_file"]["unusable_share"] == 12 / 300
    with pytest.raises(DataError, match=r"12 of 300 lines .*: 12 not a JSON .*first: line 289"):
        read("amazon", folder, max_bad_share=0.0399)


def test_a_file_of_another_format_is_refused_early(tmp_path: Path) -> None:
    _, items = of.amazon_records()
    junk = [b"x" * 1_000] * 30_000
    folder = lay_out("amazon", tmp_path, (junk, items))
    progress: list[int] = []
    with pytest.raises(DataError, match=r"none of the first [\d,]+ lines can be used"):
        read("amazon", folder, watch=lambda stage, done, total: progress.append(done))
    assert max(progress) < (folder / RATINGS["amazon"]).stat().st_size >> 20


def test_defaults_are_the_papers_filters() -> None:
    amazon, yelp, mind = AmazonSettings(), YelpSettings(), MindSettings()
    assert (amazon.min_item_rows, amazon.min_rows, amazon.max_rows) == (10, 20, 85)
    assert (yelp.min_item_rows, yelp.min_rows, yelp.max_rows) == (0, 25, 75)
    assert yelp.max_categories == 10 and not yelp.without_averages
    assert (mind.min_history, mind.min_clicks, mind.min_rows) == (7, 4, 20)
    assert (mind.max_rows, mind.max_test_rows, mind.max_click_share) == (60, 20, 0.5)
    assert (mind.max_history, mind.max_users) == (5, 50_000)
    assert {value.max_bad_share for value in (amazon, yelp, mind, RatingSettings())} == {0.01}


def reference(rows: list[Any], min_item: int, min_user: int, max_rows: int) -> set[tuple[str, str]]:
    """Filter clean Amazon records with pandas, in the paper's order."""
    frame = pd.DataFrame(rows)
    frame = frame.sort_values("timestamp").drop_duplicates(["user_id", "parent_asin"], keep="last")
    frame = frame[frame.groupby("parent_asin")["user_id"].transform("size") >= min_item]
    frame = frame[frame.groupby("user_id")["user_id"].transform("size") >= min_user]
    if max_rows:
        frame = frame.groupby("user_id").tail(max_rows)
    return set(zip(frame["user_id"], frame["parent_asin"], strict=True))


@pytest.mark.parametrize("limits", [(10, 20, 85), (0, 0, 0), (4, 9, 12), (12, 3, 0)])
def test_filters_agree_with_a_plain_implementation(
    limits: tuple[int, int, int], tmp_path: Path
) -> None:
    reviews, items = of.amazon_records(users=30, items=40)
    draw = np.random.default_rng(1)
    busy = {f"AE{user:04}": draw.random() for user in range(30)}
    known = {f"B{item:04}": draw.random() for item in range(40)}
    rows = [
        row
        for row in reviews
        if draw.random() < (busy[row["user_id"]] * known[row["parent_asin"]]) ** 0.5
    ]
    again = [dict(row, timestamp=row["timestamp"] + 9_000) for row in rows[::7]]
    rows += again
    folder = lay_out("amazon", tmp_path, (rows, items))
    item, user, max_rows = limits
    ds = read("amazon", folder, min_item_rows=item, min_rows=user, max_rows=max_rows)
    pairs = set(zip(ds.interactions["user_id"], ds.interactions["item_id"], strict=True))
    assert pairs == reference(rows, *limits)
    assert accounted(ds)
    counted = pd.DataFrame(rows)
    counted = counted[counted.groupby("parent_asin")["user_id"].transform("size") >= item]
    sizes = counted["user_id"].value_counts()
    sizes = sizes[sizes >= user]
    assert ds.report["repeats_counted"]["users"] == len(sizes)
    records = int(sizes.clip(upper=max_rows).sum() if max_rows else sizes.sum())
    assert ds.report["repeats_counted"]["records"] == records


@pytest.mark.parametrize("kind", list(SIZES))
def test_the_seed_chooses_the_users(kind: str, tmp_path: Path) -> None:
    folder = lay_out(kind, tmp_path)
    complete, three, two = (read(kind, folder, users=count) for count in (None, 3, 2))
    assert set(two.users) < set(three.users)
    assert three.content_hash == complete.for_users(three.users).content_hash
    assert set(read(kind, folder, users=3, seed=1).users) != set(three.users) or kind == "yelp"
    with pytest.raises(DataError, match=r"usable users; ask for 1 to"):
        read(kind, folder, users=10_000)


def test_half_stars_and_all_layouts_of_movielens_are_read(tmp_path: Path) -> None:
    body, films = of.movielens_csv()
    halves = [body[0], *(line.replace(",1.0,", ",0.5,") for line in body[1:])]
    count = sum(",0.5," in line for line in halves)
    half_stars = read("csv", lay_out("csv", tmp_path / "half", (halves, films)))
    plain = read("csv", lay_out("csv", tmp_path / "plain", (body, films)))
    dotted = read("dat", lay_out("dat", tmp_path / "dat"))
    assert count and half_stars.report["ratings_file"]["mended"] == {
        "with half a star, read as one": count
    }
    assert half_stars.content_hash == plain.content_hash
    same = ["user_id", "item_id", "outcome", "time", "split"]
    pd.testing.assert_frame_equal(dotted.interactions[same], plain.interactions[same])
    assert dotted.report["items_file"]["mended"] == {"not UTF-8, read as Windows-1252": 24}


def test_yelp_texts_with_averages_come_with_a_warning(tmp_path: Path) -> None:
    reviews, items = of.yelp_records()
    items[0]["categories"] = ", ".join(f"Kind {number}" for number in range(12)) + ",, "
    items[1] |= {"review_count": 1, "stars": 5.0}
    folder = lay_out("yelp", tmp_path, (reviews, items))
    complete, plain = read("yelp", folder), read("yelp", folder, without_averages=True)
    without_averages = read("yelp", folder, without_averages=True, max_categories=2)
    texts = [
        dict(zip(ds.items["item_id"], ds.items["text"], strict=True)) for ds in (complete, plain)
    ]
    assert texts[0]["b_0001"] == "Café 1; 5 stars in 1 review; Thai, Restaurants"
    assert texts[1]["b_0001"] == "Café 1; Thai, Restaurants"
    assert texts[1]["b_0000"].endswith("Kind 8, Kind 9")
    assert "Café 0; Kind 0, Kind 1" in set(without_averages.items["text"])
    assert "seen the held-out ratings" in complete.report["warnings"][0]
    assert plain.report["warnings"] == []


def test_files_are_searched_in_the_documented_places(tmp_path: Path) -> None:
    file = of.write_amazon(tmp_path / "a")
    value = read("amazon", file).content_hash
    assert read("amazon", tmp_path / "a").content_hash == value
    moved = (tmp_path / "a" / f"meta_{file.name}").rename(tmp_path / "elsewhere.jsonl")
    assert read("amazon", file, items_path=moved).content_hash == value
    with pytest.raises(DataError, match=r"holds no meta_Movies_and_TV.jsonl"):
        read("amazon", file)
    of.write_amazon(tmp_path / "a", name="Books.jsonl")
    with pytest.raises(DataError, match=r"2 files of reviews \(Books.jsonl, Movies_and_TV"):
        read("amazon", tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="holds 0 files of reviews"):
        read("amazon", tmp_path / "b")
    with pytest.raises(DataError, match="no yelp_academic_dataset_review.json"):
        read("yelp", tmp_path)
    with pytest.raises(DataError, match=r"no ratings.csv or ratings.dat"):
        read("csv", tmp_path)
    with pytest.raises(DataError, match="There is no file"):
        read("amazon", file, items_path=tmp_path / "none")


def test_truncated_swapped_or_foreign_files_are_refused(tmp_path: Path) -> None:
    reviews, items = of.amazon_records()
    folder = lay_out("amazon", tmp_path / "cut", packed=True)
    file = folder / RATINGS["amazon"]
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be read to its end .*fetch it again"):
        read("amazon", folder)
    with pytest.raises(DataError, match="is empty"):
        read("amazon", lay_out("amazon", tmp_path / "empty", ([], items)))
    with pytest.raises(DataError, match="24 of 24 lines .*24 without a usable user id"):
        read("amazon", lay_out("amazon", tmp_path / "swapped", (items, reviews)))
    untitled = [{"parent_asin": "B0001", "title": ""}] * 3
    with pytest.raises(DataError, match=r"no item with an id and a title \(3 lines"):
        read("amazon", lay_out("amazon", tmp_path / "untitled", (reviews, untitled)))
    utf16 = lay_out("amazon", tmp_path / "wide", (reviews, items)) / RATINGS["amazon"]
    utf16.write_bytes(utf16.read_text(encoding="utf-8").encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read("amazon", tmp_path / "wide")
    body, films = of.movielens_csv()
    with pytest.raises(DataError, match=r"begins with 'user,movie.*'userId,movieId"):
        read("csv", lay_out("csv", tmp_path / "other", (["user,movie", *body[1:]], films)))


def test_an_empty_result_says_what_dropped_the_rows(tmp_path: Path) -> None:
    folder = lay_out("amazon", tmp_path, of.amazon_records(users=9))
    with pytest.raises(DataError, match=r"216 of items with fewer than 10 rows.*min_item_rows"):
        read("amazon", folder)


def test_an_unrelated_item_file_gives_a_warning(tmp_path: Path) -> None:
    reviews, items = of.amazon_records(items=50)
    ds = read("amazon", lay_out("amazon", tmp_path, (reviews, items[:21])))
    assert (
        "348 of 600 ratings are of items that the file of items lacks" in ds.report["warnings"][0]
    )


def test_two_ids_with_the_same_hash_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lay_out("amazon", tmp_path)
    true_codes = ratings.id_codes

    def coarse(ids: np.ndarray) -> np.ndarray:
        # Two of the twelve users share a code; items keep theirs.
        return true_codes(
            np.array([value.replace("AE0007", "AE0003") for value in ids], dtype=object)
        )

    monkeypatch.setattr(ratings, "id_codes", coarse)
    with pytest.raises(DataError, match=r"'AE000[37]' and 'AE000[37]' have the same 64-bit code"):
        read("amazon", folder)


def test_settings_are_checked_together(tmp_path: Path) -> None:
    folder = lay_out("amazon", tmp_path)
    with pytest.raises(ConfigError, match=r"max_bad_share must be from 0 to 1.*min_rows must be a"):
        read("amazon", folder, max_bad_share=2, min_rows=-1)
    with pytest.raises(ConfigError, match="no setting min_clicks; it has max_bad_share, min_rows"):
        read("amazon", folder, min_clicks=3)
    with pytest.raises(ConfigError, match="read whole"):
        read("amazon", folder, population="foundation")
    with pytest.raises(ConfigError, match="shipped set 'goodbooks' takes no such settings"):
        import_folder("goodbooks", folder, min_rows=3)


def test_the_release_of_100_000_ratings_reads_like_the_others(tmp_path: Path) -> None:
    plain = import_folder("movielens", lay_out("csv", tmp_path / "csv"))
    folder = tmp_path / "ml-100k"
    body, films = of.movielens_csv()
    of.write(folder / "u.data", ["\t".join(line.split(",")) for line in body[1:]])
    titles = [line.split('"')[1] for line in films[1:]]
    further_fields = "|".join(["01-Jan-1999", "", "http://x"] + ["0"] * 19)
    films = [
        f"{n + 1}|{title}|{further_fields}".encode("latin-1") for n, title in enumerate(titles)
    ]
    of.write(folder / "u.item", films)
    ds = import_folder("movielens", folder)
    assert ds.content_hash == plain.content_hash
    of.write(folder / "u.item", [*films, "25|Caf\xe9|".encode("latin-1")])
    assert import_folder("movielens", folder, max_bad_share=0.1).content_hash == ds.content_hash


def test_amazon_2018_is_read_and_each_release_names_the_other(tmp_path: Path) -> None:
    reviews, items = of.amazon_records()
    plain = import_folder("amazon", of.write_amazon(tmp_path / "new", records=(reviews, items)))
    old = [
        {
            "reviewerID": record["user_id"],
            "asin": record["parent_asin"],
            "overall": record["rating"],
            "unixReviewTime": record["timestamp"] // 1000,
            "reviewTime": "09 4, 2015",
        }
        for record in reviews
    ]
    folder = tmp_path / "old"
    of.write(folder / "meta_Books.json.gz", [
        {"asin": item["parent_asin"], "title": item["title"]} for item in items
    ], packed=True)  # fmt: skip
    path = of.write(folder / "Books_5.json.gz", old, packed=True)
    assert import_folder("amazon-2018", path).content_hash == plain.content_hash
    assert import_folder("amazon-2018", folder).content_hash == plain.content_hash
    with pytest.raises(DataError, match="has reviewerID: this is Amazon Reviews 2018"):
        import_folder("amazon", path)
    new = tmp_path / "new" / "Movies_and_TV.jsonl"
    with pytest.raises(DataError, match="has user_id: this is Amazon Reviews 2023"):
        import_folder("amazon-2018", new)


@pytest.mark.parametrize("kind", ["csv", "dat"])
def test_a_carriage_return_inside_a_line_does_not_end_it(tmp_path: Path, kind: str) -> None:
    plain = read(kind, lay_out(kind, tmp_path / "plain"))
    folder = lay_out(kind, tmp_path / "cr")
    path = folder / RATINGS[kind]
    lines = path.read_bytes().splitlines()
    sign = b"," if kind == "csv" else b"::"
    fields = lines[5].split(sign)
    lines[5] = sign.join([fields[0], fields[1] + b"\r", *fields[2:]])
    path.write_bytes(b"\n".join(lines) + b"\n")
    ds = read(kind, folder, min_rows=1, max_bad_share=0.1)
    assert ds.report["dropped"]["without a usable item id"] == 1
    assert len(ds.interactions) == len(plain.interactions) - 1
    items = folder / f"movies.{kind}"
    items.write_bytes(items.read_bytes().replace(b" (1999)", b"\r(1999)", 1))
    assert read(kind, folder, min_rows=1, max_bad_share=0.1).content_hash == ds.content_hash


def tweets(folder: Path, **changes: Any) -> Path:
    """Write ratings of 30 users, 25 films each, with leading zeros in the ids."""
    rows = [
        (f"{user:04}", f"{film:07}", 1 + (user + film) % 10, 1_381_000_000 + film)
        for user in range(30)
        for film in range(25)
    ]
    table = pd.DataFrame(rows, columns=["user_id", "imdb_id", "rating", "timestamp"])
    films = pd.DataFrame({"imdb_id": [f"{film:07}" for film in range(25)]})
    films["title"] = "Film " + films["imdb_id"]
    folder.mkdir(parents=True)
    table.assign(**changes).to_csv(folder / "ratings.csv", index=False)
    films.to_csv(folder / "movies.csv", index=False)
    return folder


def test_ids_of_movietweetings_and_goodbooks_are_text(tmp_path: Path) -> None:
    ds = import_folder("movietweetings", tweets(tmp_path / "a"), population="foundation")
    assert all(len(user) == 4 for user in ds.users) and "0000001" in set(ds.items["item_id"])
    films = tmp_path / "a" / "movies.csv"
    films.write_text(films.read_text() + "tt12,Other (2000)\n")
    again = import_folder("movietweetings", tmp_path / "a", population="foundation")
    assert again.content_hash == ds.content_hash
    in_milliseconds = tweets(tmp_path / "b", timestamp=lambda table: table["timestamp"] * 1000)
    same = import_folder("movietweetings", in_milliseconds, population="foundation")
    assert same.content_hash == ds.content_hash
    table = pd.read_csv(tmp_path / "a" / "ratings.csv", dtype=str)
    books = tmp_path / "c"
    books.mkdir()
    table = table.rename(columns={"imdb_id": "book_id"}).drop(columns="timestamp")
    table["rating"] = 1 + table.index % 5
    table.to_csv(books / "ratings.csv", index=False)
    of_books = pd.DataFrame({"id": table["book_id"].unique()})
    of_books.assign(title="T" + of_books["id"], authors="A").to_csv(
        books / "books.csv", index=False
    )
    goodbooks = import_folder("goodbooks", books, population="foundation")
    assert "0000001" in set(goodbooks.items["item_id"]) and len(goodbooks.users[0]) == 4


def test_bad_rows_of_movietweetings_are_counted_or_refuse_the_file(tmp_path: Path) -> None:
    folder = tweets(tmp_path / "a")
    path = folder / "ratings.csv"
    text = path.read_text()
    path.write_text(text + "0001,?,?,?\n0002,0000001\n0003,0000002,0,1381000000\n")
    ds = import_folder("movietweetings", folder, population="foundation")
    dropped = ds.report["dropped"]
    assert dropped["without a known user or item"] == 1 and dropped["that cannot be read"] == 1
    assert dropped["with an invalid rating or time"] == 1
    assert ds.report["read"]["rows"] == 753
    path.write_text(text + "0001,0000001,?,1381000000\n" * 9)
    with pytest.raises(DataError, match="9 of 759 rows cannot be used: 9 with an invalid rating"):
        import_folder("movietweetings", folder)


def test_a_warning_says_that_nothing_is_held_out(tmp_path: Path) -> None:
    body, films = of.movielens_csv(users=6, items=4)
    of.write_movielens(tmp_path, "csv", (body, films))
    report = import_folder("movielens", tmp_path, min_rows=1).report
    assert any("Nothing is held out to test" in warning for warning in report["warnings"])


def test_unreadable_rows_of_the_items_refuse_a_folder_of_original_files(tmp_path: Path) -> None:
    folder = tweets(tmp_path / "a")
    films = folder / "movies.csv"
    films.write_text(films.read_text().replace("Film 0000003", '"Film" 0000003'))
    with pytest.raises(
        DataError, match="movies.csv: 1 of 25 rows cannot be used: 1 that cannot be read .line 5"
    ) as caught:
        import_folder("movietweetings", folder)
    # These sources have no option for quotation marks.
    assert "save the table as .parquet" in str(caught.value) and "--quote" not in str(caught.value)
    films.write_text(films.read_text().replace('"Film" 0000003', '"Film 0000003'))
    with pytest.raises(
        DataError, match="ends inside a quoted value.*save it as .parquet"
    ) as caught:
        import_folder("movietweetings", folder)
    assert "--quote" not in str(caught.value)


@pytest.mark.parametrize("source", ["goodbooks", "movietweetings"])
def test_an_item_id_with_control_characters_is_left_out_with_its_rows(
    tmp_path: Path, source: str
) -> None:
    folder = tweets(tmp_path / "a")
    films = pd.read_csv(folder / "movies.csv", dtype=str)
    # One unusable row among more than a hundred is allowed.
    more = pd.DataFrame({"imdb_id": [f"x{n}" for n in range(120)], "title": "Other"})
    films = pd.concat([films, more])
    ratings = pd.read_csv(folder / "ratings.csv", dtype=str)
    items = films.replace({"imdb_id": {"0000003": "0000003\0\0"}})
    if source == "goodbooks":
        ratings = ratings.drop(columns="timestamp").rename(columns={"imdb_id": "book_id"})
        ratings["rating"] = "4"
        items = items.rename(columns={"imdb_id": "id"}).assign(authors="A")
    ratings.to_csv(folder / "ratings.csv", index=False)
    items.to_csv(folder / ("books.csv" if source == "goodbooks" else "movies.csv"), index=False)
    ds = import_folder(source, folder, population="foundation")
    assert "0000003" not in set(ds.items["item_id"]) and "0000004" in set(ds.items["item_id"])
    assert ds.report["dropped"]["without a known user or item"] == 30


def test_lines_of_another_encoding_are_counted_in_a_warning(tmp_path: Path) -> None:
    of.write_movielens(tmp_path, "dat")
    path = tmp_path / "ratings.dat"
    data = path.read_bytes()
    clean = import_folder("movielens", tmp_path, min_rows=1, min_item_rows=0)
    assert not any("UTF-8" in warning for warning in clean.report["warnings"])
    path.write_bytes(data.replace(b"\n", b"\n\xff\xfe", 1))
    ds = import_folder("movielens", tmp_path, min_rows=1, min_item_rows=0)
    assert any(
        warning.startswith("1 lines of ratings.dat are not UTF-8, read as Windows-1252")
        for warning in ds.report["warnings"]
    )
