"""MovieTweetings: film ratings with times, so that the latest rows are held out."""

from pathlib import Path

import numpy as np

from puma_engine.datasets.importers.ratings import (
    CleanedInteractions,
    clean_ratings,
    original_item_ids,
    rating_dataset,
)
from puma_engine.datasets.reading.column_values import as_numbers, as_texts
from puma_engine.datasets.reading.delimited import read_original
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.registry import Source

MIN_RATINGS = 20
MAX_RATINGS = 85
RATING_COLUMNS = ("user_id", "imdb_id", "rating", "timestamp")
MOVIE_COLUMNS = ("imdb_id", "title")


def usable_ratings(folder: Path) -> CleanedInteractions:
    """Read ratings.parquet and movies.parquet: ratings 1-10 become 1-5 by ceil(r / 2)."""
    names = {"imdb_id": "item_id", "timestamp": "time"}
    read = read_original(folder, "ratings", RATING_COLUMNS).renamed(names)
    of_movies = read_original(folder, "movies", MOVIE_COLUMNS)
    titles = as_texts(of_movies.table["title"], "titles")
    texts = {
        film: clean_text(titles.unique[title])
        for film, title in zip(
            original_item_ids(of_movies, "imdb_id", "film ids"), titles.codes, strict=True
        )
    }
    rating = as_numbers(read.table["rating"], "ratings")
    valid = (rating >= 1) & (rating <= 10)
    return clean_ratings(
        read,
        texts,
        outcome=np.ceil(rating / 2),
        valid=valid,
        not_rated=rating == 0,
        min_rows=MIN_RATINGS,
    )


MOVIETWEETINGS = Source(
    name="movietweetings",
    task="rating",
    family="movietweetings",
    description="MovieTweetings: film ratings 1-10 mapped to 1-5, MIT, Simon Dooms",
    read=lambda source, request: rating_dataset(
        source, request, usable_ratings(request.path), max_rows=MAX_RATINGS
    ),
)
