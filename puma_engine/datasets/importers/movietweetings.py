"""MovieTweetings: film ratings with real times, so hold-out is chronological."""

from pathlib import Path

import numpy as np

from puma_engine.datasets.importers.ratings import (
    CleanedInteractions,
    clean_ratings,
    rating_dataset,
)
from puma_engine.datasets.reading.delimited import read_original
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.registry import Source

MIN_RATINGS = 20
MAX_RATINGS = 85
RATING_COLUMNS = ("user_id", "imdb_id", "rating", "timestamp")
MOVIE_COLUMNS = ("imdb_id", "title")


def usable_ratings(folder: Path) -> CleanedInteractions:
    """Read ratings.parquet and movies.parquet: ratings 1-10 become 1-5 by ceil(r / 2)."""
    frame = read_original(folder, "ratings", RATING_COLUMNS)
    movies = read_original(folder, "movies", MOVIE_COLUMNS)
    texts = {str(movie): clean_text(str(title)) for movie, title in movies.itertuples(index=False)}
    valid = frame["rating"].between(1, 10).to_numpy()
    frame = frame.rename(columns={"imdb_id": "item_id", "timestamp": "time"})
    frame["outcome"] = np.ceil(frame["rating"] / 2)
    return clean_ratings(frame, texts, min_rows=MIN_RATINGS, valid=valid)


MOVIETWEETINGS = Source(
    name="movietweetings",
    task="rating",
    family="movietweetings",
    about="MovieTweetings: film ratings 1-10 mapped to 1-5, MIT, Simon Dooms",
    read=lambda source, request: rating_dataset(
        source, request, usable_ratings(request.path), max_rows=MAX_RATINGS
    ),
)
