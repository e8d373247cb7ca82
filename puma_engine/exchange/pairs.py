"""Pairs of user and item to predict: from options, or from a table."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from puma_engine.errors import ConfigError, DataError


@dataclass(frozen=True)
class Pairs:
    """Pairs of user and item ids; texts and histories go with them, or are None."""

    pairs: list[tuple[str, str]]
    texts: list[str | None] | None = None
    histories: list[list[str]] | None = None


def read_pairs(
    path: Path | None, user: str | None = None, item: str | None = None, text: str | None = None
) -> Pairs:
    """Return the pair of a user and an item, or those of a CSV or Parquet file.

    The file has the columns user_id and item_id, and maybe text, and history (item ids; in a
    CSV separated by |). Raises ConfigError or DataError.
    """
    if path is None:
        if user is None or item is None:
            raise ConfigError("Give --user and --item, or a table with --pairs.")
        return Pairs([(user, item)], None if text is None else [text])
    if user is not None or item is not None or text is not None:
        raise ConfigError("Give --user and --item, or a table with --pairs, not both.")
    if path.suffix not in (".csv", ".parquet") or not path.is_file():
        raise DataError(f"There is no .csv or .parquet file {path} with pairs.")
    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
        else:
            frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise DataError(f"The file {path} cannot be read: {error}") from error
    if not {"user_id", "item_id"} <= set(frame.columns) or not len(frame):
        raise DataError(f"The file {path} needs rows with user_id and item_id.")
    if frame[["user_id", "item_id"]].isna().any(axis=None):
        raise DataError(f"The file {path} has rows without a user_id or item_id.")
    texts = histories = None
    if "text" in frame:
        texts = [None if pd.isna(text) else str(text) for text in frame["text"]]
    if "history" in frame:
        histories = [
            [item for item in value.split("|") if item]
            if isinstance(value, str)
            else [str(item) for item in (value if hasattr(value, "__iter__") else ())]
            for value in frame["history"]
        ]
    pairs = list(zip(frame["user_id"].astype(str), frame["item_id"].astype(str), strict=True))
    return Pairs(pairs, texts, histories)
