"""goodbooks-10k: book ratings, and books marked to read as clicks.

Its ratings have no times, so held-out rows are a seeded random draw, not the latest ones. The
site-wide average rating of a book includes the test ratings and is never read.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from puma_engine.datasets.dataset import Dataset, allowed_outcomes
from puma_engine.datasets.importers.clicks import click_dataset
from puma_engine.datasets.importers.encoded_interactions import latest_of_each_pair
from puma_engine.datasets.importers.ratings import (
    BAD_LINE,
    REPEATED,
    CleanedInteractions,
    clean_ratings,
    counts_of,
    id_positions,
    original_item_ids,
    rating_dataset,
)
from puma_engine.datasets.reading.column_values import as_ids, as_numbers, as_texts
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
    """Read ratings.parquet and books.parquet: one rating for each user and book, users with 20 or more.

    A book's text is its title and first author.
    """
    read = read_original(folder, "ratings", RATING_COLUMNS).renamed({"book_id": "item_id"})
    of_books = read_original(folder, "books", BOOK_COLUMNS)
    books, texts = original_item_ids(of_books, "id", "book ids"), {}
    columns = [
        np.array(column.unique, dtype=object)[column.codes]
        for column in (as_texts(of_books.table[name], name) for name in ("title", "authors"))
    ]
    for book, title, authors in zip(books, *columns, strict=True):
        author = clean_text(authors.split(",")[0])
        name = clean_text(title)
        texts[book] = f"{name} by {author}" if name and author else name
    outcome = as_numbers(read.table["rating"], "ratings")
    valid = allowed_outcomes("rating", outcome)
    return clean_ratings(read, texts, outcome=outcome, valid=valid, min_rows=MIN_RATINGS)


def _read_marks(source: Source, request: ImportRequest) -> Dataset:
    rated = usable_ratings(request.path)
    marks = read_original(request.path, "to_read", MARK_COLUMNS)
    counts = counts_of(marks)
    counts.check()
    users = as_ids(marks.table["user_id"], "user ids")
    item = id_positions(as_ids(marks.table["book_id"], "book ids"), rated.rows.item_ids)
    user = id_positions(users, rated.rows.user_ids)
    eligible = np.isin(user, rated.rows.users_present()) & (item >= 0)
    outcome = np.ones(len(user), np.float32)
    marked_rows = replace(rated.rows, user=user, item=item, outcome=outcome).select(eligible)
    rows = marked_rows.select(latest_of_each_pair(marked_rows))
    read = {"rows": counts.rows, "users": len(users.unique), "items": len(rated.texts)}
    reason = f"of users with fewer than {MIN_RATINGS} ratings, or of unknown books"
    dropped = {reason: len(user) - len(marked_rows)}
    if repeated := len(marked_rows) - len(rows):
        dropped[REPEATED] = repeated
    if marks.bad:
        dropped[BAD_LINE] = len(marks.bad)
    marked = CleanedInteractions(rows, rated.texts, read, dropped)
    return click_dataset(source, request, marked, rated.rows, min_marks=10, max_marks=30)


GOODBOOKS = Source(
    name="goodbooks",
    task="rating",
    family=FAMILY,
    description="goodbooks-10k (first release): ratings 1-5 of books, CC BY-SA 4.0, Zygmunt Zajac",
    read=lambda source, request: rating_dataset(
        source, request, usable_ratings(request.path), max_rows=MAX_RATINGS
    ),
)
GOODBOOKS_TO_READ = Source(
    name="goodbooks-to-read",
    task="click",
    family=FAMILY,
    description=(
        "goodbooks-10k (first release): books marked to read as clicks, with drawn "
        "non-clicks, CC BY-SA 4.0, Zygmunt Zajac"
    ),
    read=_read_marks,
)
