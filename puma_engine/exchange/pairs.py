"""Read pairs of users and items to predict, from options or from a table."""

from dataclasses import dataclass
from pathlib import Path

from puma_engine.datasets.reading.column_values import (
    EncodedTexts,
    as_histories,
    as_ids,
    as_texts,
)
from puma_engine.datasets.reading.delimited import read_columns
from puma_engine.errors import ConfigError, DataError
from puma_engine.exchange.prompt_file import Owner, checked_ids


@dataclass(frozen=True)
class Pairs:
    """Pairs of user and item ids. texts, histories: one for each pair, or None."""

    pairs: list[tuple[str, str]]
    texts: list[str | None] | None = None
    histories: list[list[str]] | None = None


def read_pairs(
    path: Path | None, user: str | None = None, item: str | None = None, text: str | None = None
) -> Pairs:
    """Return one pair of a user and an item, or the pairs of a CSV or Parquet file.

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
    read = read_columns(path, ["user_id", "item_id"], optional=["text", "history"])
    if read.bad:
        first = read.bad[0]
        raise DataError(
            f"{len(read.bad):,} rows of {path} cannot be read; the first {first.reason} ({first})."
        )
    table = read.table
    if not table.num_rows:
        raise DataError(f"The file {path} needs rows with user_id and item_id.")
    owners: tuple[Owner, Owner] = ("user", "item")
    users, items = (
        checked_ids(path, _values(as_ids(table[f"{owner}_id"], f"{owner} ids")), owner)
        for owner in owners
    )
    texts = histories = None
    if "text" in table.column_names:
        texts = [text or None for text in _values(as_texts(table["text"], "texts"))]
    if "history" in table.column_names:
        histories, usable = as_histories(table["history"], "|")
        if not usable.all():
            row = int(usable.argmin())
            raise DataError(f"The history in data row {row + 1:,} of {path} cannot be read.")
    return Pairs(list(zip(users, items, strict=True)), texts, histories)


def _values(texts: EncodedTexts) -> list[str]:
    return [texts.unique[code] for code in texts.codes]
