"""Seeded random choices that depend only on ids, not on row order or on other rows.

For every choice, each row has a 64-bit key made from the seed, the purpose and the row's ids;
sorting by this key gives a random order. So a subset of users gets the same rows, splits and
negatives as in the whole data set.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def text_keys(texts: Sequence[str] | np.ndarray, salt: str = "") -> np.ndarray:
    """Return the first 64 bits of sha256(salt + text) of each text, [n] uint64."""
    prefix = salt.encode()
    digests = b"".join(
        hashlib.sha256(prefix + str(text).encode("utf-8", "surrogatepass")).digest()[:8]
        for text in texts
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def mix(*keys: np.ndarray | np.uint64) -> np.ndarray:
    """Combine uint64 keys (broadcast, order matters) into one well-mixed key."""
    with np.errstate(over="ignore"):
        state = np.zeros(1, np.uint64)
        for key in keys:
            state = (state + _GOLDEN) ^ np.asarray(key, np.uint64)
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state = state ^ (state >> np.uint64(31))
    return state


def seed_key(seed: int, purpose: str) -> np.uint64:
    """Return a key for one seed and purpose, so that choices for others are independent."""
    return text_keys([f"{seed}:{purpose}"])[0]


def uniform(keys: np.ndarray) -> np.ndarray:
    """Convert uint64 keys to float64 numbers in [0, 1) of the same shape."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def rank_within(group: np.ndarray, *order: np.ndarray) -> np.ndarray:
    """Return each row's position, from 0, among the rows of its group, [n] int64.

    group: [n] integers. order: sort keys, the most important first; ties keep row order.
    """
    by = np.lexsort((*reversed(order), group))
    sizes = np.bincount(group) if len(group) else np.zeros(0, np.int64)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(group), np.int64)
    rank[by] = np.arange(len(group)) - starts[group[by]]
    return rank
