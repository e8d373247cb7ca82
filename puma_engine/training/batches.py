"""The order of examples: a function of seed and epoch alone, with or without length buckets."""

from __future__ import annotations

import numpy as np

WINDOW = 50


def epoch_batches(
    n: int, batch_size: int, *, seed: int, epoch: int, lengths: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the batches of one epoch: row numbers, each once, at most batch_size together.

    With lengths [n], examples are sorted by length inside windows of 50 batches, so that
    a batch holds like lengths, and the batches are shuffled again.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(n)
    if lengths is None:
        return [order[start : start + batch_size] for start in range(0, n, batch_size)]
    batches = []
    for start in range(0, n, batch_size * WINDOW):
        window = order[start : start + batch_size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[at : at + batch_size] for at in range(0, len(window), batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def process_share(batch: np.ndarray, index: int, count: int) -> np.ndarray:
    """Return the rows of a batch that process `index` of `count` works on."""
    return batch[index::count]
