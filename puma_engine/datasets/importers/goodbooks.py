"""goodbooks-10k: book ratings, and books marked to read as clicks.

Its ratings carry no times, so every hold-out here is a seeded draw, not a forecast.
The site-wide average rating of a book has seen the test ratings and is never read.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.clicks import click_dataset
from puma_engine.datasets.importers.encoded_interactions import encode
from puma_engine.datasets.importers.ratings import (
    CleanedInteractions,
    clean_ratings,
    rating_dataset,
)
from puma_engine.datasets.reading.delimited import read_original
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.registry import ImportRequest, Source

FAMILY = "goodbooks"
MIN_RATINGS = 20
MAX_RATINGS = 45
RATING_COLUMNS = ("user_id", "book_id", "rating")
BOOK_COLUMNS = ("id", "title", "authors")
MARK_COLUMNS = ("user_id", "book_id")


def usable_ratings(folder: Path) -> CleanedInteractions:
    """Read ratings.parquet and books.parquet: one rating a pair, users with 20 or more.

    A book's text is its title and first author.
    """
    frame = read_original(folder, "ratings", RATING_COLUMNS)
    books, texts = read_original(folder, "books", BOOK_COLUMNS), {}
    for book, title, authors in books.itertuples(index=False):
        author = clean_text(str(authors or "").split(",")[0])
        name = clean_text(str(title or ""))
        texts[str(book)] = f"{name} by {author}" if name and author else name
    frame = frame.rename(columns={"book_id": "item_id", "rating": "outcome"})
    frame["outcome"] = pd.to_numeric(frame["outcome"], errors="coerce")
    valid = frame["outcome"].between(1, 5).to_numpy()
    return clean_ratings(frame, texts, min_rows=MIN_RATINGS, valid=valid)


def _read_marks(source: Source, request: ImportRequest) -> Dataset:
    rated = usable_ratings(request.path)
    frame = read_original(request.path, "to_read", MARK_COLUMNS)
    item, _ = encode(frame["book_id"], rated.rows.item_ids)
    user, _ = encode(frame["user_id"], rated.rows.user_ids)
    eligible = np.isin(user, rated.rows.users_present()) & (item >= 0)
    outcome = np.ones(len(frame), np.float32)
    rows = replace(rated.rows, user=user, item=item, outcome=outcome).select(eligible)
    read = {"rows": len(frame), "users": int(frame["user_id"].nunique()), "items": len(rated.texts)}
    reason = f"of users with fewer than {MIN_RATINGS} ratings, or of unknown books"
    marked = CleanedInteractions(rows, rated.texts, read, {reason: len(frame) - len(rows)})
    return click_dataset(source, request, marked, rated.rows, min_marks=10, max_marks=30)


GOODBOOKS = Source(
    name="goodbooks",
    task="rating",
    family=FAMILY,
    about="goodbooks-10k (first release): ratings 1-5 of books, CC BY-SA 4.0, Zygmunt Zajac",
    read=lambda source, request: rating_dataset(
        source, request, usable_ratings(request.path), max_rows=MAX_RATINGS
    ),
)
GOODBOOKS_TO_READ = Source(
    name="goodbooks-to-read",
    task="click",
    family=FAMILY,
    about=(
        "goodbooks-10k (first release): books marked to read as clicks, with drawn "
        "non-clicks, CC BY-SA 4.0, Zygmunt Zajac"
    ),
    read=_read_marks,
)
