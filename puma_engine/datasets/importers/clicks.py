"""Build click data sets from positive marks: sample non-clicks and reading histories."""

import dataclasses

import numpy as np

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    build_dataset,
    has_min_rows,
)
from puma_engine.datasets.importers.ratings import (
    CleanedInteractions,
    base_report,
    sample_population,
)
from puma_engine.datasets.registry import ImportRequest, Source
from puma_engine.datasets.seeded_hashing import mix, rank_within, seed_key, text_keys, uniform
from puma_engine.datasets.splits import assign_splits, cap_rows, split_rule

HISTORY = 5
_MAX_ROUNDS = 40


def click_dataset(
    source: Source,
    request: ImportRequest,
    marked: CleanedInteractions,
    rated: EncodedInteractions,
    *,
    min_marks: int,
    max_marks: int,
) -> Dataset:
    """Build clicks: each user's marks, at most max_marks, and as many seeded non-clicks.

    Users need min_marks marks. Non-clicks are sampled from items that the user neither marked nor
    rated, in proportion to how often an item is marked, so that popularity does not predict clicks.
    """
    eligible = marked.rows.select(has_min_rows(marked.rows, min_marks))
    sampled = sample_population(source, request, eligible, f"{min_marks} marks")
    capped = cap_rows(sampled.user, max_marks, sampled.row_keys(request.seed, "cap"))
    positives = sampled.select(capped)
    popularity = np.bincount(marked.rows.item, minlength=len(marked.rows.item_ids))
    known_pairs = np.sort(np.concatenate([marked.rows.pairs(), rated.pairs()]))
    negatives = sample_negatives(positives, popularity, known_pairs, request.seed)
    rows = dataclasses.replace(
        positives,
        user=np.concatenate([positives.user, negatives.user]),
        item=np.concatenate([positives.item, negatives.item]),
        outcome=np.concatenate([positives.outcome, negatives.outcome]),
    )
    split = assign_splits(rows.user * 2 + (rows.outcome > 0), rows.row_keys(request.seed, "split"))
    history = sample_histories(rows, (split == "train") & (rows.outcome > 0), request.seed)
    dropped = {
        **marked.dropped,
        f"of users with fewer than {min_marks} marks": len(marked.rows) - len(eligible),
    }
    cleaned = dataclasses.replace(marked, rows=eligible, dropped=dropped)
    report = base_report(source, request, cleaned, len(sampled), len(positives), max_marks)
    report["split"] = split_rule(False, per_class=True)
    report["negatives"] = (
        "one for each positive, drawn by how often an item is marked, never one that the user "
        f"marked or rated; {len(negatives)} drawn"
    )
    report["history"] = f"{HISTORY} seeded train positives of the user other than the row's item"
    past = rows.item_ids.astype(object)[history].tolist()
    return build_dataset(source.name, source.task, rows, split, marked.texts, report, past)


def drawn_non_clicks(
    clicks: EncodedInteractions, popularity: np.ndarray, known_pairs: np.ndarray, seed: int
) -> tuple[EncodedInteractions, np.ndarray]:
    """Return clicks and as many non-clicks, and for each row the row of the click it belongs to.

    popularity, known_pairs: see sample_negatives. A non-click has the time of its click.
    """
    negatives = sample_negatives(clicks, popularity, known_pairs, seed)
    order = np.argsort(clicks.user, kind="stable")
    first = np.searchsorted(clicks.user[order], negatives.user)
    of_click = order[first + rank_within(negatives.user, np.arange(len(negatives)))]
    click = np.concatenate([np.arange(len(clicks)), of_click])
    return dataclasses.replace(
        clicks,
        user=clicks.user[click],
        item=np.concatenate([clicks.item, negatives.item]),
        outcome=np.concatenate([clicks.outcome, negatives.outcome]),
        time=None if clicks.time is None else clicks.time[click],
    ), click


def sample_negatives(
    positives: EncodedInteractions, popularity: np.ndarray, known_pairs: np.ndarray, seed: int
) -> EncodedInteractions:
    """Sample as many items for each user as it has rows, without replacement, by popularity.

    popularity: [items] weights. known_pairs: sorted user-item codes (EncodedInteractions.pairs)
    that are never sampled. Candidates come in rounds from a stream that depends only on the seed
    and the user; the first usable ones are taken. A user that knows nearly every popular item gets
    fewer.
    """
    users, needed = np.unique(positives.user, return_counts=True)
    items = len(popularity)
    cumulative = np.cumsum(popularity / popularity.sum())
    streams = mix(seed_key(seed, "negatives"), text_keys(positives.user_ids[users]))
    sampled = np.zeros(0, np.int64)
    width = 2 * int(np.max(needed, initial=1))
    open_users = np.arange(len(users))
    for turn in range(_MAX_ROUNDS):
        positions = np.arange(turn * width, (turn + 1) * width, dtype=np.uint64)
        numbers = uniform(mix(streams[open_users, None], positions[None, :]))
        item = np.searchsorted(cumulative, numbers, side="right").clip(max=items - 1)
        pairs = (users[open_users, None] * items + item).ravel()
        nearest = np.searchsorted(known_pairs, pairs).clip(max=len(known_pairs) - 1)
        candidates = np.concatenate([sampled, pairs[known_pairs[nearest] != pairs]])
        _, first = np.unique(candidates, return_index=True)
        candidates = candidates[np.sort(first)]
        owner = np.searchsorted(users, candidates // items)
        sampled = candidates[rank_within(owner, np.arange(len(candidates))) < needed[owner]]
        owner = np.searchsorted(users, sampled // items)
        open_users = np.flatnonzero(np.bincount(owner, minlength=len(users)) < needed)
        if not len(open_users):
            break
    return dataclasses.replace(
        positives,
        user=sampled // items,
        item=sampled % items,
        outcome=np.zeros(len(sampled), np.float32),
    )


def sample_histories(rows: EncodedInteractions, shown: np.ndarray, seed: int) -> np.ndarray:
    """Sample for each row HISTORY shown items of its user, never the row's own, [n, HISTORY].

    shown: [n] bool, the rows whose items may be shown: train positives. Every user needs
    HISTORY + 1 of them. Returns item codes.
    """
    source = rows.select(shown)
    rank = rank_within(source.user, source.item)
    table = np.full((len(rows.user_ids), int(rank.max()) + 1), -1, np.int64)
    table[source.user, rank] = source.item
    candidates = table[rows.user]
    item_keys = text_keys(rows.item_ids)
    keys = mix(rows.row_keys(seed, "history")[:, None], item_keys[candidates])
    keys[(candidates < 0) | (candidates == rows.item[:, None])] = np.iinfo(np.uint64).max
    first = np.argpartition(keys, HISTORY, axis=1)[:, :HISTORY]
    order = np.argsort(np.take_along_axis(keys, first, 1), axis=1)
    return np.take_along_axis(candidates, np.take_along_axis(first, order, 1), axis=1)
