"""MIND's behaviors.tsv as compact arrays: who was shown which news when, and had read what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.importers.raw_rows import NO_TIME, NO_USER, usable_ids
from puma_engine.datasets.reading.delimited import parse_block
from puma_engine.datasets.reading.line_blocks import Block, ReadProgress, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.timestamps import seconds_of_texts
from puma_engine.errors import DataError

FIELDS = ("impression_id", "user_id", "time", "history", "impressions")
NO_LABEL = "impressions without a click mark of 0 or 1"
UNKNOWN_NEWS = "impressions of unknown news, or of news without a title"
_NOTHING_SHOWN = "without impressions"


@dataclass(frozen=True)
class Behaviors:
    """The sessions of one part of MIND, [n] each, and their lists one after another.

    names: the users' ids; user: once all parts are read, their int32 codes. time: Unix seconds. read: how many news the
    history names, known or not. shown[shown_start[i]:shown_start[i + 1]]: what session i
    showed, each twice the item's code plus 1 if clicked. past, past_start: known items of
    the history, in order. unusable: counts of shown items that were left out, by reason.
    """

    names: pa.ChunkedArray
    user: np.ndarray
    time: np.ndarray
    read: np.ndarray
    shown_start: np.ndarray
    shown: np.ndarray
    past_start: np.ndarray
    past: np.ndarray
    unusable: dict[str, int]

    def __len__(self) -> int:
        return len(self.time)


def read_behaviors(
    path: Path, news: pa.Array, row_counts: RowCounts, progress: ReadProgress | None
) -> Behaviors:
    """Read a behaviors.tsv; news: the ids whose places are the items' codes. Raises DataError."""
    parts = []
    for block in read_blocks(path, progress):
        parts.append(_part(block, news, row_counts))
        row_counts.stop_if_unusable()
    row_counts.check()
    unusable = {
        reason: sum(part.unusable[reason] for part in parts) for reason in (NO_LABEL, UNKNOWN_NEWS)
    }
    if not any(len(part.shown) for part in parts):
        counts = ", ".join(f"{count:,} {reason}" for reason, count in unusable.items())
        raise DataError(
            f"{path} holds no impression of known news that ends in -1 (clicked) or -0 ({counts}); "
            "use MIND's train and dev, since its test part has no marks."
        )
    return Behaviors(
        pa.chunked_array([chunk for part in parts for chunk in part.names.chunks], pa.string()),
        np.zeros(0, np.int32),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.read for part in parts]),
        _starts([np.diff(part.shown_start) for part in parts]),
        np.concatenate([part.shown for part in parts]),
        _starts([np.diff(part.past_start) for part in parts]),
        np.concatenate([part.past for part in parts]),
        unusable,
    )


def lists_of(start: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the list items of some rows stand, and for each the place of its row in rows."""
    lengths = start[rows + 1] - start[rows]
    owner = np.repeat(np.arange(len(rows)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return start[rows][owner] + within, owner


def _part(block: Block, news: pa.Array, row_counts: RowCounts) -> Behaviors:
    table, lines = parse_block(block, FIELDS, "\t", row_counts)
    seconds, timed, units = seconds_of_texts(table["time"])
    row_counts.times(units)
    known = usable_ids(table["user_id"])
    shows = pc.not_equal(pc.utf8_trim_whitespace(table["impressions"]), "").to_numpy()
    good = np.ones(len(lines), dtype=bool)
    for reason, fine in ((NO_USER, known), (NO_TIME, timed), (_NOTHING_SHOWN, shows)):
        row_counts.drop(reason, lines[good & ~fine])
        good &= fine
    table = table.filter(pa.array(good))
    words, of = _words(table["impressions"])
    clicked, passed = (
        pc.ends_with(words, mark).to_numpy(zero_copy_only=False) for mark in ("-1", "-0")
    )
    item = _codes(pc.utf8_slice_codeunits(words, 0, -2), news)
    marked = clicked | passed
    usable = marked & (item >= 0)
    past, past_of = _words(table["history"])
    past_item = _codes(past, news)
    count = table.num_rows
    return Behaviors(
        table["user_id"],
        np.zeros(0, np.int32),
        seconds[good],
        np.bincount(past_of, minlength=count).astype(np.int32),
        _starts([np.bincount(of[usable], minlength=count)]),
        (item * 2 + clicked)[usable].astype(np.int32),
        _starts([np.bincount(past_of[past_item >= 0], minlength=count)]),
        past_item[past_item >= 0].astype(np.int32),
        {NO_LABEL: int((~marked).sum()), UNKNOWN_NEWS: int((marked & (item < 0)).sum())},
    )


def _words(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Return the words of all rows one after another, and the row of each."""
    lists = pc.utf8_split_whitespace(column.combine_chunks())
    words, of = pc.list_flatten(lists), pc.list_parent_indices(lists)
    filled = pc.not_equal(words, "")
    return words.filter(filled), of.filter(filled).to_numpy(zero_copy_only=False)


def _codes(ids: pa.Array, news: pa.Array) -> np.ndarray:
    """Return the place of each id among the news, [n] int64; -1 where it is unknown."""
    return pc.fill_null(pc.index_in(ids, value_set=news), -1).to_numpy().astype(np.int64)


def _starts(lengths: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
