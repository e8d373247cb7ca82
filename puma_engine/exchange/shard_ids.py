"""Check the user ids of shards in bounded memory: each is usable, and each user occurs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from puma_engine.datasets.reading.column_values import plain_id
from puma_engine.errors import DataError
from puma_engine.exchange.prompt_file import checked_ids
from puma_engine.exchange.shards import open_shard
from puma_engine.exchange.storage import Folder

# Hashes in memory at once: 8 bytes each, and twice as much while they are compared.
MAX_HASHES = 1 << 24
_EXAMPLES = 1000
_TWICE = "each user has one prompt."


@dataclass
class CheckedIds:
    """Result of a check of shards.

    unnamed: number of prompts in shards without user ids. alike: number of ids that differ from
    another user's only by spaces, quotation marks, .0 or the encoding of letters; example: one of
    them.
    """

    unnamed: int = 0
    alike: int = 0
    example: str | None = None


@dataclass
class _Hashes:
    """Hashes in one part of the hash space: of ids, and of ids without spaces, quotation marks and .0."""

    part: int
    parts: int
    ids: list[np.ndarray] = field(default_factory=list)
    plain: list[np.ndarray] = field(default_factory=list)
    examples: dict[int, str] = field(default_factory=dict)

    def add(self, ids: Sequence[str]) -> None:
        self.ids.append(self._own(_hashes(ids)))
        others = [(text, plain) for text in ids if (plain := plain_id(text)) not in ("", text)]
        if others:
            hashes = _hashes([plain for _, plain in others])
            self.plain.append(self._own(hashes))
            for number, (text, _) in zip(hashes.tolist(), others, strict=True):
                if len(self.examples) < _EXAMPLES:
                    self.examples.setdefault(number, text)

    def split(self) -> None:
        """Keep half of the hash space; a further pass handles the other half."""
        self.parts *= 2
        self.ids = [self._own(hashes) for hashes in self.ids]
        self.plain = [self._own(hashes) for hashes in self.plain]

    def __len__(self) -> int:
        return sum(map(len, self.ids)) + sum(map(len, self.plain))

    def _own(self, hashes: np.ndarray) -> np.ndarray:
        return hashes[hashes % self.parts == self.part]


def check_user_ids(
    folder: Folder,
    shards: Sequence[str],
    *,
    max_hashes: int = MAX_HASHES,
    begin: Callable[[str], None] | None = None,
) -> CheckedIds:
    """Check the user ids of shards, before anything is done with their prompts.

    Ids of one shard are compared directly, ids of all shards by 64-bit hashes, at most `max_hashes`
    at once. With more users, ids are read several times, each time for a part of the hash space.
    Equal hashes are confirmed by comparing the ids. begin: called with each shard before it is
    read. Raises DataError for an unusable id (`prompt_file.checked_ids`) and for a user who occurs
    twice; StoreError.
    """
    result, part, parts = CheckedIds(), 0, 1
    while part < parts:
        hashes = _Hashes(part, parts)
        for name in shards:
            if begin is not None:
                begin(name)
            shard = open_shard(folder, name)
            users = shard.user_ids()
            if users is None:
                result.unnamed += shard.rows if part == 0 else 0
                continue
            ids = checked_ids(f"{folder}/{name}", users)
            if part == 0 and len(set(ids)) < len(ids):
                twice = pd.Index(ids)[pd.Index(ids).duplicated()][0]
                raise DataError(f"The user {twice!r} occurs twice in {folder}/{name}; {_TWICE}")
            hashes.add(ids)
            while part == 0 and len(hashes) > max_hashes:
                hashes.split()
        _compare(folder, shards, hashes, result)
        part, parts = part + 1, hashes.parts
    return result


def _compare(folder: Folder, shards: Sequence[str], hashes: _Hashes, result: CheckedIds) -> None:
    """Raise DataError for a user of two shards, and count ids that nearly equal another one."""
    own = np.concatenate([np.empty(0, np.uint64), *hashes.ids])
    hashes.ids.clear()
    own.sort()
    repeated = np.unique(own[1:][own[1:] == own[:-1]])
    if len(repeated):
        seen: dict[str, str] = {}
        for name, text in _with_hashes(folder, shards, repeated):
            if text in seen:
                raise DataError(
                    f"The user {text!r} is in the shards {seen[text]} and {name} of {folder}; {_TWICE}"
                )
            seen[text] = name
    plain = np.concatenate([np.empty(0, np.uint64), *hashes.plain])
    alike = plain[np.isin(plain, own, assume_unique=False)]
    result.alike += len(alike)
    if result.example is None:
        result.example = next(
            (hashes.examples[one] for one in alike.tolist() if one in hashes.examples), None
        )


def _with_hashes(
    folder: Folder, shards: Sequence[str], hashes: np.ndarray
) -> Iterator[tuple[str, str]]:
    """Yield the shard and the id of each user with one of these hashes."""
    for name in shards:
        users = open_shard(folder, name).user_ids()
        if users is not None:
            ids = np.array([str(user) for user in users], dtype=object)
            yield from ((name, text) for text in ids[np.isin(_hashes(ids), hashes)])


def _hashes(ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of each id, [n] uint64."""
    return pd.util.hash_array(np.array(ids, dtype=object), categorize=False)
