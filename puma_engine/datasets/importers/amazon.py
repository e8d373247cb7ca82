"""Amazon Reviews 2023: one category's reviews and item metadata, JSON lines as published."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from puma_engine.datasets.importers.ratings import RawItems, parse_json_ratings, streamed_dataset
from puma_engine.datasets.reading.json_lines import parse_json
from puma_engine.datasets.reading.line_blocks import Block
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.registry import RatingSettings, Source, first_file, plain_name
from puma_engine.errors import DataError

# Items are parents, the products of which variants are sold.
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


@dataclass(frozen=True)
class AmazonSettings(RatingSettings):
    """The paper's filters for Movies and TV."""

    min_item_rows: int = 10


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find a category's two files: path is the reviews, or a folder with one category."""
    reviews = path
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if plain_name(file).endswith(".jsonl")]
        files = [file for file in files if not file.name.startswith(_META)]
        if len(files) != 1:
            names = f" ({', '.join(file.name for file in files)})" if files else ""
            raise DataError(
                f"{path} holds {len(files)} files of reviews{names}; name one .jsonl or .jsonl.gz "
                "file of reviews."
            )
        reviews = files[0]
    items = items_path or first_file(reviews.parent, _META + plain_name(reviews))
    return {"ratings": reviews, "items": items}


def parse_items(block: Block, counts: RowCounts) -> RawItems:
    """Parse ids and titles."""
    table, lines = parse_json(block, ITEM, counts)
    return RawItems(lines, table["parent_asin"], table["title"])


parse_ratings = partial(parse_json_ratings, schema=REVIEW)
AMAZON = Source(
    name="amazon",
    task="rating",
    family="amazon",
    about="Amazon Reviews 2023, any category: reviews and meta_ files, .jsonl or .jsonl.gz",
    read=partial(streamed_dataset, parse_ratings=parse_ratings, parse_items=parse_items),
    settings=AmazonSettings,
    locate=locate,
)
