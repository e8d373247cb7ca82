"""MovieLens: ratings and films, as .csv (20M and later), .dat with :: (1M, 10M) or u.data (100k)."""

import csv
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.importers.ratings import RawItems, RawRatings, streamed_dataset
from puma_engine.datasets.reading.column_values import as_numbers
from puma_engine.datasets.reading.delimited import parse_lines
from puma_engine.datasets.reading.line_blocks import OTHER_ENCODING, Block, decode_line
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.times import seconds_of_texts
from puma_engine.datasets.registry import RatingSettings, Source, first_file, plain_name
from puma_engine.errors import DataError

RATING_FIELDS = ("userId", "movieId", "rating", "timestamp")
ITEM_FIELDS = ("movieId", "title", "genres")
# In the release of 100,000 ratings, films have 24 fields, 19 of them genres.
SEPARATORS_100K = {"u.data": "\t", "u.item": "|"}
ITEM_BARS = 23
HALF_STAR = "with half a star, read as one"


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find the two files: path is their folder, or the file of ratings."""
    names = ("ratings.csv", "ratings.dat", "u.data")
    ratings = first_file(path, *names) if path.is_dir() else path
    items = plain_name(ratings).replace("ratings", "movies").replace("u.data", "u.item")
    return {"ratings": ratings, "items": items_path or first_file(ratings.parent, items)}


def parse_ratings(block: Block, counts: RowCounts) -> RawRatings:
    """Parse ratings; 0.5, the lowest of half-star scales, becomes 1."""
    block, separator = _body(block, RATING_FIELDS, counts.path)
    table, lines = parse_lines(block, RATING_FIELDS, separator, counts)
    user, item, rating, time = (pc.utf8_trim(table[name], ' "') for name in RATING_FIELDS)
    seconds, timed, units = seconds_of_texts(time)
    counts.time_units += Counter(units)
    outcome = as_numbers(rating, "ratings")
    counts.repair(HALF_STAR, int((outcome == 0.5).sum()))
    outcome = np.where(outcome == 0.5, 1.0, outcome)
    return RawRatings(lines, user, item, outcome, seconds, timed)


def parse_movies(block: Block, counts: RowCounts) -> RawItems:
    """Parse ids and titles with their years."""
    # Titles are quoted or contain ::, so each line is split alone and a stray quote affects no other line.
    block, separator = _body(block, ITEM_FIELDS, counts.path)
    numbers, ids, titles, wrong = [], [], [], []
    for number, text, is_utf8 in block.lines():
        counts.rows += 1
        counts.repair(OTHER_ENCODING, not is_utf8)
        if separator == "|":
            fields = text.split(separator)[:3] if text.count(separator) == ITEM_BARS else []
        elif separator == "::":
            movie, first, rest = text.partition(separator)
            title, last, genres = rest.rpartition(separator)
            fields = [movie, title, genres] if first and last else []
        else:
            try:
                fields = next(csv.reader([text.replace("\r", " ")], strict=True), [])
            except csv.Error:
                fields = []
        if len(fields) != len(ITEM_FIELDS):
            wrong.append(number)
            continue
        numbers.append(number)
        ids.append(fields[0])
        titles.append(fields[1])
    counts.drop(f"without {len(ITEM_FIELDS)} fields", np.array(wrong, dtype=np.int64))
    columns = (pa.chunked_array([pa.array(values, pa.string())]) for values in (ids, titles))
    return RawItems(np.array(numbers, dtype=np.int64), *columns)


def _body(block: Block, names: tuple[str, ...], path: Path) -> tuple[Block, str]:
    """Return a block without the header, which must be the published one, and the separator."""
    if plain_name(path) in SEPARATORS_100K:
        return block, SEPARATORS_100K[plain_name(path)]
    if plain_name(path).endswith(".dat"):
        return block, "::"
    if block.first > 1:
        return block, ","
    line, _, rest = block.data.partition(b"\n")
    header = decode_line(line)[0].strip()
    if [name.strip().strip('"') for name in header.split(",")] != list(names):
        raise DataError(
            f"{path} begins with {header[:80]!r}; a MovieLens file begins with "
            f"{','.join(names)!r}. Read other tables with the source 'table'."
        )
    return Block(rest, 2), ","


MOVIELENS = Source(
    name="movielens",
    task="rating",
    family="movielens",
    description="MovieLens: ratings and movies, .csv (latest-small, 25M, ...), .dat (1M, 10M) or u.data (100k)",
    read=partial(streamed_dataset, parse_ratings=parse_ratings, parse_items=parse_movies),
    settings=RatingSettings,  # as for Amazon, with films; the paper does not use MovieLens
    locate=locate,
)
