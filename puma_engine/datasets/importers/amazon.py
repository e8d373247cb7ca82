"""Amazon Reviews 2023: one category's reviews and item metadata, JSON lines as published."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.raw_rows import RawItems, RawRows
from puma_engine.datasets.importers.source_settings import RatingSettings, first_file, plain_name
from puma_engine.datasets.importers.streamed_ratings import streamed_dataset
from puma_engine.datasets.reading.json_lines import parse_block
from puma_engine.datasets.reading.line_blocks import ReadProgress, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.timestamps import seconds_of_numbers
from puma_engine.datasets.registry import ImportRequest, Source, register
from puma_engine.errors import DataError

REVIEW = pa.schema(
    {
        "user_id": pa.string(),
        "parent_asin": pa.string(),
        "rating": pa.float64(),
        "timestamp": pa.int64(),
    }
)
ITEM = pa.schema({"parent_asin": pa.string(), "title": pa.string()})
_META = "meta_"


@dataclasses.dataclass(frozen=True)
class AmazonSettings(RatingSettings):
    """The paper's filters for Movies and TV."""

    min_item_rows: int = 10


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find a category's two files: path is the reviews, or a folder with one category."""
    reviews = path
    if path.is_dir():
        found = [
            file
            for file in sorted(path.iterdir())
            if plain_name(file).endswith(".jsonl") and not file.name.startswith(_META)
        ]
        if len(found) != 1:
            names = f" ({', '.join(file.name for file in found)})" if found else ""
            raise DataError(
                f"{path} holds {len(found)} files of reviews{names}; name one .jsonl or .jsonl.gz "
                "file of reviews."
            )
        reviews = found[0]
    items = items_path or first_file(reviews.parent, _META + plain_name(reviews))
    return {"ratings": reviews, "items": items}


def read_reviews(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None
) -> Iterator[RawRows]:
    """Yield the reviews; items are parents, the products of which variants are sold."""
    for block in read_blocks(path, progress):
        table, lines = parse_block(block, REVIEW, row_counts)
        times = table["timestamp"].to_numpy().astype(np.float64)
        seconds, timed, units = seconds_of_numbers(times)
        row_counts.times(units)
        outcome = table["rating"].to_numpy().astype(np.float64)
        yield RawRows(lines, table["user_id"], table["parent_asin"], outcome, seconds, timed)


def read_items(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None
) -> Iterator[RawItems]:
    """Yield ids and titles."""
    for block in read_blocks(path, progress):
        table, lines = parse_block(block, ITEM, row_counts)
        yield RawItems(lines, table["parent_asin"], table["title"])


def _read(source: Source, request: ImportRequest) -> Dataset:
    return streamed_dataset(
        source,
        request,
        lambda row_counts: read_reviews(request.files["ratings"], row_counts, request.progress),
        lambda row_counts: read_items(request.files["items"], row_counts, request.progress),
    )


AMAZON = register(
    Source(
        name="amazon",
        task="rating",
        family="amazon",
        about="Amazon Reviews 2023, any category: reviews and meta_ files, .jsonl or .jsonl.gz",
        read=_read,
        settings=AmazonSettings,
        locate=locate,
    )
)
