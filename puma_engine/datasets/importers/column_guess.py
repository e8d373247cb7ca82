"""Guess the fields of a table's columns from their content and their names."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from puma_engine.datasets.reading.delimited import plain_names
from puma_engine.datasets.reading.times import read_times
from puma_engine.errors import DataError

# Names that columns of each field often have, the likeliest first.
COMMON_NAMES = {
    "user_id": ("user_id", "userid", "user", "reviewer_id", "reviewerid", "reviewer", "customer"),
    "item_id": ("item_id", "itemid", "item", "asin", "parent_asin", "product_id", "book_id")
    + ("movie_id", "movieid", "business_id", "news_id", "product"),
    "outcome": ("outcome", "rating", "stars", "score", "overall", "click", "clicked", "label"),
    "text": ("text", "title", "item_title", "name", "product_title", "description"),
    "time": ("time", "timestamp", "date", "datetime", "unixreviewtime", "created_at", "when"),
    "history": ("history", "clicked_news", "past_items"),
}
# Words in names that hint at a field; the content of the column decides.
WORDS = {
    "user_id": {"user", "customer", "client", "reader", "reviewer", "member", "account", "person"}
    | {"visitor", "buyer", "subscriber", "profile", "viewer", "listener", "player", "guest"},
    "item_id": {
        "item",
        "sku",
        "asin",
        "isbn",
        "product",
        "article",
        "book",
        "movie",
        "film",
        "song",
    }
    | {"track", "business", "news", "game", "recipe", "show", "ean", "gtin"},
    "outcome": {"rating", "rated", "stars", "star", "score", "click", "clicked", "grade", "mark"}
    | {"liked", "like", "vote", "points", "outcome", "overall"},
    "text": {"title", "name", "text", "description", "headline", "heading"},
    "time": {"time", "timestamp", "date", "datetime", "when", "day", "created", "at"},
}
MAX_ID_LENGTH = 64
# Largest number of distinct values of ratings: 0 to 10 in halves.
MAX_OUTCOMES = 21
OUTCOME_RANGE = (-10, 100)
# Single words look like ids, and are titles only if the name says so.
MIN_SCORE = 0.3
_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


def guess_columns(names: Sequence[str], rows: pd.DataFrame | None = None) -> dict[str, str]:
    """Return the likely column of each field that has one; no column serves twice.

    rows: the first rows as text, [n, columns]. With them, a column is not chosen by its name if its
    content does not fit, and a field with an unusual name is found by its content: outcomes are few
    different numbers, titles have words, and an item has one title while a user has several.
    """
    by_name = _by_name(names)
    if rows is None or not len(rows):
        return by_name
    columns = {name: rows[name].astype(str).str.strip() for name in names}
    guess: dict[str, str] = {}
    for field, fits in (("outcome", _outcome), ("text", _text)):
        scores = {
            name: fit + 2.0 * _name_similarity(name, field, by_name)
            for name in _free(names, guess)
            if (fit := fits(columns[name])) > 0
        }
        best = max(scores, key=lambda name: scores[name], default=None)
        if best is not None and scores[best] >= MIN_SCORE:
            guess[field] = best
    titles = columns.get(guess.get("text", ""))
    ids = [name for name in _free(names, guess) if _may_be_id(columns[name])]
    pairs = {
        (user, item): _name_similarity(user, "user_id", by_name)
        + _name_similarity(item, "item_id", by_name)
        + _has_one_title(columns[item], titles)
        - _has_one_title(columns[user], titles)
        for user in ids
        for item in ids
        if user != item
    }
    if pairs:
        guess["user_id"], guess["item_id"] = max(pairs, key=lambda pair: pairs[pair])
    elif len(ids) == 1 and _has_one_title(columns[ids[0]], titles) > 0.5:
        # A table of items has one column of ids.
        guess["item_id"] = ids[0]
    for name in _free(names, guess):
        if "time" not in guess and _is_time(columns[name], _name_similarity(name, "time", by_name)):
            guess["time"] = name
    if (history := by_name.get("history")) in _free(names, guess):
        guess["history"] = str(history)
    return {field: guess[field] for field in COMMON_NAMES if field in guess}


def guess_task(outcomes: pd.Series) -> str:
    """Return the task of outcomes (as text): click for 0 and 1, otherwise rating."""
    values = pd.to_numeric(outcomes.astype(str).str.strip(), errors="coerce").dropna()
    return "click" if len(values) and set(values.unique()) <= {0.0, 1.0} else "rating"


def _by_name(names: Sequence[str]) -> dict[str, str]:
    plain = [name.replace(" ", "_").replace("-", "_") for name in plain_names(names)]
    by_plain_name = dict(zip(reversed(plain), reversed(names), strict=True))
    guess: dict[str, str] = {}
    for field, common in COMMON_NAMES.items():
        column = next((by_plain_name[name] for name in common if name in by_plain_name), None)
        if column is not None and column not in guess.values():
            guess[field] = column
    return guess


def _free(names: Sequence[str], guess: dict[str, str]) -> list[str]:
    return [name for name in names if name not in guess.values()]


def _name_similarity(name: str, field: str, by_name: dict[str, str]) -> float:
    """Return how well a column's name fits a field, in [0, 1]."""
    if by_name.get(field) == name:
        return 1.0
    words = set(re.findall(r"[a-z]+", plain_names([name])[0])) - {"id"}
    hits = words & WORDS[field]
    return 0.75 * len(hits) / len(words) if hits else 0.0


def _outcome(column: pd.Series) -> float:
    """Return how well a column fits outcomes, in [0, 1]: best are few different numbers from 0 to 10."""
    filled = column[column != ""]
    values = pd.to_numeric(filled, errors="coerce").dropna()
    if not len(values) or len(values) < 0.9 * len(filled):
        return 0.0
    if values.min() < OUTCOME_RANGE[0] or values.max() > OUTCOME_RANGE[1]:
        return 0.0
    # Many different or unique values look like ids, so the name must fit better.
    repeats = values.nunique() < len(values) and values.nunique() <= MAX_OUTCOMES
    return 1.0 if repeats and values.min() >= 0 and values.max() <= 10 else 0.25


def _text(column: pd.Series) -> float:
    """Return how well a column fits titles, in [0, 1]: words with letters, of several items."""
    filled = column[column != ""]
    if filled.nunique() < 2:
        return 0.0
    if filled.str.contains(r"[^\W\d_]{2}", regex=True).mean() < 0.5:
        return 0.0
    words = filled.str.split().str.len().mean()
    return float(np.clip((words - 1.0) / 2.0, 0.1, 1.0))


def _may_be_id(column: pd.Series) -> bool:
    filled = column[column != ""]
    return len(filled) > 0 and float(filled.str.len().mean()) <= MAX_ID_LENGTH


def _has_one_title(column: pd.Series, titles: pd.Series | None) -> float:
    """Return how far a column tells titles apart and has one title for each value, in [0, 1]."""
    if titles is None:
        return 0.0
    pairs = pd.DataFrame({"id": column, "title": titles})
    same = float((pairs.groupby("id")["title"].nunique() == 1).mean())
    ids, texts = column.nunique(), titles.nunique()
    return same * min(ids, texts) / max(ids, texts)


def _is_time(column: pd.Series, named: float) -> bool:
    """Return whether a column holds times; ambiguous numbers need a fitting name."""
    filled = column[column != ""]
    if not len(filled):
        return False
    numbers = pd.to_numeric(filled, errors="coerce").notna().mean()
    if filled.str.match(_DATE).mean() > 0.9 or (named == 1 and numbers > 0.9):
        return True
    try:
        times = read_times(pa.chunked_array([pa.array(filled.tolist(), pa.string())]))
    except DataError:
        return False
    return bool(times.usable.mean() > 0.9) and (named > 0 or times.written_as != "%Y")
