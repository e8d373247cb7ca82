"""From marks alone to a click data set: drawn non-clicks and reading histories."""

from __future__ import annotations

import dataclasses

import numpy as np

from puma_engine.datasets.dataset import Dataset, occurring
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    has_min_rows,
    items_frame,
    sample_users,
    to_frame,
)
from puma_engine.datasets.importers.ratings import CleanedInteractions, base_report
from puma_engine.datasets.registry import ImportRequest, Source
from puma_engine.datasets.seeded_hashing import mix, rank_within, seed_key, text_keys, uniform
from puma_engine.datasets.splits import assign_splits, cap_rows, split_rule
from puma_engine.errors import DataError

HISTORY = 5
_ROUNDS = 40


def click_dataset(
    source: Source,
    request: ImportRequest,
    marked: CleanedInteractions,
    rated: EncodedInteractions,
    *,
    least: int,
    most: int,
) -> Dataset:
    """Build clicks: each user's marks, at most `most`, and as many seeded non-clicks.

    Users need `least` marks. A non-click is drawn by how often an item is marked, so that
    popularity alone tells nothing, among items that the user neither marked nor rated.
    """
    enough = marked.rows.keep(has_min_rows(marked.rows, least))
    chosen = sample_users(
        enough, source.family, request.population, request.users, request.seed, source.name
    )
    if not len(chosen):
        raise DataError(
            f"No {request.population} user of {source.name!r} has {least} marks; check the folder "
            f"{request.path}."
        )
    positives = chosen.keep(cap_rows(chosen.user, most, chosen.row_keys(request.seed, "cap")))
    popularity = np.bincount(marked.rows.item, minlength=len(marked.rows.item_ids))
    taken = np.sort(np.concatenate([marked.rows.pairs(), rated.pairs()]))
    negatives = sample_negatives(positives, popularity, taken, request.seed)
    rows = _joined(positives, negatives)
    group = rows.user * 2 + (rows.outcome > 0)
    split = assign_splits(group, rows.row_keys(request.seed, "split"))
    history = sample_histories(rows, (split == "train") & (rows.outcome > 0), request.seed)
    frame = to_frame(rows, split, rows.item_ids.astype(object)[history].tolist())
    items = items_frame(list(occurring(frame)), marked.texts)
    dropped = {
        **marked.dropped,
        f"of users with fewer than {least} marks": len(marked.rows) - len(enough),
    }
    report = base_report(
        source,
        request,
        dataclasses.replace(marked, rows=enough, dropped=dropped),
        len(chosen),
        len(positives),
        most,
    )
    report["split"] = split_rule(False, per_class=True)
    report["negatives"] = (
        "one for each positive, drawn by how often an item is marked, never one that the user "
        f"marked or rated; {len(negatives)} drawn"
    )
    report["history"] = f"{HISTORY} seeded train positives of the user other than the row's item"
    report["kept"] = {"rows": len(frame), "users": rows.count_users(), "items": len(items)}
    return Dataset(source.name, source.task, frame, items, report)


def sample_negatives(
    positives: EncodedInteractions, popularity: np.ndarray, taken: np.ndarray, seed: int
) -> EncodedInteractions:
    """Draw as many items for each user as it has rows, without replacement, by popularity.

    popularity: [items] weights. taken: sorted user-item codes (Coded.pairs) never drawn.
    Candidates come in rounds from a stream that depends on the seed and the user alone;
    the first usable ones count. A user that knows nearly every popular item gets fewer.
    """
    users, wanted = np.unique(positives.user, return_counts=True)
    cumulative = np.cumsum(popularity / popularity.sum())
    streams = mix(seed_key(seed, "negatives"), text_keys(positives.user_ids[users]))
    found = np.zeros(0, np.int64)
    width = 2 * int(np.max(wanted, initial=1))
    open_users = np.arange(len(users))
    for turn in range(_ROUNDS):
        positions = np.arange(turn * width, (turn + 1) * width, dtype=np.uint64)
        draws = uniform(mix(streams[open_users, None], positions[None, :]))
        item = np.searchsorted(cumulative, draws, side="right").clip(max=len(cumulative) - 1)
        pairs = (users[open_users, None] * len(popularity) + item).ravel()
        pairs = pairs[~_among(pairs, taken)]
        both = np.concatenate([found, pairs])
        _, first = np.unique(both, return_index=True)
        both = both[np.sort(first)]
        owner = np.searchsorted(users, both // len(popularity))
        found = both[rank_within(owner, np.arange(len(both))) < wanted[owner]]
        owner = np.searchsorted(users, found // len(popularity))
        open_users = np.flatnonzero(np.bincount(owner, minlength=len(users)) < wanted)
        if not len(open_users):
            break
    return dataclasses.replace(
        positives,
        user=found // len(popularity),
        item=found % len(popularity),
        outcome=np.zeros(len(found), np.float32),
    )


def sample_histories(rows: EncodedInteractions, source: np.ndarray, seed: int) -> np.ndarray:
    """Draw for each row some source items of its user, never the row's own, [n, HISTORY].

    source: [n] bool, the rows whose items may be shown: train positives. Every user needs
    HISTORY + 1 of them.
    """
    shown = rows.keep(source)
    rank = rank_within(shown.user, shown.item)
    table = np.full((len(rows.user_ids), int(rank.max()) + 1), -1, np.int64)
    table[shown.user, rank] = shown.item
    candidates = table[rows.user]
    item_keys = text_keys(rows.item_ids)
    keys = mix(rows.row_keys(seed, "history")[:, None], item_keys[candidates])
    keys[(candidates < 0) | (candidates == rows.item[:, None])] = np.iinfo(np.uint64).max
    best = np.argpartition(keys, HISTORY, axis=1)[:, :HISTORY]
    best = np.take_along_axis(best, np.argsort(np.take_along_axis(keys, best, 1), axis=1), 1)
    return np.take_along_axis(candidates, best, axis=1)


def _joined(positives: EncodedInteractions, negatives: EncodedInteractions) -> EncodedInteractions:
    return dataclasses.replace(
        positives,
        user=np.concatenate([positives.user, negatives.user]),
        item=np.concatenate([positives.item, negatives.item]),
        outcome=np.concatenate([positives.outcome, negatives.outcome]),
    )


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    position = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return ordered[position] == values
