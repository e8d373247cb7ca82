"""MIND (Microsoft News): impressions as clicks and non-clicks, with the user's reading history.

The dev part is the test split, as in the paper. The paper also chooses its best epoch there; here a
part of train is the validation split, so that the test stays unseen.

Users are taken in a seeded order, in batches, until enough pass every filter. Each sample depends
only on the seed and on ids. So memory holds the sessions and one batch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    build_dataset,
    encode,
)
from puma_engine.datasets.importers.ratings import (
    NO_TIME,
    NO_USER,
    RawItems,
    encoding_warnings,
    request_report,
    usable_items,
)
from puma_engine.datasets.reading.column_values import usable_ids
from puma_engine.datasets.reading.delimited import parse_lines
from puma_engine.datasets.reading.line_blocks import Block, ReadProgress, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.reading.times import seconds_of_texts
from puma_engine.datasets.registry import ImportRequest, OriginalSettings, Source, first_file
from puma_engine.datasets.seeded_hashing import mix, rank_within, seed_key, text_keys
from puma_engine.datasets.splits import SPLITS, latest_share
from puma_engine.errors import DataError

NEWS_FIELDS = (
    *("news_id", "category", "subcategory", "title", "abstract", "url"),
    *("title_entities", "abstract_entities"),
)
SESSION_FIELDS = ("impression_id", "user_id", "time", "history", "impressions")
VALIDATION_OF_TRAIN = 0.125
BATCH_USERS = 2_000
# Number of rows whose histories are made into lists at once.
_BATCH_ROWS = 100_000
NO_LABEL = "impressions without a click mark of 0 or 1"
UNKNOWN_NEWS = "impressions of unknown news, or of news without a title"
_NOTHING_SHOWN = "without impressions"
_SELECTED = "selected"
SPLIT_RULE = (
    "what dev shows is the test; of what train shows each user, the latest eighth of the clicks "
    "and of the non-clicks validates (none of fewer than 5), the rest trains"
)
_ENDINGS = {"train": ("train",), "dev": ("dev", "valid", "validation")}


@dataclass(frozen=True)
class MindSettings(OriginalSettings):
    """The paper's filters for MIND-large.

    Users need a session with min_history news in its history in both parts, and min_clicks clicks
    among min_rows shown items in train. max_rows and max_test_rows: users with more rows get a
    seeded sample of the rows of train and dev, at most max_click_share of them clicks. max_history
    titles are sampled for each row; rows with more than max_history_characters of them are dropped,
    then users with fewer than min_test_rows rows from dev. max_users: size of a seeded sample,
    unless a number of users is asked for.
    """

    min_history: int = 7
    min_clicks: int = 4
    min_rows: int = 20
    max_rows: int = 60
    min_test_rows: int = 10
    max_test_rows: int = 20
    max_click_share: float = 0.5
    max_history: int = 5
    max_history_characters: int = 512
    max_users: int = 50_000


def locate(path: Path, items_path: Path | None) -> dict[str, Path]:
    """Find behaviors.tsv and news.tsv of train and dev in the folders below path."""
    if items_path is not None:
        raise DataError(
            "MIND has its items, news.tsv, beside behaviors.tsv; give its folder alone."
        )
    if not path.is_dir():
        raise DataError(f"There is no folder {path}; give the folder that holds train and dev.")
    files = {}
    for part, endings in _ENDINGS.items():
        folders = [
            folder
            for folder in sorted(path.iterdir())
            if folder.is_dir() and folder.name.lower().endswith(endings)
        ]
        if len(folders) != 1:
            raise DataError(
                f"{path} holds {len(folders)} folders whose names end in {' or '.join(endings)}; it "
                "must hold MIND's train and dev folders, one each."
            )
        for kind in ("behaviors", "news"):
            files[f"{part}_{kind}"] = first_file(folders[0], f"{kind}.tsv")
    return files


def read_sessions(
    news: pa.Array, counts: RowCounts, progress: ReadProgress | None
) -> tuple[pa.Table, int, int]:
    """Read the behaviors.tsv of counts; news: the ids whose positions are the items' codes.

    Returns a table, and the numbers of shown items that were left out without label and as unknown
    news: user_id (text), time (Unix seconds), history_length (how many news the history names,
    known or not), shown (list: twice the code of each shown item, plus 1 if clicked) and past
    (list: codes of the known items of the history, in order). Raises DataError.
    """
    parts, no_label, unknown_news = [], 0, 0
    for block in read_blocks(counts.path, progress):
        table, lines = parse_lines(block, SESSION_FIELDS, "\t", counts)
        seconds, timed, units = seconds_of_texts(table["time"])
        counts.time_units += Counter(units)
        shows = pc.not_equal(pc.utf8_trim_whitespace(table["impressions"]), "").to_numpy()
        checks = {NO_USER: usable_ids(table["user_id"]), NO_TIME: timed, _NOTHING_SHOWN: shows}
        usable = counts.check_rows(lines, checks)
        table = table.filter(pa.array(usable))
        words, session = _words(table["impressions"])
        clicked, passed = (
            pc.ends_with(words, mark).to_numpy(zero_copy_only=False) for mark in ("-1", "-0")
        )
        item = _positions(pc.utf8_slice_codeunits(words, 0, -2), news)
        marked = clicked | passed
        known = marked & (item >= 0)
        past, past_session = _words(table["history"])
        past_item = _positions(past, news)
        in_past = past_item >= 0
        count = table.num_rows
        columns = {
            "user_id": table["user_id"],
            "time": seconds[usable],
            "history_length": np.bincount(past_session, minlength=count),
            "shown": _lists((item * 2 + clicked)[known], session[known], count),
            "past": _lists(past_item[in_past], past_session[in_past], count),
        }
        parts.append(pa.table(columns))
        no_label += int((~marked).sum())
        unknown_news += int((marked & (item < 0)).sum())
        counts.stop_if_unusable()
    counts.check()
    table = pa.concat_tables(parts).combine_chunks()
    if not pc.sum(pc.list_value_length(table["shown"])).as_py():
        raise DataError(
            f"{counts.path} holds no impression of known news that ends in -1 (clicked) or -0 "
            f"({no_label:,} {NO_LABEL}, {unknown_news:,} {UNKNOWN_NEWS}); use MIND's train and "
            "dev, since its test part has no marks."
        )
    return table, no_label, unknown_news


def _words(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Return the words of all rows one after another, and the row of each."""
    lists = pc.utf8_split_whitespace(column.combine_chunks())
    words, row = pc.list_flatten(lists), pc.list_parent_indices(lists)
    filled = pc.not_equal(words, "")
    return words.filter(filled), row.filter(filled).to_numpy(zero_copy_only=False)


def _positions(ids: pa.Array, news: pa.Array) -> np.ndarray:
    """Return the position of each id among the news, [n] int64; -1 where it is unknown."""
    return pc.fill_null(pc.index_in(ids, value_set=news), -1).to_numpy().astype(np.int64)


def _lists(values: np.ndarray, row: np.ndarray, rows: int) -> pa.Array:
    """Return lists of the values of each row; row: [n] ascending."""
    starts = np.append(0, np.cumsum(np.bincount(row, minlength=rows)))
    return pa.ListArray.from_arrays(starts.astype(np.int32), values.astype(np.int32))


def _flattened(lists: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of lists one after another, and the list of each, [n] int64."""
    lists = lists.combine_chunks()
    return pc.list_flatten(lists).to_numpy(), pc.list_parent_indices(lists).to_numpy()


@dataclass(frozen=True)
class MindRows:
    """Rows of users and items, [n] each: codes, clicked, time, whether it is of dev, session.

    history: [n, max_history] item codes, -1 behind the last; empty until sampled.
    """

    user: np.ndarray
    item: np.ndarray
    clicked: np.ndarray
    time: np.ndarray
    dev: np.ndarray
    session: np.ndarray
    history: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: np.ndarray) -> MindRows:
        """Return the rows of a mask or an index array."""
        return MindRows(**{name: values[rows] for name, values in vars(self).items()})


def _joined(parts: Sequence[MindRows]) -> MindRows:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return MindRows(*map(np.concatenate, columns))


class MindSampler:
    """Filters and samples the rows of MIND and counts what it drops.

    parts: the sessions of train and of dev (Sessions.table). users: for each part the users of
    its sessions as codes of user_keys. user_keys, item_keys: 64-bit keys of the ids; text_lengths:
    characters of each item's text.
    """

    def __init__(
        self,
        parts: Sequence[pa.Table],
        users: Sequence[np.ndarray],
        user_keys: np.ndarray,
        item_keys: np.ndarray,
        text_lengths: np.ndarray,
        settings: MindSettings,
        seed: int,
    ) -> None:
        self.parts, self.users, self.settings, self.seed = parts, users, settings, seed
        self.user_keys, self.item_keys, self.text_lengths = user_keys, item_keys, text_lengths
        self.too_few = (
            f"of users with fewer than {settings.min_clicks} clicks or {max(1, settings.min_rows)} "
            "rows to train"
        )
        self.shown_per_session = [pc.list_value_length(part["shown"]).to_numpy() for part in parts]
        self.fate = np.full(len(user_keys), "of users that were not asked for", dtype=object)
        self.lost: dict[str, np.ndarray] = {}

    def sample(self, max_users: int | None, progress: ReadProgress | None) -> MindRows:
        """Return the rows of the first max_users users in seeded order that pass all filters."""
        # Sessions alone exclude most users, before rows are made.
        min_history = self.settings.min_history
        both = np.logical_and(*[self._per_user(users) > 0 for users in self.users])
        known = both & np.logical_and(
            *[
                self._per_user(users[part["history_length"].to_numpy() >= min_history]) > 0
                for part, users in zip(self.parts, self.users, strict=True)
            ]
        )
        shown, _ = _flattened(self.parts[0]["shown"])
        owner = np.repeat(self.users[0], self.shown_per_session[0])
        active = self._active(owner, (shown & 1).astype(bool))
        self.fate[~both] = "of users that only train or only dev has"
        self.fate[both & ~known] = f"of users with fewer than {min_history} news in their history"
        self.fate[known & ~active] = self.too_few
        candidates = np.flatnonzero(known & active)
        order = np.argsort(mix(seed_key(self.seed, "users"), self.user_keys[candidates]))
        candidates = candidates[order]
        batches, count = [self._expanded(np.zeros(0, np.int64))], 0
        for start in range(0, len(candidates), BATCH_USERS):
            if progress is not None:
                progress("choosing users", start, len(candidates))
            users = candidates[start : start + BATCH_USERS]
            rows = self._rows_of(users)
            passed = users[np.isin(users, rows.user)]
            passed = passed if max_users is None else passed[: max_users - count]
            self.fate[passed] = _SELECTED
            batches.append(rows.select(np.isin(rows.user, passed)))
            count += len(passed)
            if count == max_users:
                break
        return _joined(batches[1:] or batches)

    def dropped(self) -> dict[str, int]:
        """Return how many shown items were dropped, by the first reason that applied."""
        shown = np.zeros(len(self.user_keys), np.int64)
        for users, counts in zip(self.users, self.shown_per_session, strict=True):
            np.add.at(shown, users, counts)
        selected = self.fate == _SELECTED
        reasons = sorted(set(self.fate[~selected]))
        by_user = {reason: int(shown[self.fate == reason].sum()) for reason in reasons}
        return by_user | {reason: int(lost[selected].sum()) for reason, lost in self.lost.items()}

    def _per_user(self, users: np.ndarray) -> np.ndarray:
        return np.bincount(users, minlength=len(self.user_keys))

    def _active(self, users: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """Say which users have enough rows and clicks, given each row's user and click."""
        rows, clicks = self._per_user(users), self._per_user(users[clicked])
        return (clicks >= self.settings.min_clicks) & (rows >= max(1, self.settings.min_rows))

    def _rows_of(self, users: np.ndarray) -> MindRows:
        """Return the rows of some users that pass every filter."""
        settings = self.settings
        rows = self._expanded(users)
        _, pair = np.unique(rows.user * len(self.item_keys) + rows.item, return_inverse=True)
        rows = self._select(
            rows,
            "repeating a user and item (of dev before train, a click, the latest is kept)",
            rank_within(pair, ~rows.dev, ~rows.clicked, -rows.time) == 0,
        )
        active = self._active(rows.user[~rows.dev], rows.clicked[~rows.dev])
        self.fate[users[~active[users]]] = self.too_few
        rows = rows.select(active[rows.user])
        rows = self._select(rows, "beyond the most rows a user", self._within_cap(rows))
        rows = dataclasses.replace(rows, history=self._sample_histories(rows))
        # The length of the titles, joined by spaces.
        present = rows.history >= 0
        characters = np.where(present, self.text_lengths[rows.history], 0).sum(axis=1)
        characters += np.maximum(0, present.sum(axis=1) - 1)
        limit = settings.max_history_characters
        short = (characters <= limit) | (limit == 0)
        rows = self._select(rows, f"with a history of more than {limit} characters", short)
        tests, trains = self._per_user(rows.user[rows.dev]), self._per_user(rows.user[~rows.dev])
        has_enough = (tests >= settings.min_test_rows) & (trains > 0)
        lacking = users[active[users] & ~has_enough[users]]
        self.fate[lacking] = f"of users with fewer than {settings.min_test_rows} rows to test"
        return rows.select(has_enough[rows.user])

    def _select(self, rows: MindRows, reason: str, chosen: np.ndarray) -> MindRows:
        """Return the chosen rows and count for each user how many were lost."""
        lost = self.lost.setdefault(reason, np.zeros(len(self.user_keys), np.int32))
        np.add.at(lost, rows.user[~chosen], 1)
        return rows.select(chosen)

    def _expanded(self, users: np.ndarray) -> MindRows:
        """Return a row for each item shown to some users, in train and in dev."""
        expanded = []
        is_selected = np.zeros(len(self.user_keys), dtype=bool)
        is_selected[users] = True
        for dev, part in enumerate(self.parts):
            sessions = np.flatnonzero(is_selected[self.users[dev]])
            shown, row = _flattened(part["shown"].take(sessions))
            session = sessions[row]
            expanded.append(
                MindRows(
                    self.users[dev][session].astype(np.int64),
                    (shown >> 1).astype(np.int64),
                    (shown & 1).astype(bool),
                    part["time"].to_numpy()[session],
                    np.full(len(shown), bool(dev)),
                    session,
                    np.zeros((len(shown), 0), np.int32),
                )
            )
        return _joined(expanded)

    def _within_cap(self, rows: MindRows) -> np.ndarray:
        """Sample rows of users with more than allowed, at most a share of them clicked."""
        settings = self.settings
        group = rows.user * 2 + rows.dev
        key = mix(seed_key(self.seed, "cap"), self.user_keys[rows.user], self.item_keys[rows.item])
        size, clicks = np.bincount(group), np.bincount(group, rows.clicked).astype(np.int64)
        limit = np.where(np.arange(len(size)) % 2, settings.max_test_rows, settings.max_rows)
        clicks = np.minimum(clicks, (limit * settings.max_click_share).astype(np.int64))
        rank = rank_within(group * 2 + rows.clicked, key)
        allowed = np.where(rows.clicked, clicks[group], (limit - clicks)[group])
        unlimited = (limit == 0) | (size <= limit)
        return unlimited[group] | (rank < allowed)

    def _sample_histories(self, rows: MindRows) -> np.ndarray:
        """Sample items of each row's session history, never its own, [n, max_history]."""
        size = self.settings.max_history
        sampled = np.full((len(rows), size), -1, np.int32)
        for dev, part in enumerate(self.parts):
            of_part = np.flatnonzero(rows.dev == bool(dev))
            item, index = _flattened(part["past"].take(rows.session[of_part]))
            row, item = of_part[index], item.astype(np.int64)
            other = item != rows.item[row]
            pairs = np.sort(row[other] * len(self.item_keys) + item[other])
            # np.unique hashes, which takes longer for millions.
            pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
            row, item = np.divmod(pairs, len(self.item_keys))
            key = mix(
                seed_key(self.seed, "history"),
                self.user_keys[rows.user[row]],
                self.item_keys[rows.item[row]],
                self.item_keys[item],
            )
            rank = rank_within(row, key)
            sampled[row[rank < size], rank[rank < size]] = item[rank < size]
        return sampled


def _parse_news(block: Block, counts: RowCounts) -> RawItems:
    table, lines = parse_lines(block, NEWS_FIELDS, "\t", counts)
    return RawItems(lines, table["news_id"], table["title"])


def _read(source: Source, request: ImportRequest) -> Dataset:
    user_ids, item_ids, texts, rows, report = _read_rows(source, request)
    interactions = EncodedInteractions(
        user_ids, item_ids, rows.user, rows.item, rows.clicked.astype(np.float32), rows.time
    )
    train = np.flatnonzero(~rows.dev)
    late = latest_share(
        rows.user[train] * 2 + rows.clicked[train],
        interactions.row_keys(request.seed, "split")[train],
        rows.time[train],
        VALIDATION_OF_TRAIN,
    )
    split = np.full(len(rows), SPLITS.index("test"))
    split[train] = late
    # The last entry, for -1, is not an item.
    ids = np.append(item_ids, "").astype(object)
    history: list[list[str]] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        sampled = ids[rows.history[start : start + _BATCH_ROWS]].tolist()
        history += [[item for item in past if item] for past in sampled]
    return build_dataset(
        source.name, source.task, interactions, np.array(SPLITS)[split], texts, report, history
    )


def _read_rows(
    source: Source, request: ImportRequest
) -> tuple[np.ndarray, np.ndarray, dict[str, str], MindRows, dict[str, Any]]:
    """Return user ids, item ids, texts by item id, the sampled rows and the report.

    The sessions, which are large, are freed when this returns.
    """
    settings = request.settings
    assert isinstance(settings, MindSettings)
    counts = {role: RowCounts(path, settings.max_bad_share) for role, path in request.files.items()}
    texts: dict[str, str] = {}
    for role in ("train_news", "dev_news"):
        for ids, titles in usable_items(_parse_news, counts[role], request.progress):
            for item, title in zip(ids, titles, strict=True):
                texts.setdefault(item, clean_text(title))
    if not texts:
        raise DataError(f"No news in {request.path} has an id and a title; check the files.")
    item_ids = np.array(sorted(texts))
    news = pa.array(item_ids.tolist(), pa.string())
    roles = ("train_behaviors", "dev_behaviors")
    parts = [read_sessions(news, counts[role], request.progress) for role in roles]
    tables, no_label, unknown_news = zip(*parts, strict=True)
    ids = pa.concat_tables([table.select(["user_id"]) for table in tables])["user_id"]
    codes, user_ids = encode(ids.to_pandas(types_mapper=pd.ArrowDtype))
    users = np.split(codes.astype(np.int32), [len(tables[0])])
    sampler = MindSampler(
        tables,
        users,
        text_keys(user_ids),
        text_keys(item_ids),
        np.array([len(texts[item]) for item in item_ids.tolist()]),
        settings,
        request.seed,
    )
    rows = sampler.sample(request.users or settings.max_users or None, request.progress)
    dropped = sampler.dropped()
    count = len(np.unique(rows.user))
    if not count:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items() if n)
        raise DataError(
            f"No user of {request.path} passes the filters ({reasons or 'nothing was shown'}); "
            "check the files or lower the filters."
        )
    if request.users is not None and count < request.users:
        raise DataError(
            f"{request.users} users were requested of 'mind', which has {count} usable users; ask for "
            f"1 to {count}."
        )
    unusable = {NO_LABEL: sum(no_label), UNKNOWN_NEWS: sum(unknown_news)}
    shown = sum(int(shown.sum()) for shown in sampler.shown_per_session)
    units = {*counts["train_behaviors"].time_units, *counts["dev_behaviors"].time_units}
    warnings = []
    if len(units) > 1:
        warnings.append("The times are written in several ways; each was read in its own.")
    if unusable[UNKNOWN_NEWS] > shown:
        warnings.append(
            f"{unusable[UNKNOWN_NEWS]:,} of {shown + sum(unusable.values()):,} impressions are of news "
            "that news.tsv lacks or has no title for; check that the files belong together."
        )
    report = {
        **request_report(source, request),
        "settings": dataclasses.asdict(settings),
        "read": {
            "sessions": len(users[0]) + len(users[1]),
            "rows": shown + sum(unusable.values()),
            "users": len(user_ids),
            "items": len(item_ids),
        },
        "dropped": {**unusable, **dropped},
        "files": {role: file_counts.report() for role, file_counts in counts.items()},
        "split": SPLIT_RULE,
        "history": (
            f"at most {settings.max_history} seeded titles of what the session's history names, "
            "other than the row's item"
        ),
        "warnings": warnings + encoding_warnings(*(counts[role] for role in roles)),
    }
    return user_ids, item_ids, texts, rows, report


MIND = Source(
    name="mind",
    task="click",
    family="mind",
    description="MIND (Microsoft News), large or small: behaviors.tsv and news.tsv of train and dev",
    read=_read,
    settings=MindSettings,
    locate=locate,
)
