"""Estimate how many trainings would decide an undecided claim, from the spread of measured ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puma_engine.studies.differences import MIN_TRAININGS, Bounds, PairedDifference

MOST_SEEDS = 1000


def seeds_to_decide(losses: Sequence[float], limit: float = 0.0) -> int | None:
    """Return the number of trainings with which the 95 % interval of a loss would exclude a limit.

    losses: differences between paired trainings, at least two. Their mean and standard deviation
    are assumed to be the true ones, so more trainings may be needed. None: more than 1,000, or
    fewer than two losses.
    """
    if len(losses) < 2:
        return None
    from scipy.special import stdtrit

    counts = np.arange(max(len(losses), MIN_TRAININGS), MOST_SEEDS + 1)
    half_widths = stdtrit(counts - 1, 0.975) * np.std(losses, ddof=1) / np.sqrt(counts)
    sufficient = counts[half_widths < abs(np.mean(losses) - limit)]
    return int(sufficient[0]) if len(sufficient) else None


def seeds_for_claim(parts: Sequence[tuple[PairedDifference, float]]) -> int | None:
    """Return the number of seeds with which a claim about losses within limits would be decided.

    parts: each difference with the largest loss that the claim allows. The claim fails if one loss
    is above its limit, and holds if all are below. None: no number of seeds up to 1,000 suffices,
    since an interval over users includes a limit, or a mean is too close to it.
    """
    needed: dict[bool, list[int | None]] = {True: [], False: []}
    for difference, limit in parts:
        losses = [
            difference.loss_sign * (difference.first[seed] - difference.second[seed])
            for seed in difference.seeds
        ]
        seeds = seeds_to_decide(losses, limit)
        if difference.over_users and not _excludes(difference.loss_intervals[0], limit):
            seeds = None
        needed[difference.loss > limit].append(seeds)
    beyond = [seeds for seeds in needed[True] if seeds is not None]
    within = [seeds for seeds in needed[False] if seeds is not None]
    if needed[True]:
        return min(beyond, default=None)
    return max(within) if len(within) == len(needed[False]) and within else None


def _excludes(interval: Bounds, limit: float) -> bool:
    low, high = interval
    return high <= limit or low > limit
