"""MovieLens: ratings and films, as .csv (latest, 20M and later) or as .dat with :: (1M, 10M)."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.raw_rows import RawItems, RawRows
from puma_engine.datasets.importers.source_settings import RatingSettings, first_file, plain_name
from puma_engine.datasets.importers.streamed_ratings import streamed_dataset
from puma_engine.datasets.reading import column_values
from puma_engine.datasets.reading.delimited import parse_block
from puma_engine.datasets.reading.json_lines import OTHER_ENCODING
from puma_engine.datasets.reading.line_blocks import Block, ReadProgress, decoded, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.timestamps import seconds_of_texts
from puma_engine.datasets.registry import ImportRequest, Source, register
from puma_engine.errors import DataError

RATING_FIELDS = ("userId", "movieId", "rating", "timestamp")
ITEM_FIELDS = ("movieId", "title", "genres")
HALF_STAR = "with half a star, read as one"


@dataclasses.dataclass(frozen=True)
class MovieLensSettings(RatingSettings):
    """Filters as for Amazon, but for any film: the paper has no MovieLens."""


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find the two files: path is their folder, or the file of ratings."""
    ratings = first_file(path, "ratings.csv", "ratings.dat") if path.is_dir() else path
    items = plain_name(ratings).replace("ratings", "movies")
    return {"ratings": ratings, "items": items_path or first_file(ratings.parent, items)}


def read_ratings(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None
) -> Iterator[RawRows]:
    """Yield the ratings; the lowest of half-star scales, 0.5, becomes 1."""
    for block in _body(path, RATING_FIELDS, progress):
        table, lines = parse_block(block, RATING_FIELDS, _separator(path), row_counts)
        plain = {name: pc.utf8_trim(table[name], ' "') for name in RATING_FIELDS}
        seconds, timed, units = seconds_of_texts(plain["timestamp"])
        row_counts.times(units)
        outcome = column_values.as_numbers(plain["rating"], "ratings")
        half = outcome == 0.5
        row_counts.repair(HALF_STAR, int(half.sum()))
        outcome = np.where(half, 1.0, outcome)
        yield RawRows(lines, plain["userId"], plain["movieId"], outcome, seconds, timed)


def read_movies(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None
) -> Iterator[RawItems]:
    """Yield ids and titles with their years."""
    for block in _body(path, ITEM_FIELDS, progress):
        found: list[tuple[int, str, str]] = []
        wrong = []
        for number, line in block.numbered():
            row_counts.lines += 1
            text, is_utf8 = decoded(line)
            row_counts.repair(OTHER_ENCODING, not is_utf8)
            parts = _movie(text, _separator(path))
            if parts is None:
                wrong.append(number)
            else:
                found.append((number, *parts))
        row_counts.drop(f"without {len(ITEM_FIELDS)} fields", np.array(wrong, dtype=np.int64))
        numbers = np.array([number for number, _, _ in found], dtype=np.int64)
        ids, titles = ([row[place] for row in found] for place in (1, 2))
        yield RawItems(
            numbers,
            pa.chunked_array([pa.array(ids, pa.string())]),
            pa.chunked_array([pa.array(titles, pa.string())]),
        )


def _movie(text: str, separator: str) -> tuple[str, str] | None:
    """Return the id and title of a line; a title may hold :: itself."""
    if separator == "::":
        film, first, rest = text.partition(separator)
        title, last, _ = rest.rpartition(separator)
        return (film, title) if first and last else None
    try:
        row = next(csv.reader([text]))
    except (csv.Error, StopIteration):
        return None
    return (row[0], row[1]) if len(row) == len(ITEM_FIELDS) else None


def _body(path: Path, names: tuple[str, ...], progress: ReadProgress | None) -> Iterator[Block]:
    """Yield the blocks of a file without its header, which must be the published one."""
    for block in read_blocks(path, progress):
        if block.first > 1 or _separator(path) == "::":
            yield block
            continue
        header, _, rest = block.data.partition(b"\n")
        given = [one.strip().strip('"') for one in decoded(header)[0].split(",")]
        if given != list(names):
            raise DataError(
                f"{path} begins with {decoded(header)[0].strip()[:80]!r}; a MovieLens file begins "
                f"with {','.join(names)!r}. Read other tables with the source 'table'."
            )
        if rest:
            yield Block(rest, 2)


def _separator(path: Path) -> str:
    return "::" if plain_name(path).endswith(".dat") else ","


def _read(source: Source, request: ImportRequest) -> Dataset:
    return streamed_dataset(
        source,
        request,
        lambda row_counts: read_ratings(request.files["ratings"], row_counts, request.progress),
        lambda row_counts: read_movies(request.files["items"], row_counts, request.progress),
    )


MOVIELENS = register(
    Source(
        name="movielens",
        task="rating",
        family="movielens",
        about="MovieLens: ratings and movies, .csv (latest-small, 25M, ...) or .dat (1M, 10M)",
        read=_read,
        settings=MovieLensSettings,
        locate=locate,
    )
)
