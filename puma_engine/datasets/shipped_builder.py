"""Builds the files shipped in data/ from a folder of original files."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puma_engine.datasets.importers import goodbooks
from puma_engine.datasets.reading.delimited import read_original
from puma_engine.errors import DataError

_UNIQUE_TEXTS = ("title", "authors")


def ship_goodbooks(source: Path) -> dict[str, pd.DataFrame]:
    """Select rows of users with 20 or more rated books, and five columns of the books.

    Rows are unchanged and in file order; the importer drops repeated ratings.
    """
    rows = goodbooks.usable_ratings(source).rows
    eligible = set(rows.user_ids[rows.users_present()])
    tables = {}
    originals = {"ratings": goodbooks.RATING_COLUMNS, "to_read": goodbooks.MARK_COLUMNS}
    for stem, columns in originals.items():
        frame = _frame(source, stem, columns)
        frame = frame[frame["user_id"].astype(str).isin(eligible)]
        small = {"user_id": "int32", "book_id": "int32"}
        tables[stem] = frame.astype({**small, "rating": "int8"} if stem == "ratings" else small)
    book_columns = (*goodbooks.BOOK_COLUMNS, "original_publication_year", "language_code")
    books = _frame(source, "books", book_columns)
    books["original_publication_year"] = books["original_publication_year"].astype("Int16")
    tables["books"] = books.astype({"id": "int32"})
    return tables


def ship_movietweetings(source: Path) -> dict[str, pd.DataFrame]:
    """Select every row and column, in file order."""
    ratings = _frame(source, "ratings", ("user_id", "imdb_id", "rating", "timestamp"))
    movies = _frame(source, "movies", ("imdb_id", "title", "genres"))
    small = {"user_id": "int32", "imdb_id": "int32", "rating": "int8", "timestamp": "int64"}
    return {"ratings": ratings.astype(small), "movies": movies.astype({"imdb_id": "int32"})}


def _frame(source: Path, stem: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read an original table; whole numbers stay whole beside missing values."""
    table = read_original(source, stem, columns).table
    for number, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        elif pa.types.is_string(column.type):
            # Of a CSV file: no value is an empty text.
            column = pc.if_else(pc.equal(column, ""), None, column)
        table = table.set_column(number, columns[number], column)
    return table.to_pandas(integer_object_nulls=True)


SHIPPERS: dict[str, Callable[[Path], dict[str, pd.DataFrame]]] = {
    "goodbooks": ship_goodbooks,
    "movietweetings": ship_movietweetings,
}


def shipped_tables(name: str, source: str | Path) -> dict[str, pa.Table]:
    """Return the tables that a family ships, by file stem, from a folder of originals."""
    if name not in SHIPPERS:
        raise DataError(f"Nothing named {name!r} is shipped; choose one of {', '.join(SHIPPERS)}.")
    return {
        stem: pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
        for stem, frame in SHIPPERS[name](Path(source)).items()
    }


def ship(name: str, source: str | Path, target: str | Path) -> list[Path]:
    """Write the shipped Parquet files of a family into a folder; return their paths."""
    tables = shipped_tables(name, source)
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, table in tables.items():
        path = folder / f"{stem}.parquet"
        pq.write_table(
            table,
            path,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in table.column_names if name not in _UNIQUE_TEXTS],
            row_group_size=1 << 22,
        )
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(
            "usage: python -m puma_engine.datasets.shipped_builder NAME ORIGINAL_FOLDER TARGET_FOLDER"
        )
    for path in ship(*sys.argv[1:]):
        print(path)
