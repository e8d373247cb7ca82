"""Readers of interactions: small files of every layout, and the allowed results for damaged ones.

The independent reader only splits a line at its separator, or parses it as JSON. A line that was
not damaged must give the same row as before. Any other row must be that of some line of the damaged
file.
"""

import csv
import gzip
import io
import json
import random
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import original_files as published
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.reliability import damage

USERS, ITEMS, ROWS = 12, 40, 10
UserItem = tuple[str, str]
# A row of the independent reader: user, item and outcome.
SimpleRow = tuple[str, str, float]


@dataclass(frozen=True)
class Interactions:
    """One reader of interactions and its undamaged files.

    write(folder): writes them. read(folder): the program's reading, a Dataset. parse(line): the
    independent reading of a line, or None. files: those that are damaged, the first has the rows.
    how: kinds of damage of each. least: rows below which a user is left out. frame: how a file
    that has no lines becomes lines. exact: whether every row of the file is read. mark: what
    separates unquoted fields below a header, if they are.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    parse: Callable[[str], Iterable[SimpleRow]]
    files: tuple[str, ...]
    how: tuple[damage.Damage, ...] = damage.LINES
    least: int = 1
    lines: Callable[[Path], list[str] | None] = field(default=lambda path: text_lines(path))
    exact: bool = True
    mark: str = ""

    def judge(self, original: Path, damaged: Path, before: Any, after: Any) -> list[str]:
        """Compare the reading of a damaged folder with that of the original one."""
        first, second = (self.lines(folder / self.files[0]) for folder in (original, damaged))
        assert first is not None
        if second is None:
            return ["The independent reader cannot read this file, but it was accepted."]
        second = self._in_order(first[0], second)
        rows, texts = _values(before)
        rows_after, texts_after = _values(after)
        same = set(first) & set(second)
        touched = [line for line in second if line not in same]
        changed = [simple for line in touched for simple in self._simple_rows(line)]
        changed += [row for line in set(first) - same for row in self._simple_rows(line)]
        changed += self._of_records(second)
        # Lines that are not UTF-8 may be read as Windows-1252 if the report counts them.
        other = windows_lines(damaged / self.files[0])
        if len(other) <= _counted_as_windows(after):
            changed += [row for line in other for row in self._simple_rows(line)]
        of_changed = {(user, item) for user, item, _ in changed}
        allowed = {(user, item, np.float32(value)) for user, item, value in changed}
        kept = [simple for line in same for simple in self._simple_rows(line)]
        items_differ = any(
            (original / name).read_bytes() != (damaged / name).read_bytes()
            for name in self.files[1:]
        )
        count: dict[str, int] = {}
        for user, _, _ in kept:
            count[user] = count.get(user, 0) + 1
        mentioned = " ".join([*touched, *(set(first) - same)])
        problems, missing = [], set()
        for user, item, _ in kept:
            key = (user, item)
            if key in of_changed or key not in rows:
                continue
            if key not in rows_after:
                missing.add(key)
                if not (
                    items_differ or item in mentioned or count[user] < self.least or not self.exact
                ):
                    problems.append(f"The row of {user!r} and {item!r} is missing.")
            elif self.exact and not _equal(rows[key], rows_after[key], texts_after):
                problems.append(f"{user!r} and {item!r} have {rows_after[key]}, not {rows[key]}.")
        # Whatever the reason, rows that are left out are counted.
        if (
            self.exact
            and missing
            and len(missing) > (left_out := _left_out(after) - _left_out(before))
        ):
            problems.append(f"{len(missing)} rows are missing, and the report counts {left_out}.")
        untouched = {(user, item) for user, item, _ in kept} if self.exact else set()
        if not self.exact:
            allowed |= {(user, item, np.float32(value)) for user, item, value in kept}
        for key, values in rows_after.items():
            if key not in untouched and (*key, np.float32(values["outcome"])) not in allowed:
                problems.append(f"No line says {key} with {values['outcome']}.")
        if not items_differ:
            problems += [
                f"The text of {item!r} is {text!r}, not {texts[item]!r}."
                for item, text in texts_after.items()
                if item in texts and text != texts[item] and item not in mentioned
            ]
        return problems[:5]

    def _in_order(self, header: str, lines: list[str]) -> list[str]:
        """Return lines with their fields in the order of a header whose names were exchanged."""
        names, own = (line.split(self.mark or None) for line in (header, lines[0]))
        if not self.mark or names == own or sorted(names) != sorted(own):
            return lines
        places = [own.index(name) for name in names]
        fields = [line.split(self.mark) for line in lines]
        return [
            self.mark.join([row[place] for place in places]) if len(row) == len(places) else line
            for row, line in zip(fields, lines, strict=True)
        ]

    def _simple_rows(self, line: str) -> list[SimpleRow]:
        try:
            return list(self.parse(line))
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            RecursionError,
            csv.Error,
        ):
            return []

    def _of_records(self, lines: list[str]) -> list[SimpleRow]:
        """Read quoted values that span lines; they are allowed if no row is inside them."""
        if not self.name.startswith(("table.csv", "items.csv", "goodbooks", "movietweetings")):
            return []
        rows = []
        with suppress(csv.Error):
            for record in csv.reader(io.StringIO("\n".join(lines))):
                rows += self._simple_rows(",".join(record))
        return rows


def _values(dataset: Any) -> tuple[dict[UserItem, dict[str, Any]], dict[str, str]]:
    """Return the values of each pair, and each item's text; splits are left out, since they depend on other rows."""
    frame = dataset.interactions.drop(columns="split")
    names = [name for name in frame.columns if name not in ("user_id", "item_id")]
    rows = {
        (user, item): dict(zip(names, values, strict=True))
        for user, item, *values in frame[["user_id", "item_id", *names]].itertuples(index=False)
    }
    return rows, dict(zip(dataset.items["item_id"], dataset.items["text"], strict=True))


def _left_out(dataset: Any) -> int:
    """Return the number of rows that the report of an import counts as left out."""
    reasons = dataset.report["dropped"]
    others = ("history entries", "not asked for")
    return sum(
        count for reason, count in reasons.items() if not any(part in reason for part in others)
    )


def _counted_as_windows(dataset: Any) -> int:
    """Return the number of lines that the report counts as read as Windows-1252."""
    mended = dataset.report.get("ratings_file", {}).get("mended", {})
    return sum(count for what, count in mended.items() if "Windows-1252" in what)


def _equal(first: dict[str, Any], other: dict[str, Any], texts: dict[str, str]) -> bool:
    # Where a header lost its name, a column may be missing, which the report says.
    names = first.keys() & other.keys()
    values = {name: list(np.ravel(first[name])) for name in names}
    if "history" in names:
        # Items whose text was lost are left out of histories, and counted.
        values["history"] = [item for item in values["history"] if item in texts]
    return all(values[name] == list(np.ravel(other[name])) for name in names)


def text_lines(path: Path) -> list[str] | None:
    """Return the lines of a text file, also of a gzip file; None if Python cannot unpack it."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, ValueError):
            return None
        except Exception:  # zlib.error is none of them
            return None
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").split("\n")


def windows_lines(path: Path) -> list[str]:
    """Return the lines of a text that are not UTF-8, decoded as Windows-1252, otherwise as Latin-1."""
    lines = []
    for line in path.read_bytes().replace(b"\r\n", b"\n").split(b"\n"):
        try:
            line.decode()
        except UnicodeDecodeError:
            lines.append(line.decode("cp1252" if not _UNDEFINED.search(line) else "latin-1"))
    return lines


# Bytes that Windows-1252 does not define.
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


def behavior_lines(path: Path) -> list[str] | None:
    """Return the lines of both behaviors.tsv files of MIND. path: of the first."""
    other = path.parents[1] / MIND_FILES[2]
    return [*(text_lines(path) or []), *(text_lines(other) or [])]


def frame_lines(path: Path) -> list[str] | None:
    """Return the rows of a Parquet table as lines; None if an id or outcome cannot be read."""
    columns = []
    try:
        written = {name.casefold(): name for name in pq.read_schema(path).names}
    except Exception:  # pyarrow raises errors of many kinds
        return None
    for name in NAMES:
        try:
            table = pq.read_table(path, columns=[written[name]])
            columns.append(table.column(0).to_pylist())
        except Exception:  # pyarrow raises errors of many kinds
            if name in NAMES[:3]:
                return None
    if len({len(column) for column in columns}) != 1:
        return None
    return ["\t".join(map(_cell, row)) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, float) and value == int(value or 0) and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def separated(mark: str, user: int = 0, item: int = 1, outcome: int = 2, scale: Any = float) -> Any:
    """Return a parser of lines with a separator, by the numbers of the fields."""

    def parse(line: str) -> Iterable[SimpleRow]:
        ways = [line.rstrip("\r").split(mark)]
        with suppress(csv.Error):
            ways += list(csv.reader([line], delimiter=mark))[:1] if len(mark) == 1 else []
        for fields in ways:
            with suppress(ValueError, IndexError):
                for text in (fields[outcome], fields[outcome].strip(' "')):
                    yield fields[user].strip(' "'), fields[item].strip(' "'), scale(text)
                    yield fields[user], fields[item], scale(text)

    return parse


def json_fields(user: str, item: str, outcome: str) -> Any:
    """Return a parser of lines of JSON by the names of their fields."""

    def parse(line: str) -> Iterable[SimpleRow]:
        # Control characters in texts are common in published files.
        record = json.loads(line, strict=False)
        ids = record[user], record[item]
        if not any(isinstance(value, bool) for value in ids):
            yield str(ids[0]), str(ids[1]), float(record[outcome])

    return parse


def impressions(line: str) -> Iterable[SimpleRow]:
    """Return the rows of a line of behaviors.tsv: every title that was shown."""
    _, user, _, _, shown = line.rstrip("\r").split("\t")
    for pair in shown.split():
        item, _, click = pair.rpartition("-")
        # An item without a label only loses its own row.
        with suppress(ValueError):
            yield user, item, float(click)


def table_rows(seed: int = 5) -> list[tuple[Any, ...]]:
    """Return user, item, outcome, time and text of a small table; ids have leading zeros."""
    draw = random.Random(seed)
    return [
        (
            f"{user:03}",
            f"{item:04}",
            draw.randint(1, 5),
            1_500_000_000 + 86_400 * place + user,
            f"Title {item} of {item % 7}",
        )
        for user in range(USERS)
        for place, item in enumerate(draw.sample(range(ITEMS), ROWS))
    ]


NAMES = ("user_id", "item_id", "outcome", "time", "text")


def _write_table(
    name: str, mark: str = ",", header: bool = True, **how: Any
) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        lines = [mark.join(map(str, row)) for row in table_rows()]
        published.write(folder / name, [*([mark.join(NAMES)] if header else []), *lines], **how)

    return write


def _write_json_table(folder: Path) -> None:
    records = [dict(zip(NAMES, row, strict=True)) for row in table_rows()]
    published.write(folder / "table.jsonl", records)


def _write_clicks(folder: Path) -> None:
    draw, rows = random.Random(2), table_rows()
    items = sorted({row[1] for row in rows})
    records = [
        dict(zip(NAMES, row, strict=True))
        | {"outcome": int(row[2] > 3), "history": draw.sample(items, 3)}
        for row in rows
    ]
    published.write(folder / "clicks.jsonl", records)


def _write_parquet(folder: Path) -> None:
    pd.DataFrame(table_rows(), columns=NAMES).to_parquet(folder / "table.parquet", index=False)


def _write_two_tables(folder: Path) -> None:
    rows = table_rows()
    lines = [f"{user},{item},{outcome}" for user, item, outcome, *_ in rows]
    published.write(folder / "items-of.csv", ["user_id,item_id,outcome", *lines])
    titles = sorted({(item, text) for _, item, _, _, text in rows})
    published.write(folder / "titles.csv", ["item_id,text", *(f"{i},{t}" for i, t in titles)])


def _write_goodbooks(folder: Path) -> None:
    draw = random.Random(3)
    rows = [(u, b, draw.randint(1, 5)) for u in range(1, 13) for b in draw.sample(range(1, 41), 25)]
    body = [f"{user},{book},{rating}" for user, book, rating in rows]
    published.write(folder / "ratings.csv", ["user_id,book_id,rating", *body])
    books = [f'{book},"Title {book}, a book",Author {book % 5}' for book in range(1, 41)]
    published.write(folder / "books.csv", ["id,title,authors", *books])


def _write_movietweetings(folder: Path) -> None:
    draw = random.Random(4)
    rows = [
        f"{user},{film:07},{draw.randint(1, 10)},{published.START + 86_400 * user + film}"
        for user in range(1, 13)
        for film in draw.sample(range(1, 41), 25)
    ]
    published.write(folder / "ratings.csv", ["user_id,imdb_id,rating,timestamp", *rows])
    films = [f"{film:07},Film {film} (1999)" for film in range(1, 41)]
    published.write(folder / "movies.csv", ["imdb_id,title", *films])


def _write_movielens_100k(folder: Path) -> None:
    rows = published.ratings(6, 24)
    published.write(folder / "u.data", [f"{u + 1}\t{i + 1}\t{r}\t{s}" for u, i, r, s in rows])
    films = [
        f"{i + 1}|Film {i} (1999)|01-Jan-1999||http://x|" + "|".join("0" * 19) for i in range(24)
    ]
    published.write(folder / "u.item", films)


def _write_amazon_2018(folder: Path) -> None:
    records = [
        {"reviewerID": f"A{u:03}", "asin": f"B{i:03}", "overall": float(r), "unixReviewTime": s}
        for u, i, r, s in published.ratings(10, 24)
    ]
    published.write(folder / "Movies_and_TV.json", records)
    items = [{"asin": f"B{i:03}", "title": f"Film {i}"} for i in range(24)]
    published.write(folder / "meta_Movies_and_TV.json", items)


def _table(name: str, **options: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from puma_engine.datasets import read_table, validate

        places = {
            key: folder / value if key == "items_path" else value for key, value in options.items()
        }
        dataset = read_table(folder / name, **{"name": "table", "task": "rating", **places})
        validate(dataset)
        return dataset

    return read


def _original(source: str, name: str = "", **settings: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from puma_engine.datasets import import_folder, validate

        dataset = import_folder(source, folder / name, **settings)
        validate(dataset)
        return dataset

    return read


def _half_up(text: str) -> float:
    return float(np.ceil(float(text) / 2))


def _stars(text: str) -> float:
    return max(1.0, float(text))


FEW: dict[str, Any] = {"min_rows": 1, "max_rows": 0, "min_item_rows": 0}
HEADERLESS = {"user_id": "1", "item_id": "2", "outcome": "3", "time": "4", "text": "5"}
COMMA, TAB = separated(","), separated("\t")
AMAZON, AMAZON_META = "Movies_and_TV.jsonl", "meta_Movies_and_TV.jsonl"
YELP = ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json")
MIND_FILES = tuple(
    f"{part}/{name}.tsv"
    for part in ("MINDlarge_train", "MINDlarge_dev")
    for name in ("behaviors", "news")
)

READERS: tuple[Interactions, ...] = (
    Interactions(
        "table.csv",
        _write_table("table.csv"),
        _table("table.csv"),
        COMMA,
        ("table.csv",),
        mark=",",
    ),
    Interactions(
        "table.csv, bad rows dropped",
        _write_table("table.csv"),
        _table("table.csv", drop_invalid=True),
        COMMA,
        ("table.csv",),
        mark=",",
    ),
    Interactions(
        "table.tsv",
        _write_table("table.tsv", "\t"),
        _table("table.tsv"),
        TAB,
        ("table.tsv",),
        mark="\t",
    ),
    Interactions(
        "table.inter, bad rows dropped",
        _write_table("table.inter", "\t"),
        _table("table.inter", drop_invalid=True),
        TAB,
        ("table.inter",),
        mark="\t",
    ),
    Interactions(
        "headerless.csv",
        _write_table("headerless.csv", header=False),
        _table("headerless.csv", no_header=True, columns=HEADERLESS),
        COMMA,
        ("headerless.csv",),
    ),
    Interactions(
        "items.csv beside a table",
        _write_two_tables,
        _table("items-of.csv", items_path="titles.csv"),
        COMMA,
        ("items-of.csv", "titles.csv"),
        mark=",",
    ),
    Interactions(
        "table.csv.gz",
        _write_table("table.csv.gz", packed=True),
        _table("table.csv.gz"),
        COMMA,
        ("table.csv.gz",),
        damage.BINARY,
    ),
    Interactions(
        "table.jsonl",
        _write_json_table,
        _table("table.jsonl"),
        json_fields(*NAMES[:3]),
        ("table.jsonl",),
        damage.JSON_LINES,
    ),
    Interactions(
        "clicks.jsonl with histories, bad rows dropped",
        _write_clicks,
        _table("clicks.jsonl", task="click", drop_invalid=True),
        json_fields(*NAMES[:3]),
        ("clicks.jsonl",),
        damage.JSON_LINES,
    ),
    Interactions(
        "table.parquet",
        _write_parquet,
        _table("table.parquet", drop_invalid=True),
        TAB,
        ("table.parquet",),
        damage.BINARY,
        lines=frame_lines,
    ),
    Interactions(
        "goodbooks",
        _write_goodbooks,
        _original("goodbooks"),
        COMMA,
        ("ratings.csv", "books.csv"),
        least=20,
    ),
    Interactions(
        "movietweetings",
        _write_movietweetings,
        _original("movietweetings"),
        separated(",", scale=_half_up),
        ("ratings.csv", "movies.csv"),
        least=20,
    ),
    Interactions(
        "movielens.csv",
        published.write_movielens,
        _original("movielens", **FEW),
        separated(",", scale=_stars),
        ("ratings.csv", "movies.csv"),
    ),
    Interactions(
        "movielens.dat",
        lambda folder: published.write_movielens(folder, "dat"),
        _original("movielens", max_bad_share=1.0, **FEW),
        separated("::", scale=_stars),
        ("ratings.dat", "movies.dat"),
    ),
    Interactions(
        "movielens u.data",
        _write_movielens_100k,
        _original("movielens", max_bad_share=0.1, **FEW),
        separated("\t", scale=_stars),
        ("u.data", "u.item"),
    ),
    Interactions(
        "amazon.jsonl",
        published.write_amazon,
        _original("amazon", AMAZON, max_bad_share=1.0, **FEW),
        json_fields("user_id", "parent_asin", "rating"),
        (AMAZON, AMAZON_META),
        damage.JSON_LINES,
    ),
    Interactions(
        "amazon.jsonl.gz",
        lambda folder: published.write_amazon(folder, f"{AMAZON}.gz", packed=True),
        _original("amazon", f"{AMAZON}.gz", **FEW),
        json_fields("user_id", "parent_asin", "rating"),
        (f"{AMAZON}.gz", f"{AMAZON_META}.gz"),
        damage.BINARY,
    ),
    Interactions(
        "amazon-2018",
        _write_amazon_2018,
        _original("amazon-2018", "Movies_and_TV.json", max_bad_share=0.1, **FEW),
        json_fields("reviewerID", "asin", "overall"),
        ("Movies_and_TV.json", "meta_Movies_and_TV.json"),
        damage.JSON_LINES,
    ),
    Interactions(
        "yelp",
        published.write_yelp,
        _original("yelp", max_bad_share=1.0, **FEW),
        json_fields("user_id", "business_id", "stars"),
        YELP,
        damage.JSON_LINES,
    ),
    Interactions(
        "mind",
        published.write_mind,
        _original("mind", max_bad_share=1.0),
        impressions,
        MIND_FILES,
        lines=behavior_lines,
        # Sessions and histories are drawn, so that a row's values depend on other rows.
        exact=False,
    ),
)
