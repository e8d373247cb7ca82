"""Amazon Reviews 2023 and 2018: one category's reviews and item metadata, JSON lines as published."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from puma_engine.datasets.importers.ratings import (
    RawItems,
    parse_json_ratings,
    streamed_dataset,
)
from puma_engine.datasets.reading.json_lines import parse_json
from puma_engine.datasets.reading.line_blocks import Block, read_blocks
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
REVIEW_2018 = pa.schema(
    {
        "reviewerID": pa.string(),
        "asin": pa.string(),
        "overall": pa.float64(),
        "unixReviewTime": pa.int64(),
    }
)
ITEM_2018 = pa.schema({"asin": pa.string(), "title": pa.string()})
_META = "meta_"


@dataclass(frozen=True)
class AmazonSettings(RatingSettings):
    """The paper's filters for Movies and TV."""

    min_item_rows: int = 10


def _locate(schema: pa.Schema, ending: str, path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find a category's two files: path is the reviews, or a folder with one category."""
    reviews = path
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if plain_name(file).endswith(ending)]
        files = [file for file in files if not file.name.startswith(_META)]
        if len(files) != 1:
            names = f" ({', '.join(file.name for file in files)})" if files else ""
            raise DataError(
                f"{path} holds {len(files)} files of reviews{names}; name one {ending} or {ending}.gz "
                "file of reviews."
            )
        reviews = files[0]
    if reviews.is_file():
        _refuse_other_release(reviews, schema)
    if items_path is None:
        name = plain_name(reviews)
        # The 5-core file of a category shares the metadata of the whole one.
        names_of = (name, name.replace(f"_5{ending}", ending))
        items_path = first_file(reviews.parent, *dict.fromkeys(_META + name for name in names_of))
    return {"ratings": reviews, "items": items_path}


def _refuse_other_release(reviews: Path, schema: pa.Schema) -> None:
    """Raise DataError for reviews in the layout of the other release."""
    block = next(read_blocks(reviews), None)
    try:
        record = json.loads(block.data.partition(b"\n")[0]) if block else None
    except (ValueError, RecursionError):
        return
    user = schema.names[0]
    for other, source, year in ((REVIEW, "amazon", 2023), (REVIEW_2018, "amazon-2018", 2018)):
        sign = other.names[0]
        if isinstance(record, dict) and sign != user and sign in record and user not in record:
            raise DataError(
                f"{reviews} has {sign}: this is Amazon Reviews {year}. Import it with the source "
                f"{source!r}."
            )


def _parse_items(block: Block, counts: RowCounts, *, schema: pa.Schema) -> RawItems:
    """Parse ids and titles."""
    table, lines = parse_json(block, schema, counts)
    return RawItems(lines, *table.columns)


AMAZON = Source(
    name="amazon",
    task="rating",
    family="amazon",
    description="Amazon Reviews 2023, any category: reviews and meta_ files, .jsonl or .jsonl.gz",
    read=partial(
        streamed_dataset,
        parse_ratings=partial(parse_json_ratings, schema=REVIEW),
        parse_items=partial(_parse_items, schema=ITEM),
    ),
    settings=AmazonSettings,
    locate=partial(_locate, REVIEW, ".jsonl"),
)
AMAZON_2018 = Source(
    name="amazon-2018",
    task="rating",
    family="amazon",
    description="Amazon Reviews 2018, any category, whole or 5-core: reviews and meta_ files, .json.gz",
    read=partial(
        streamed_dataset,
        parse_ratings=partial(parse_json_ratings, schema=REVIEW_2018),
        parse_items=partial(_parse_items, schema=ITEM_2018),
    ),
    settings=AmazonSettings,
    locate=partial(_locate, REVIEW_2018, ".json"),
)
