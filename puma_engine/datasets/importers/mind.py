"""MIND (Microsoft News): impressions as clicks and non-clicks, with what the user read before.

What dev shows is tested on, as in the paper. The paper also picks its best epoch there;
here a part of train validates, so that the test stays unseen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from puma_engine.datasets.dataset import Dataset, occurring
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    items_frame,
    to_frame,
)
from puma_engine.datasets.importers.mind_behaviors import Behaviors, read_behaviors
from puma_engine.datasets.importers.mind_rows import MindSampler, Rows, Rules
from puma_engine.datasets.importers.raw_rows import RawItems, usable_items
from puma_engine.datasets.importers.source_settings import OriginalSettings, first_file
from puma_engine.datasets.reading.delimited import parse_block
from puma_engine.datasets.reading.line_blocks import ReadProgress, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.datasets.registry import ImportRequest, Source, register
from puma_engine.datasets.seeded_hashing import text_keys
from puma_engine.datasets.splits import SPLITS, latest_share
from puma_engine.errors import DataError

NEWS_FIELDS = (
    "news_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
VALIDATION_OF_TRAIN = 0.125
# Rows whose histories are made into lists at a time.
_AT_ONCE = 100_000
SPLIT_RULE = (
    "what dev shows is the test; of what train shows each user, the latest eighth of the clicks "
    "and of the non-clicks validates (none of fewer than 5), the rest trains"
)
_ENDINGS = {"train": ("train",), "dev": ("dev", "valid", "validation")}


@dataclasses.dataclass(frozen=True)
class MindSettings(OriginalSettings):
    """The paper's filters for MIND-large.

    Users need a session with min_history news in its history in both parts, and min_clicks
    clicks among min_rows shown items in train. max_rows and max_test_rows: of users with
    more, a seeded draw of train's and dev's rows, of which max_click_share may be clicks.
    max_history titles are drawn for each row; rows with more than max_history_characters
    of them are dropped, then users with fewer than min_test_rows rows from dev. max_users:
    a seeded draw, unless a number of users is asked for.
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
    found = {}
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
            found[f"{part}_{kind}"] = first_file(folders[0], f"{kind}.tsv")
    return found


def read_news(
    path: Path, row_counts: RowCounts, progress: ReadProgress | None
) -> Iterator[RawItems]:
    """Yield ids and titles."""
    for block in read_blocks(path, progress):
        table, lines = parse_block(block, NEWS_FIELDS, "\t", row_counts)
        yield RawItems(lines, table["news_id"], table["title"])


def _titles(request: ImportRequest, tallies: dict[str, RowCounts]) -> dict[str, str]:
    """Return the titles of all news by id; of several the first."""
    texts: dict[str, str] = {}
    for role in ("train_news", "dev_news"):
        path = request.files[role]
        for ids, titles in usable_items(
            lambda row_counts, path=path: read_news(path, row_counts, request.progress),  # type: ignore[misc]
            tallies[role],
        ):
            for one, title in zip(ids, titles, strict=True):
                texts.setdefault(one, clean_text(title))
    if not texts:
        raise DataError(f"No news in {request.path} has an id and a title; check the files.")
    return texts


def _with_user_codes(parts: list[Behaviors]) -> tuple[list[Behaviors], np.ndarray]:
    """Return the parts with users as codes of sorted ids, and these ids."""
    columns = [chunk for part in parts for chunk in part.names.chunks]
    encoded = pa.chunked_array(columns, pa.string()).combine_chunks().dictionary_encode()
    ids = encoded.dictionary.to_numpy(zero_copy_only=False).astype(str)
    order = np.argsort(ids)
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids))
    codes = np.split(
        rank[encoded.indices.to_numpy()], np.cumsum([len(part) for part in parts])[:-1]
    )
    encoded_interactions = [
        dataclasses.replace(part, user=users) for part, users in zip(parts, codes, strict=True)
    ]
    return encoded_interactions, ids[order]


def _read(source: Source, request: ImportRequest) -> Dataset:
    rows, names, report = _chosen(source, request)
    return _dataset(source, request, rows, names, report)


IdTable = tuple[np.ndarray, np.ndarray, dict[str, str]]


def _chosen(source: Source, request: ImportRequest) -> tuple[Rows, IdTable, dict[str, Any]]:
    """Read everything and let go of all but the chosen rows, the ids and texts, the report."""
    settings = request.settings
    assert isinstance(settings, MindSettings)
    tallies = {
        role: RowCounts(path, settings.max_bad_share) for role, path in request.files.items()
    }
    texts = _titles(request, tallies)
    item_ids = np.array(sorted(texts))
    news = pa.array(item_ids.tolist(), pa.string())
    roles = ("train_behaviors", "dev_behaviors")
    read = [
        read_behaviors(request.files[role], news, tallies[role], request.progress) for role in roles
    ]
    parts, user_ids = _with_user_codes(read)
    sampler = MindSampler(
        (parts[0], parts[1]),
        text_keys(user_ids),
        text_keys(item_ids),
        np.array([len(texts[item]) for item in item_ids.tolist()]),
        Rules(**{rule.name: getattr(settings, rule.name) for rule in dataclasses.fields(Rules)}),
        request.seed,
    )
    rows = sampler.choose(request.users or settings.max_users or None, request.progress)
    _check_count(request, rows, sampler)
    report = _report(source, request, tallies, parts, (user_ids, item_ids), sampler)
    return rows, (user_ids, item_ids, texts), report


def _check_count(request: ImportRequest, rows: Rows, sampler: MindSampler) -> None:
    count = len(np.unique(rows.user))
    if not count:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sampler.dropped().items() if n)
        raise DataError(
            f"No user of {request.path} passes the filters ({reasons or 'nothing was shown'}); "
            "check the files or lower the filters."
        )
    if request.users is not None and count < request.users:
        raise DataError(
            f"{request.users} users were asked of 'mind', which has {count} usable users; ask for "
            f"1 to {count}."
        )


def _report(
    source: Source,
    request: ImportRequest,
    tallies: dict[str, RowCounts],
    parts: list[Behaviors],
    ids: tuple[np.ndarray, np.ndarray],
    sampler: MindSampler,
) -> dict[str, Any]:
    unusable = {
        reason: sum(part.unusable[reason] for part in parts) for reason in parts[0].unusable
    }
    shown = sum(len(part.shown) for part in parts) + sum(unusable.values())
    settings = request.settings
    assert isinstance(settings, MindSettings)
    units = [row_counts.units for role, row_counts in tallies.items() if role.endswith("behaviors")]
    return {
        "source": source.name,
        "about": source.about,
        "population": request.population,
        "users_asked": request.users,
        "seed": request.seed,
        "settings": dataclasses.asdict(settings),
        "read": {
            "sessions": sum(len(part) for part in parts),
            "rows": shown,
            "users": len(ids[0]),
            "items": len(ids[1]),
        },
        "dropped": {**unusable, **sampler.dropped()},
        "files": {role: row_counts.report() for role, row_counts in tallies.items()},
        "split": SPLIT_RULE,
        "history": (
            f"at most {settings.max_history} seeded titles of what the session's history names, "
            "other than the row's item"
        ),
        "warnings": []
        if len({*units[0], *units[1]}) < 2
        else ["The times are written in several ways; each was read in its own."],
    }


def _dataset(
    source: Source,
    request: ImportRequest,
    rows: Rows,
    names: IdTable,
    report: dict[str, Any],
) -> Dataset:
    user_ids, item_ids, texts = names
    encoded_interactions = EncodedInteractions(
        user_ids, item_ids, rows.user, rows.item, rows.clicked.astype(np.float32), rows.time
    )
    train = np.flatnonzero(~rows.dev)
    late = latest_share(
        rows.user[train] * 2 + rows.clicked[train],
        encoded_interactions.row_keys(request.seed, "split")[train],
        rows.time[train],
        VALIDATION_OF_TRAIN,
    )
    number = np.full(len(rows), SPLITS.index("test"))
    number[train] = late
    split = np.array(SPLITS)[number]
    # The last place, for -1, is no item.
    shown = np.append(item_ids, "").astype(object)
    history: list[list[str]] = []
    for start in range(0, len(rows), _AT_ONCE):
        drawn = shown[rows.history[start : start + _AT_ONCE]].tolist()
        history += [[item for item in past if item] for past in drawn]
    frame = to_frame(encoded_interactions, split, history)
    items = items_frame(list(occurring(frame)), texts)
    report["kept"] = {
        "rows": len(frame),
        "users": encoded_interactions.count_users(),
        "items": len(items),
    }
    return Dataset(source.name, source.task, frame, items, report)


MIND = register(
    Source(
        name="mind",
        task="click",
        family="mind",
        about="MIND (Microsoft News), large or small: behaviors.tsv and news.tsv of train and dev",
        read=_read,
        settings=MindSettings,
        locate=locate,
    )
)
