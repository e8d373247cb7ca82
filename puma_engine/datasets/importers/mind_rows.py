"""From MIND's sessions to rows: whose, which of them, and which titles each row shows.

Users are taken in a seeded order, some at a time, until enough pass every filter; each
draw depends on the seed and on ids alone. So memory holds the sessions and one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from puma_engine.datasets.importers.mind_behaviors import Behaviors, lists_of
from puma_engine.datasets.reading.line_blocks import ReadProgress
from puma_engine.datasets.seeded_hashing import mix, rank_within, seed_key

BATCH_USERS = 2_000


@dataclass(frozen=True)
class Rules:
    """Which users and rows are kept; the names are those of MindSettings."""

    min_history: int
    min_clicks: int
    min_rows: int
    max_rows: int
    min_test_rows: int
    max_test_rows: int
    max_click_share: float
    max_history: int
    max_history_characters: int


@dataclass(frozen=True)
class Rows:
    """Rows of users and items, [n] each: codes, clicked, time, whether dev has it, its session.

    history: [n, max_history] item codes, -1 behind the last; empty until drawn.
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

    def keep(self, rows: np.ndarray) -> Rows:
        """Return the rows of a mask or an index array."""
        return Rows(**{name: values[rows] for name, values in vars(self).items()})


def joined(parts: list[Rows]) -> Rows:
    """Return the rows of several parts, one after another."""
    return Rows(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    )


class MindSampler:
    """Chooses the rows of MIND by the rules and counts what it drops.

    parts: the sessions of train and of dev, users as codes of user_keys. user_keys,
    item_keys: 64-bit keys of the ids; text_lengths: characters of each item's text.
    """

    def __init__(
        self,
        parts: tuple[Behaviors, Behaviors],
        user_keys: np.ndarray,
        item_keys: np.ndarray,
        text_lengths: np.ndarray,
        rules: Rules,
        seed: int,
    ) -> None:
        self.parts, self.rules, self.seed = parts, rules, seed
        self.user_keys, self.item_keys, self.text_lengths = user_keys, item_keys, text_lengths
        users = len(user_keys)
        self.of_user = [_sessions_by_user(part, users) for part in parts]
        self.shown = np.zeros(users, np.int64)
        for part in parts:
            self.shown += np.bincount(_owners(part), minlength=users)
        self.fate = np.full(users, "of users that were not asked for", dtype=object)
        self.lost: dict[str, np.ndarray] = {}

    def choose(self, most: int | None, progress: ReadProgress | None) -> Rows:
        """Return the rows of the first users in seeded order that pass, at most `most` of them."""
        candidates = self._candidates()
        order = np.argsort(mix(seed_key(self.seed, "users"), self.user_keys[candidates]))
        candidates, found, count = candidates[order], [], 0
        for start in range(0, len(candidates), BATCH_USERS):
            if progress is not None:
                progress("choosing users", start, len(candidates))
            users = candidates[start : start + BATCH_USERS]
            rows = self._rows_of(users)
            passed = users[np.isin(users, rows.user)]
            passed = passed if most is None else passed[: most - count]
            self.fate[passed] = "kept"
            found.append(rows.keep(np.isin(rows.user, passed)))
            count += len(passed)
            if count == most:
                break
        return joined(found) if found else self._expanded(np.zeros(0, np.int64))

    def dropped(self) -> dict[str, int]:
        """Return how many shown items were dropped, by the first reason that applied."""
        kept = self.fate == "kept"
        reasons = sorted(set(self.fate[~kept]))
        counts = {reason: int(self.shown[self.fate == reason].sum()) for reason in reasons}
        return counts | {reason: int(lost[kept].sum()) for reason, lost in self.lost.items()}

    def _candidates(self) -> np.ndarray:
        """Return the users that may pass, by what their sessions say before rows are made."""
        rules = self.rules
        users = len(self.user_keys)
        there = [np.diff(starts) > 0 for _, starts in self.of_user]
        seasoned = [
            np.bincount(part.user[part.read >= rules.min_history], minlength=users) > 0
            for part in self.parts
        ]
        active = self._active(*_counts(self.parts[0], users))
        both = there[0] & there[1]
        known = both & seasoned[0] & seasoned[1]
        self.fate[~both] = "of users that only train or only dev has"
        self.fate[both & ~known] = (
            f"of users with fewer than {rules.min_history} news in their history"
        )
        self.fate[known & ~active] = self._too_few()
        return np.flatnonzero(known & active)

    def _active(self, rows: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        return (clicks >= self.rules.min_clicks) & (rows >= max(1, self.rules.min_rows))

    def _too_few(self) -> str:
        return (
            f"of users with fewer than {self.rules.min_clicks} clicks or {self.rules.min_rows} "
            "rows to train"
        )

    def _rows_of(self, users: np.ndarray) -> Rows:
        """Return the rows of those of some users that pass every filter."""
        rules = self.rules
        rows = self._without(
            self._expanded(users),
            "repeating a user and item (of dev before train, a click, the latest is kept)",
            self._single,
        )
        train = rows.keep(~rows.dev)
        size = len(self.user_keys)
        active = self._active(
            np.bincount(train.user, minlength=size),
            np.bincount(train.user[train.clicked], minlength=size),
        )
        self.fate[users[~active[users]]] = self._too_few()
        rows = rows.keep(active[rows.user])
        rows = self._without(rows, "beyond the most rows a user", self._within_cap)
        rows = self._with_histories(rows)
        rows = self._without(
            rows,
            f"with a history of more than {rules.max_history_characters} characters",
            self._short_enough,
        )
        tests = np.bincount(rows.user[rows.dev], minlength=size)
        trains = np.bincount(rows.user[~rows.dev], minlength=size)
        enough = (tests >= rules.min_test_rows) & (trains > 0)
        lacking = users[active[users] & ~enough[users]]
        self.fate[lacking] = f"of users with fewer than {rules.min_test_rows} rows to test"
        return rows.keep(enough[rows.user])

    def _without(self, rows: Rows, reason: str, which: Callable[[Rows], np.ndarray]) -> Rows:
        """Keep the rows that `which` names and note for each user how many were lost."""
        kept = which(rows)
        lost = self.lost.setdefault(reason, np.zeros(len(self.user_keys), np.int32))
        np.add.at(lost, rows.user[~kept], 1)
        return rows.keep(kept)

    def _expanded(self, users: np.ndarray) -> Rows:
        """Return a row for each item shown to some users, in train and in dev."""
        made = []
        for dev, (part, (order, starts)) in enumerate(zip(self.parts, self.of_user, strict=True)):
            sessions = order[lists_of(starts, users)[0]]
            places, owner = lists_of(part.shown_start, sessions)
            shown, session = part.shown[places], sessions[owner]
            made.append(
                Rows(
                    part.user[session].astype(np.int64),
                    (shown >> 1).astype(np.int64),
                    (shown & 1).astype(bool),
                    part.time[session],
                    np.full(len(shown), bool(dev)),
                    session,
                    np.zeros((len(shown), 0), np.int32),
                )
            )
        return joined(made)

    def _single(self, rows: Rows) -> np.ndarray:
        _, pair = np.unique(rows.user * len(self.item_keys) + rows.item, return_inverse=True)
        return rank_within(pair, ~rows.dev, ~rows.clicked, -rows.time) == 0

    def _within_cap(self, rows: Rows) -> np.ndarray:
        """Keep, of users with more rows than allowed, a seeded draw, at most a share clicked."""
        rules = self.rules
        group = rows.user * 2 + rows.dev
        key = mix(seed_key(self.seed, "cap"), self.user_keys[rows.user], self.item_keys[rows.item])
        size, clicks = np.bincount(group), np.bincount(group, rows.clicked).astype(np.int64)
        limit = np.where(np.arange(len(size)) % 2, rules.max_test_rows, rules.max_rows)
        clicks = np.minimum(clicks, (limit * rules.max_click_share).astype(np.int64))
        rank = rank_within(group * 2 + rows.clicked, key)
        allowed = np.where(rows.clicked, clicks[group], (limit - clicks)[group])
        unbound = (limit == 0) | (size <= limit)
        return unbound[group] | (rank < allowed)

    def _with_histories(self, rows: Rows) -> Rows:
        """Draw for each row some of the items that its session's history names, never its own."""
        most = self.rules.max_history
        drawn = np.full((len(rows), most), -1, np.int32)
        for dev, part in enumerate(self.parts):
            mine = np.flatnonzero(rows.dev == bool(dev))
            places, owner = lists_of(part.past_start, rows.session[mine])
            row, item = mine[owner], part.past[places].astype(np.int64)
            other = item != rows.item[row]
            pairs = _distinct(row[other] * len(self.item_keys) + item[other])
            row, item = np.divmod(pairs, len(self.item_keys))
            key = mix(
                seed_key(self.seed, "history"),
                self.user_keys[rows.user[row]],
                self.item_keys[rows.item[row]],
                self.item_keys[item],
            )
            rank = rank_within(row, key)
            drawn[row[rank < most], rank[rank < most]] = item[rank < most]
        return Rows(**{**vars(rows), "history": drawn})

    def _short_enough(self, rows: Rows) -> np.ndarray:
        """Say whose history's titles, joined by spaces, are short enough, [n] bool."""
        there = rows.history >= 0
        lengths = np.where(there, self.text_lengths[rows.history], 0).sum(axis=1)
        characters = lengths + np.maximum(0, there.sum(axis=1) - 1)
        most = self.rules.max_history_characters
        return (characters <= most) if most else np.ones(len(rows), dtype=bool)


def _distinct(values: np.ndarray) -> np.ndarray:
    """Return the distinct integers, sorted; for millions faster than np.unique, which hashes."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def _owners(part: Behaviors) -> np.ndarray:
    return np.repeat(part.user, np.diff(part.shown_start))


def _counts(part: Behaviors, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Count what was shown to each user, and what of it was clicked, [users] each."""
    owner = _owners(part)
    return (
        np.bincount(owner, minlength=users),
        np.bincount(owner[(part.shown & 1).astype(bool)], minlength=users),
    )


def _sessions_by_user(part: Behaviors, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sessions ordered by user, and where each user's begin, [users + 1]."""
    counts = np.bincount(part.user, minlength=users)
    return np.argsort(part.user, kind="stable"), np.concatenate([[0], np.cumsum(counts)])
