"""Yelp Open Dataset: reviews and businesses, JSON lines as published."""

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
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.reading.timestamps import seconds_of_texts
from puma_engine.datasets.registry import ImportRequest, Source, register

REVIEW = pa.schema(
    {
        "user_id": pa.string(),
        "business_id": pa.string(),
        "stars": pa.float64(),
        "date": pa.string(),
    }
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
_REVIEWS = "yelp_academic_dataset_review.json"
AVERAGES_WARNING = (
    "The item texts show each business's average stars and number of reviews, as in the paper; "
    "both have seen the held-out ratings. without_averages leaves them out."
)


@dataclasses.dataclass(frozen=True)
class YelpSettings(RatingSettings):
    """The paper's filters, and what its item texts show besides the name.

    max_categories: how many categories. without_averages: no average stars and no number of
    reviews. A business without categories or reviews is dropped, as in the paper, whatever is shown.
    """

    min_rows: int = 25
    max_rows: int = 75
    max_categories: int = 10
    without_averages: bool = False


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find the two files: path is their folder, or the file of reviews."""
    reviews = first_file(path, _REVIEWS) if path.is_dir() else path
    business = plain_name(reviews).replace("review", "business")
    return {"ratings": reviews, "items": items_path or first_file(reviews.parent, business)}


def read_reviews(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None
) -> Iterator[RawRows]:
    """Yield the reviews."""
    for block in read_blocks(path, progress):
        table, lines = parse_block(block, REVIEW, row_counts)
        seconds, timed, units = seconds_of_texts(table["date"])
        row_counts.times(units)
        outcome = table["stars"].to_numpy().astype(np.float64)
        yield RawRows(lines, table["user_id"], table["business_id"], outcome, seconds, timed)


def read_businesses(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None, settings: YelpSettings
) -> Iterator[RawItems]:
    """Yield ids and texts; the text is null for a business that the paper leaves out."""
    for block in read_blocks(path, progress):
        table, lines = parse_block(block, BUSINESS, row_counts)
        texts = [business_text(row, settings) for row in table.to_pylist()]
        yield RawItems(
            lines, table["business_id"], pa.chunked_array([pa.array(texts, pa.string())])
        )


def business_text(row: dict[str, object], settings: YelpSettings) -> str | None:
    """Return a business's text, or None if it lacks a name, reviews or categories."""
    name = clean_text(str(row["name"] or ""))
    kinds = [clean_text(kind) for kind in str(row["categories"] or "").split(",")]
    kinds = [kind for kind in kinds if kind]
    stars, count = row["stars"], row["review_count"]
    if not name or not kinds or not isinstance(count, int) or count < 1:
        return None
    parts = [name]
    if not settings.without_averages:
        rated = "unrated" if stars is None else f"{stars:g} stars"
        parts.append(f"{rated} in {count} review{'s' if count > 1 else ''}")
    parts.append(", ".join(kinds[: settings.max_categories or None]))
    return "; ".join(parts)


def _read(source: Source, request: ImportRequest) -> Dataset:
    settings = request.settings
    assert isinstance(settings, YelpSettings)
    made = streamed_dataset(
        source,
        request,
        lambda row_counts: read_reviews(request.files["ratings"], row_counts, request.progress),
        lambda row_counts: read_businesses(
            request.files["items"], row_counts, request.progress, settings
        ),
    )
    if not settings.without_averages:
        made.report["warnings"].append(AVERAGES_WARNING)
    return made


YELP = register(
    Source(
        name="yelp",
        task="rating",
        family="yelp",
        about="Yelp Open Dataset: yelp_academic_dataset_review.json and ..._business.json",
        read=_read,
        settings=YelpSettings,
        locate=locate,
    )
)
