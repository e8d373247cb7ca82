"""Build rating data sets from published ratings: filters, caps and splits that sources share.

Files too large for memory are read twice. The first pass stores 20 bytes for each row, with 64-bit
codes for ids. The second pass fetches ids and texts of the rows that passed the filters. So memory
grows with the number of rows and of selected rows, not with the text of the file.
"""

import dataclasses
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from puma_engine.datasets.dataset import Dataset, allowed_outcomes
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    build_dataset,
    has_min_rows,
    latest_of_each_pair,
)
from puma_engine.datasets.population import EVERYONE, in_population
from puma_engine.datasets.reading.column_values import (
    EncodedTexts,
    as_ids,
    texts_of,
    usable_ids,
    usable_texts,
)
from puma_engine.datasets.reading.delimited import Columns
from puma_engine.datasets.reading.json_lines import parse_json
from puma_engine.datasets.reading.line_blocks import (
    OTHER_ENCODING,
    Block,
    ReadProgress,
    read_blocks,
)
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.reading.times import (
    read_times,
    seconds_of_numbers,
    seconds_of_texts,
)
from puma_engine.datasets.registry import ImportRequest, RatingSettings, Source
from puma_engine.datasets.seeded_hashing import mix, rank_within, seed_key, text_keys
from puma_engine.datasets.splits import assign_splits, cap_rows, split_rule
from puma_engine.errors import DataError

NO_USER = "without a usable user id"
NO_ITEM = "without a usable item id"
NO_TIME = "without a usable time"
NO_TITLE = "without a usable title"
REPEATED = "repeating a user and item (the latest is kept)"
WRONG_RATING = "with a rating that is not a number from 1 to 5"
WRONG_VALUE = "with an invalid rating"
BAD_LINE = "that cannot be read"
# Largest share of unusable rows in the files of goodbooks and MovieTweetings, which have no setting for it.
MAX_BAD_SHARE = 0.01
UNKNOWN_ITEM = "of an unknown item, or one without a title"


@dataclass(frozen=True)
class RawRatings:
    """Some lines of a file of ratings: their numbers and columns, [n] each.

    user, item: text, null where missing. outcome: float64, NaN where missing. seconds:
    int64; timed: bool, whether the time is usable.
    """

    lines: np.ndarray
    user: pa.ChunkedArray
    item: pa.ChunkedArray
    outcome: np.ndarray
    seconds: np.ndarray
    timed: np.ndarray


@dataclass(frozen=True)
class RawItems:
    """Some lines of a file of items: their numbers, ids and texts, [n]; null where missing."""

    lines: np.ndarray
    item: pa.ChunkedArray
    text: pa.ChunkedArray


RatingParser = Callable[[Block, RowCounts], RawRatings]
ItemParser = Callable[[Block, RowCounts], RawItems]


def parse_json_ratings(block: Block, counts: RowCounts, *, schema: pa.Schema) -> RawRatings:
    """Parse JSON lines; schema: user, item, rating, and time as an integer or text."""
    table, lines = parse_json(block, schema, counts)
    user, item, outcome, time = table.columns
    if pa.types.is_string(time.type):
        seconds, timed, units = seconds_of_texts(time)
    else:
        seconds, timed, units = seconds_of_numbers(time.to_numpy().astype(np.float64))
    counts.time_units += Counter(units)
    return RawRatings(lines, user, item, outcome.to_numpy().astype(np.float64), seconds, timed)


@dataclass(frozen=True)
class CleanedInteractions:
    """Usable rows of users with enough of them, and counts of rows read and dropped.

    texts: by item id. read: rows, users and items. dropped: rows by reason.
    """

    rows: EncodedInteractions
    texts: dict[str, str]
    read: dict[str, int]
    dropped: dict[str, int]


def clean_ratings(
    read: Columns,
    texts: dict[str, str],
    *,
    outcome: np.ndarray,
    valid: np.ndarray,
    min_rows: int,
    not_rated: np.ndarray | None = None,
) -> CleanedInteractions:
    """Drop unusable rows, repeated pairs and users with fewer than min_rows rows.

    read: user_id, item_id and perhaps time, in file order. texts: by usable item id, an empty id or
    text counts as missing. outcome: [n]; valid: [n] bool, which outcomes are allowed; not_rated:
    [n] bool, which of the others mean that the item was not rated. Raises DataError when more than
    1 % of the rows cannot be used.
    """
    texts = {item: text for item, text in texts.items() if item and text}
    users = as_ids(read.table["user_id"], "user ids")
    items = as_ids(read.table["item_id"], "item ids")
    user_ids, user = np.unique(np.array(users.unique, dtype=str), return_inverse=True)
    item_ids = np.array(sorted(texts), dtype=str)
    of_user = usable_ids(pa.array(users.unique, pa.string()))[users.codes]
    of_item = usable_ids(pa.array(items.unique, pa.string()))[items.codes]
    item = id_positions(items, item_ids)
    known = (item >= 0) & of_user & of_item
    seconds, timed = None, np.ones(len(known), dtype=bool)
    if "time" in read.table.column_names:
        times = read_times(read.table["time"])
        seconds, timed = times.seconds, times.usable
    rated = valid if not_rated is None else valid | not_rated
    counts = counts_of(read)
    checks = {NO_USER: of_user, NO_ITEM: of_item, WRONG_VALUE: rated, NO_TIME: timed}
    counts.check_rows(np.arange(len(known)), checks)
    counts.check()
    rows = EncodedInteractions(
        user_ids, item_ids, user[users.codes], item, outcome.astype(np.float32), seconds
    )
    usable = rows.select(known & valid & timed)
    latest = usable.select(latest_of_each_pair(usable))
    rows = latest.select(has_min_rows(latest, min_rows))
    dropped = {
        "without a known user or item": int((~known).sum()),
        "with an invalid rating or time": int((known & ~(valid & timed)).sum()),
        "repeated user and item (the last is kept)": len(usable) - len(latest),
        f"of users with fewer than {min_rows} rows": len(latest) - len(rows),
    }
    if read.bad:
        dropped[BAD_LINE] = len(read.bad)
    seen = {"rows": counts.rows, "users": len(user_ids), "items": len(texts)}
    return CleanedInteractions(rows, texts, seen, dropped)


def original_item_ids(read: Columns, column: str, label: str) -> np.ndarray:
    """Return the id of each row of an original file of items, [n] of str, "" where unusable.

    Raises DataError when more than 1 % of the rows cannot be used.
    """
    ids = as_ids(read.table[column], label)
    usable = usable_ids(pa.array(ids.unique, pa.string()))
    counts = counts_of(read)
    counts.check_rows(np.arange(len(ids.codes)), {NO_ITEM: usable[ids.codes]})
    counts.check()
    return np.where(usable, np.array(ids.unique, dtype=object), "")[ids.codes]


def counts_of(read: Columns) -> RowCounts:
    """Return counts of an original file's rows, with unreadable ones dropped."""
    count = read.table.num_rows

    def label(row: int) -> str:
        return f"data row {row + 1:,}" if row < count else str(read.bad[row - count])

    counts = RowCounts(read.path, MAX_BAD_SHARE, label=label, unit="rows", remedy="check the file")
    counts.rows = count + len(read.bad)
    counts.drop(BAD_LINE, count + np.arange(len(read.bad)))
    return counts


def id_positions(ids: EncodedTexts, known: np.ndarray) -> np.ndarray:
    """Return the position of each id among sorted known ones, [n] int64; -1 where it is unknown."""
    return pd.Index(known).get_indexer(pd.Index(ids.unique))[ids.codes].astype(np.int64)


def rating_dataset(
    source: Source, request: ImportRequest, cleaned: CleanedInteractions, *, max_rows: int | None
) -> Dataset:
    """Sample users, cap each at max_rows rows (None: no cap), split, and report."""
    sampled = sample_population(source, request, cleaned.rows, "enough rows")
    rows = sampled
    if max_rows is not None:
        keys = sampled.row_keys(request.seed, "cap")
        rows = sampled.select(cap_rows(sampled.user, max_rows, keys, sampled.time))
    split = assign_splits(rows.user, rows.row_keys(request.seed, "split"), rows.time)
    report = base_report(source, request, cleaned, len(sampled), len(rows), max_rows)
    report["split"] = split_rule(rows.time is not None)
    return build_dataset(source.name, source.task, rows, split, cleaned.texts, report)


def sample_population(
    source: Source, request: ImportRequest, rows: EncodedInteractions, needed: str
) -> EncodedInteractions:
    """Return the rows of the requested population, or of a seeded sample of its users.

    needed: the condition on users, for the error. Raises DataError when there are no users, or
    fewer than requested.
    """
    population, users = request.population, request.users
    present = rows.users_present()
    present = present[in_population(rows.user_ids[present], source.family, population)]
    if users is not None:
        kind = "usable" if population == EVERYONE else population
        present = seeded_users(rows, present, users, request.seed, repr(source.name), kind)
    if not len(present):
        raise DataError(
            f"No {population} user of {source.name!r} has {needed}; check the folder "
            f"{request.path}."
        )
    return rows.select(np.isin(rows.user, present))


def seeded_users(
    rows: EncodedInteractions,
    present: np.ndarray,
    users: int,
    seed: int,
    label: str,
    kind: str = "usable",
) -> np.ndarray:
    """Return a seeded sample of the codes of users; a smaller sample is part of a larger one.

    label, kind: the data set and the kind of users, for the error. Raises DataError when there are
    fewer than asked for.
    """
    if not 1 <= users <= len(present):
        raise DataError(
            f"{users} users were requested of {label}, which has {len(present)} {kind} users; ask for 1 "
            f"to {len(present)}."
        )
    keys = mix(seed_key(seed, "users"), text_keys(rows.user_ids[present]))
    return present[np.argsort(keys, kind="stable")[:users]]


def request_report(source: Source, request: ImportRequest) -> dict[str, Any]:
    """Return the settings of a request as the first entries of a report."""
    return {
        "source": source.name,
        "about": source.description,
        "population": request.population,
        "users_asked": request.users,
        "seed": request.seed,
    }


def base_report(
    source: Source,
    request: ImportRequest,
    cleaned: CleanedInteractions,
    sampled: int,
    capped: int,
    max_rows: int | None,
) -> dict[str, Any]:
    """Start the report that each importer completes with its split rule.

    sampled, capped: numbers of rows after sampling users and after the cap.
    """
    over_cap = {} if max_rows is None else {f"beyond {max_rows} rows a user": sampled - capped}
    return {
        **request_report(source, request),
        "read": cleaned.read,
        "users_with_enough_rows": len(cleaned.rows.users_present()),
        "dropped": {
            **cleaned.dropped,
            "of users that were not asked for": len(cleaned.rows) - sampled,
            **over_cap,
        },
    }


def streamed_dataset(
    source: Source, request: ImportRequest, parse_ratings: RatingParser, parse_items: ItemParser
) -> Dataset:
    """Read, filter and split a file of ratings of any size. Raises DataError.

    Filters in the paper's order: rows of items with a title, items with enough rows, users
    with enough, the latest rows of busy users; repeated pairs are dropped before counting.
    """
    settings = request.settings
    assert isinstance(settings, RatingSettings)
    item_counts = RowCounts(request.files["items"], settings.max_bad_share)
    batches = usable_items(parse_items, item_counts, request.progress)
    known = np.unique(np.concatenate([id_codes(ids) for ids, _ in batches]))
    if not len(known):
        raise DataError(
            f"{item_counts.path} holds no item with an id and a title ({item_counts.rows:,} lines); "
            "check that it is the file of items."
        )
    counts = RowCounts(request.files["ratings"], settings.max_bad_share)
    rows, unknown, users = _scan(parse_ratings, counts, request.progress, known)
    read = {"rows": counts.rows, "users": users, "items": len(known)}
    dropped = {**counts.dropped, UNKNOWN_ITEM: unknown}
    repeats_counted = _counts_with_repeats(rows, settings)
    rows = _filtered(rows, settings, dropped)
    if not len(rows):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"No row of {counts.path} is left ({reasons}); check the files, or lower min_rows (it "
            f"is {settings.min_rows}) and min_item_rows ({settings.min_item_rows})."
        )
    rows, texts, several_texts = _with_ids(rows, request, parse_ratings, parse_items)
    cleaned = CleanedInteractions(rows, texts, read, dropped)
    dataset = rating_dataset(source, request, cleaned, max_rows=settings.max_rows or None)
    warnings = []
    if len(counts.time_units) > 1:
        units = " and ".join(f"{count:,} in {unit}" for unit, count in counts.time_units.items())
        warnings.append(
            f"The times are written in several ways ({units}); each was read in its own."
        )
    if unknown > counts.rows / 2:
        warnings.append(
            f"{unknown:,} of {counts.rows:,} ratings are of items that the file of items lacks or "
            "has no title for; check that both files belong together."
        )
    dataset.report.update(
        settings=dataclasses.asdict(settings),
        ratings_file=counts.report(),
        items_file={**item_counts.report(), "items_with_several_texts": several_texts},
        repeats_counted=repeats_counted,
        warnings=warnings + encoding_warnings(counts) + dataset.report.get("warnings", []),
    )
    return dataset


def encoding_warnings(*files: RowCounts) -> list[str]:
    """Return warnings with the number of lines, ids included, that were not UTF-8."""
    return [
        f"{count:,} lines of {counts.path.name} are {OTHER_ENCODING}; check the ids in them."
        for counts in files
        if (count := counts.repaired[OTHER_ENCODING])
    ]


def usable_items(
    parse: ItemParser, counts: RowCounts, progress: ReadProgress | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and texts, [n] of str each, of the usable items of a file. Raises DataError."""
    for block in read_blocks(counts.path, progress):
        part = parse(block, counts)
        usable = counts.check_rows(part.lines, {NO_ITEM: usable_ids(part.item)})
        titled = usable_texts(part.text)
        counts.excluded += Counter({NO_TITLE: int((usable & ~titled).sum())})
        counts.stop_if_unusable()
        chosen = pa.array(usable & titled)
        yield texts_of(part.item.filter(chosen)), texts_of(part.text.filter(chosen))
    counts.check()


def id_codes(ids: np.ndarray) -> np.ndarray:
    """Return a 64-bit code of each id, [n] uint64."""
    return pd.util.hash_array(ids, categorize=False).astype(np.uint64)


def _scan(
    parse: RatingParser, counts: RowCounts, progress: ReadProgress | None, known: np.ndarray
) -> tuple[EncodedInteractions, int, int]:
    """Read the usable ratings of known items into arrays; count those of unknown items.

    known: sorted codes of items. Users and items are represented by their codes. Returns the
    ratings, the number of ratings of unknown items, and the number of users of both together.
    """
    # Arrays grow in place, since many small ones fragment memory.
    columns = [array(kind) for kind in "QifI"]
    known_items, unknown = pd.Index(known), 0
    users_of_unknown = np.empty(0, np.uint64)
    for block in read_blocks(counts.path, progress):
        part = parse(block, counts)
        checks = {
            NO_USER: usable_ids(part.user),
            NO_ITEM: usable_ids(part.item),
            WRONG_RATING: allowed_outcomes("rating", part.outcome),
            NO_TIME: part.timed,
        }
        usable = counts.check_rows(part.lines, checks)
        counts.stop_if_unusable()
        position = known_items.get_indexer(id_codes(texts_of(part.item)))
        chosen = usable & (position >= 0)
        unknown += int((usable & ~chosen).sum())
        names = texts_of(part.user)
        strangers = id_codes(names[usable & ~chosen])
        users_of_unknown = np.union1d(users_of_unknown, strangers)
        values = (
            id_codes(names[chosen]),
            position[chosen],
            part.outcome[chosen],
            part.seconds[chosen],
        )
        for column, added in zip(columns, values, strict=True):
            column.frombytes(added.astype(column.typecode).tobytes())
    counts.check()
    codes, item, outcome, time = (np.frombuffer(column, column.typecode) for column in columns)
    pa.default_memory_pool().release_unused()
    user, users = pd.factorize(codes)
    del codes, columns
    count = len(np.union1d(users, users_of_unknown))
    rows = EncodedInteractions(users, known, user.astype(np.int32), item, outcome, time)
    return rows, unknown, count


def _filtered(
    rows: EncodedInteractions, settings: RatingSettings, dropped: dict[str, int]
) -> EncodedInteractions:
    """Apply the filters in the paper's order and count what each drops.

    A mask is narrowed step by step, and rows are copied once, to save memory.
    """
    chosen = latest_of_each_pair(rows)
    dropped[REPEATED] = len(rows) - int(chosen.sum())
    for kind, codes, min_rows in (
        ("items", rows.item, settings.min_item_rows),
        ("users", rows.user, settings.min_rows),
    ):
        before = int(chosen.sum())
        counts = np.bincount(codes[chosen], minlength=int(codes.max(initial=0)) + 1)
        chosen &= counts[codes] >= min_rows
        dropped[f"of {kind} with fewer than {min_rows} rows"] = before - int(chosen.sum())
    return rows.select(chosen)


def _counts_with_repeats(rows: EncodedInteractions, settings: RatingSettings) -> dict[str, int]:
    """Count the rows that the same filters select if repeated pairs count, as in the paper."""
    per_item = np.bincount(rows.item, minlength=len(rows.item_ids))
    chosen = per_item[rows.item] >= settings.min_item_rows
    per_user = np.bincount(rows.user[chosen], minlength=len(rows.user_ids))
    rows = rows.select(chosen & (per_user[rows.user] >= settings.min_rows))
    if settings.max_rows:
        assert rows.time is not None
        rows = rows.select(rank_within(rows.user, -rows.time.astype(np.int64)) < settings.max_rows)
    items = len(np.unique(rows.item))
    return {"users": len(rows.users_present()), "items": items, "records": len(rows)}


def _with_ids(
    rows: EncodedInteractions,
    request: ImportRequest,
    parse_ratings: RatingParser,
    parse_items: ItemParser,
) -> tuple[EncodedInteractions, dict[str, str], int]:
    """Fetch the ids and texts of the remaining rows.

    Returns rows whose users and items are indices of sorted ids, texts by item id, and how
    many items have several texts.
    """
    used_users, user = np.unique(rows.user, return_inverse=True)
    used_items, item = np.unique(rows.item, return_inverse=True)
    users, things = _IdTable(rows.user_ids[used_users]), _IdTable(rows.item_ids[used_items])
    path = request.files["ratings"]
    for block in read_blocks(path, request.progress):
        users.collect(texts_of(parse_ratings(block, RowCounts(path, 1.0)).user))
    texts: dict[str, str] = {}
    several = set()
    counts = RowCounts(request.files["items"], 1.0)
    for ids, titles in usable_items(parse_items, counts, request.progress):
        for row in things.collect(ids):
            text = clean_text(titles[row])
            if texts.setdefault(ids[row], text) != text:
                several.add(ids[row])
    user_ids, user_rank = users.ranked(path)
    item_ids, item_rank = things.ranked(counts.path)
    assert rows.time is not None
    named = EncodedInteractions(user_ids, item_ids, user_rank[user], item_rank[item], rows.outcome)
    return replace(named, time=rows.time.astype(np.int64)), texts, len(several)


class _IdTable:
    """The ids of some 64-bit codes, collected by reading a file again."""

    def __init__(self, codes: np.ndarray) -> None:
        self._codes = pd.Index(codes)
        self._ids = np.full(len(codes), "", dtype=object)

    def collect(self, ids: np.ndarray) -> np.ndarray:
        """Store the ids that have a wanted code; return their positions in ids.

        Raises DataError if two ids have the same code, since their rows cannot be told apart.
        """
        position = self._codes.get_indexer(id_codes(ids))
        selected = np.flatnonzero(position >= 0)
        position, names = position[selected], ids[selected]
        new = self._ids[position] == ""
        self._ids[position[new]] = names[new]
        clash = np.flatnonzero(self._ids[position] != names)
        if len(clash):
            raise DataError(
                f"The ids {self._ids[position[clash[0]]]!r} and {names[clash[0]]!r} have the same "
                "64-bit code, so their rows cannot be told apart; rename one of them in the files."
            )
        return selected

    def ranked(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted ids, and the index in them of each code of the constructor."""
        if (self._ids == "").any():
            raise DataError(f"{path} changed while it was read; import it again.")
        ids, rank = np.unique(self._ids, return_inverse=True)
        return ids.astype(str), rank
