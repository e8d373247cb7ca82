"""Yelp Open Dataset: reviews and businesses, JSON lines as published."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.ratings import RawItems, parse_json_ratings, streamed_dataset
from puma_engine.datasets.reading.json_lines import parse_json
from puma_engine.datasets.reading.line_blocks import Block
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.registry import (
    ImportRequest,
    RatingSettings,
    Source,
    first_file,
    plain_name,
)

REVIEW = pa.schema(
    {"user_id": pa.string(), "business_id": pa.string(), "stars": pa.float64(), "date": pa.string()}
)
BUSINESS = pa.schema(
    {
        "business_id": pa.string(),
        "name": pa.string(),
        "stars": pa.float64(),
        "review_count": pa.int64(),
        "categories": pa.string(),
    }
)
AVERAGES_WARNING = (
    "The item texts show each business's average stars and number of reviews, as in the paper; "
    "both have seen the held-out ratings. without_averages leaves them out."
)


@dataclass(frozen=True)
class YelpSettings(RatingSettings):
    """The paper's filters, and the content of item texts besides the name.

    max_categories: number of categories. without_averages: leave out average stars and the number
    of reviews. A business without categories or reviews is dropped in any case, as in the paper.
    """

    min_rows: int = 25
    max_rows: int = 75
    max_categories: int = 10
    without_averages: bool = False


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find the two files: path is their folder, or the file of reviews."""
    reviews = first_file(path, "yelp_academic_dataset_review.json") if path.is_dir() else path
    business = plain_name(reviews).replace("review", "business")
    return {"ratings": reviews, "items": items_path or first_file(reviews.parent, business)}


def business_text(row: dict[str, object], settings: YelpSettings) -> str | None:
    """Return a business's text, or None if it lacks a name, reviews or categories."""
    name = clean_text(str(row["name"] or ""))
    categories = [clean_text(part) for part in str(row["categories"] or "").split(",")]
    categories = [category for category in categories if category]
    stars, count = row["stars"], row["review_count"]
    if not name or not categories or not isinstance(count, int) or count < 1:
        return None
    parts = [name]
    if not settings.without_averages:
        rated = "unrated" if stars is None else f"{stars:g} stars"
        parts.append(f"{rated} in {count} review{'s' if count > 1 else ''}")
    parts.append(", ".join(categories[: settings.max_categories or None]))
    return "; ".join(parts)


def _read(source: Source, request: ImportRequest) -> Dataset:
    settings = request.settings
    assert isinstance(settings, YelpSettings)

    def parse_businesses(block: Block, counts: RowCounts) -> RawItems:
        table, lines = parse_json(block, BUSINESS, counts)
        texts = [business_text(row, settings) for row in table.to_pylist()]
        return RawItems(lines, table["business_id"], pa.chunked_array([pa.array(texts, "string")]))

    parse_reviews = partial(parse_json_ratings, schema=REVIEW)
    dataset = streamed_dataset(source, request, parse_reviews, parse_businesses)
    if not settings.without_averages:
        dataset.report["warnings"].append(AVERAGES_WARNING)
    return dataset


YELP = Source(
    name="yelp",
    task="rating",
    family="yelp",
    description="Yelp Open Dataset: yelp_academic_dataset_review.json and ..._business.json",
    read=_read,
    settings=YelpSettings,
    locate=locate,
)
