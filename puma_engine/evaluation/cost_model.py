"""What a migration and a full retraining will cost, from what finished runs were measured to take.

Nothing here is assumed: where nothing alike was measured, the answer is unknown (None).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

BUSY_SHARE = 0.25


@dataclass(frozen=True)
class Measured:
    """What one finished training took: the evidence for a prediction.

    examples: all that were trained on, over all epochs; training_seconds: in doing so,
    validation included; seconds: of the whole run, which also prepares items and maps users.
    sources: prompt tables that an adapter read side by side; short: a calibration, not a whole run.
    others: the share of the machine's cores that other processes took meanwhile, if that was measured.
    """

    run: str
    name: str
    device: str
    batch_size: int
    epochs: int
    examples: int
    training_seconds: float
    seconds: float
    sources: int = 1
    short: bool = False
    others: float = 0.0

    @property
    def rate(self) -> float:
        """Examples a second while it trained."""
        return self.examples / self.training_seconds

    @property
    def disturbed(self) -> bool:
        """Say whether other work may have slowed it down noticeably."""
        return self.others > BUSY_SHARE

    @property
    def preparation(self) -> float:
        """Seconds beside the training, for each row that it trained on."""
        return max(0.0, self.seconds - self.training_seconds) * self.epochs / self.examples


@dataclass(frozen=True)
class Prediction:
    """Seconds that a training will take: the middle of what the evidence says, and its ends."""

    seconds: float
    low: float
    high: float
    evidence: tuple[Measured, ...]
    other_batches: bool
    other_sources: bool = False

    def plus(self, other: Prediction) -> Prediction:
        """Return the prediction for one training after another."""
        return Prediction(
            self.seconds + other.seconds,
            self.low + other.low,
            self.high + other.high,
            tuple(dict.fromkeys(self.evidence + other.evidence)),
            self.other_batches or other.other_batches,
            self.other_sources or other.other_sources,
        )


def predict(
    rows: float, epochs: int, batch_size: int, measured: Sequence[Measured], sources: int = 1
) -> Prediction | None:
    """Predict a training of so many rows an epoch, for all its epochs (it may stop earlier).

    measured: runs of the same kind, model and device. Those with the same number of sources, and
    among them those with the same batch size, count alone if there are any; other_sources and
    other_batches say that there are none. Of what is left, whole runs count before calibrations.
    None: nothing was measured.
    """
    usable = [one for one in measured if one.examples > 0 and one.training_seconds > 0]
    if not usable:
        return None
    same_sources = [one for one in usable if one.sources == sources]
    near = same_sources or usable
    same_batch = [one for one in near if one.batch_size == batch_size]
    near = same_batch or near
    evidence = tuple([one for one in near if not one.short] or near)
    found = [rows * (epochs / one.rate + one.preparation) for one in evidence]
    return Prediction(
        median(found), min(found), max(found), evidence, not same_batch, not same_sources
    )


def break_even(
    retraining: float, users: int, migration: float, *, all_train: bool = False
) -> int | None:
    """Return the number of users from which on a migration is cheaper, or None if never.

    retraining: seconds for `users` users, in proportion to them; migration: seconds with its
    budget, which stays the same however many users there are. With all_train everybody
    trains the adapter: both grow alike, so it is 1 or never.
    """
    if all_train:
        return 1 if migration < retraining else None
    each = retraining / users
    return max(1, math.ceil(migration / each)) if each > 0 else None


def hours(seconds: float, devices: int = 1) -> float:
    """Return device hours."""
    return seconds * devices / 3600


def money(seconds: float, price: float, devices: int = 1) -> float:
    """Return what device hours cost at a price an hour."""
    return hours(seconds, devices) * price
