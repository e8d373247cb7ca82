"""Rating data sets from files too large for memory: read twice, kept as compact arrays.

The first reading keeps 20 bytes a row, with 64-bit codes in place of ids. Only of what
passes the filters are ids and texts fetched, in a second reading. So a file of any size
needs memory for its rows' codes and for what is kept of it, not for its text.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    latest_of_each_pair,
)
from puma_engine.datasets.importers.ratings import CleanedInteractions, rating_dataset
from puma_engine.datasets.importers.raw_rows import (
    REPEATED,
    ItemReader,
    RatingReader,
    id_codes,
    positions_in,
    texts_of,
    usable_items,
    usable_ratings_of,
)
from puma_engine.datasets.importers.source_settings import RatingSettings
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.registry import ImportRequest, Source
from puma_engine.datasets.seeded_hashing import rank_within
from puma_engine.errors import DataError

UNKNOWN_ITEM = "of an unknown item, or one without a title"


def streamed_dataset(
    source: Source, request: ImportRequest, ratings: RatingReader, items: ItemReader
) -> Dataset:
    """Read, filter and split a file of ratings. Raises DataError.

    Filters in the paper's order: rows of items with a title, items with enough rows, users
    with enough, the latest rows of busy users; repeated pairs are dropped before counting.
    """
    settings = request.settings
    assert isinstance(settings, RatingSettings)
    item_counts = RowCounts(request.files["items"], settings.max_bad_share)
    known = _known_items(items, item_counts)
    row_counts = RowCounts(request.files["ratings"], settings.max_bad_share)
    rows, unknown = _scan(ratings, row_counts, known)
    read = {"rows": row_counts.lines, "users": len(rows.user_ids), "items": len(known)}
    dropped = {**row_counts.dropped, UNKNOWN_ITEM: unknown}
    repeats_counted = _counts_with_repeats(rows, settings)
    rows = _filtered(rows, settings, dropped)
    if not len(rows):
        counts = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"No row of {row_counts.path} is left ({counts}); check the files, or lower min_rows (it "
            f"is {settings.min_rows}) and min_item_rows ({settings.min_item_rows})."
        )
    rows, texts, several = _named(rows, ratings, items, row_counts.path)
    made = rating_dataset(
        source,
        request,
        CleanedInteractions(rows, texts, read, dropped),
        most=settings.max_rows or None,
    )
    made.report.update(
        settings=dataclasses.asdict(settings),
        ratings_file=row_counts.report(),
        items_file={**item_counts.report(), "items_with_several_texts": several},
        repeats_counted=repeats_counted,
        warnings=_warnings(row_counts, unknown),
    )
    return made


def _known_items(read: ItemReader, row_counts: RowCounts) -> np.ndarray:
    """Return the sorted codes of the items that have a text, [items] uint64."""
    codes = [id_codes(ids) for ids, _ in usable_items(read, row_counts)]
    known = np.unique(np.concatenate(codes))
    if not len(known):
        raise DataError(
            f"{row_counts.path} holds no item with an id and a title ({row_counts.lines:,} lines); check that "
            "it is the file of items."
        )
    return known


def _scan(
    read: RatingReader, row_counts: RowCounts, known: np.ndarray
) -> tuple[EncodedInteractions, int]:
    """Read all usable ratings of known items into arrays; count those of unknown ones.

    The codes of users and items stand where their ids will be.
    """
    columns = [GrowingArray(kind) for kind in (np.uint64, np.int32, np.float32, np.uint32)]
    unknown = 0
    for part, good in usable_ratings_of(read, row_counts):
        place = positions_in(id_codes(texts_of(part.item)), known)
        met = good & (place >= 0)
        unknown += int((good & ~met).sum())
        values = (id_codes(texts_of(part.user)[met]), place[met], part.outcome[met])
        for column, added in zip(columns, (*values, part.seconds[met]), strict=True):
            column.extend(added)
    codes, item, outcome, time = (column.whole() for column in columns)
    columns.clear()
    pa.default_memory_pool().release_unused()
    user, users = pd.factorize(codes)
    del codes
    return EncodedInteractions(users, known, user.astype(np.int32), item, outcome, time), unknown


class GrowingArray:
    """An array that grows in place, since many small ones leave memory in pieces."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._values = np.empty(1 << 12, kind)
        self._length = 0

    def extend(self, added: np.ndarray) -> None:
        """Put values, [n], at the end."""
        end = self._length + len(added)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 5 // 4), refcheck=False)
        self._values[self._length : end] = added
        self._length = end

    def whole(self) -> np.ndarray:
        """Return all values; nothing can be added after this."""
        self._values.resize(self._length, refcheck=False)
        return self._values


def _filtered(
    rows: EncodedInteractions, settings: RatingSettings, dropped: dict[str, int]
) -> EncodedInteractions:
    """Apply the filters in the paper's order and count what each drops.

    A mask narrows step by step, and rows are copied once: all of them twice is too much.
    """
    alive = latest_of_each_pair(rows)
    dropped[REPEATED] = len(rows) - int(alive.sum())
    for what, codes, least in (
        ("items", rows.item, settings.min_item_rows),
        ("users", rows.user, settings.min_rows),
    ):
        before = int(alive.sum())
        alive &= np.bincount(codes[alive], minlength=int(codes.max(initial=0)) + 1)[codes] >= least
        dropped[f"of {what} with fewer than {least} rows"] = before - int(alive.sum())
    return rows.keep(alive)


def _counts_with_repeats(rows: EncodedInteractions, settings: RatingSettings) -> dict[str, int]:
    """Count what the same filters keep where repeated pairs count too, as in the paper."""
    per_item = np.bincount(rows.item, minlength=len(rows.item_ids))
    good = per_item[rows.item] >= settings.min_item_rows
    per_user = np.bincount(rows.user[good], minlength=len(rows.user_ids))
    rows = rows.keep(good & (per_user[rows.user] >= settings.min_rows))
    if settings.max_rows:
        assert rows.time is not None
        latest = rank_within(rows.user, -rows.time.astype(np.int64))
        rows = rows.keep(latest < settings.max_rows)
    return {
        "users": rows.count_users(),
        "items": len(np.unique(rows.item)),
        "records": len(rows),
    }


def _named(
    rows: EncodedInteractions, ratings: RatingReader, items: ItemReader, path: Path
) -> tuple[EncodedInteractions, dict[str, str], int]:
    """Fetch the ids and texts of what is left.

    Returns rows whose users and items are indices of sorted ids, texts by item id, and how
    many items have several texts.
    """
    used_users, user = np.unique(rows.user, return_inverse=True)
    used_items, item = np.unique(rows.item, return_inverse=True)
    people, things = IdTable(rows.user_ids[used_users]), IdTable(rows.item_ids[used_items])
    for part in ratings(RowCounts(path, 1.0)):
        people.collect(texts_of(part.user))
    texts: dict[str, str] = {}
    several = set()
    for ids, given in usable_items(items, RowCounts(path, 1.0)):
        for which in things.collect(ids):
            text = clean_text(given[which])
            if texts.setdefault(ids[which], text) != text:
                several.add(ids[which])
    user_ids, user_rank = people.sorted(path)
    item_ids, item_rank = things.sorted(path)
    assert rows.time is not None
    named = EncodedInteractions(
        user_ids,
        item_ids,
        user_rank[user],
        item_rank[item],
        rows.outcome,
        rows.time.astype(np.int64),
    )
    return named, texts, len(several)


class IdTable:
    """The ids that belong to some 64-bit codes, found by reading a file again."""

    def __init__(self, codes: np.ndarray) -> None:
        self._order = np.argsort(codes)
        self._codes = codes[self._order]
        self._ids = np.full(len(codes), "", dtype=object)

    def collect(self, ids: np.ndarray) -> np.ndarray:
        """Remember which ids have a wanted code; return their places in ids.

        Raises DataError where two ids have one code, since their rows cannot be told apart.
        """
        place = positions_in(id_codes(ids), self._codes)
        met = np.flatnonzero(place >= 0)
        place, names = place[met], ids[met]
        new = self._ids[place] == ""
        self._ids[place[new]] = names[new]
        clash = np.flatnonzero(self._ids[place] != names)
        if len(clash):
            pair = self._ids[place[clash[0]]], names[clash[0]]
            raise DataError(
                f"The ids {pair[0]!r} and {pair[1]!r} have the same 64-bit code, so their rows "
                "cannot be told apart; rename one of them in the files."
            )
        return met

    def sorted(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids sorted, and the rank in them of each code as first given."""
        if (self._ids == "").any():
            raise DataError(f"{path} changed while it was read; import it again.")
        by = np.argsort(self._ids)
        rank = np.empty(len(by), np.int64)
        rank[self._order[by]] = np.arange(len(by))
        return self._ids[by].astype(str), rank


def _warnings(row_counts: RowCounts, unknown: int) -> list[str]:
    found = []
    if len(row_counts.units) > 1:
        units = " and ".join(f"{count:,} in {unit}" for unit, count in row_counts.units.items())
        found.append(f"The times are written in several ways ({units}); each was read in its own.")
    if unknown > row_counts.lines / 2:
        found.append(
            f"{unknown:,} of {row_counts.lines:,} ratings are of items that the file of items lacks or "
            "has no title for; check that both files belong together."
        )
    return found
