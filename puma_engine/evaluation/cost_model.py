"""Predict the cost of a migration and of a full retraining from the measured time of finished runs.

Where no comparable run was measured, the prediction is None (unknown).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# A run is disturbed when other processes used more than this share of the cores.
BUSY_SHARE = 0.25


@dataclass(frozen=True)
class MeasuredRun:
    """The measured cost of one finished training: evidence for a prediction.

    examples: number over all epochs. training_seconds: of training with validation. seconds: of the
    whole run, which also prepares items and maps users. sources: number of source prompt tables of
    an adapter. short: whether it is a calibration instead of a whole run. other_load: the share of
    the machine's cores that other processes used meanwhile (0 where not measured). items: number of
    distinct items, if predictions were measured instead of a training; then examples are the
    predicted pairs, training_seconds the time for them, and the rest of seconds the time for the
    items. template: a label of the text around an example, on which the work depends.
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
    other_load: float = 0.0
    items: int = 0
    template: str = ""

    @property
    def rate(self) -> float:
        """Examples per second of training."""
        return self.examples / self.training_seconds

    @property
    def disturbed(self) -> bool:
        """Whether other processes may have slowed it down noticeably."""
        return self.other_load > BUSY_SHARE

    @property
    def preparation(self) -> float:
        """Seconds outside training per row of the train set."""
        return max(0.0, self.seconds - self.training_seconds) * self.epochs / self.examples


@dataclass(frozen=True)
class CostPrediction:
    """Predicted seconds of a training: median and range over the evidence.

    other_batches, other_sources, other_templates: no evidence had the same batch size, number of
    sources, or prompt template.
    """

    seconds: float
    low: float
    high: float
    evidence: tuple[MeasuredRun, ...]
    other_batches: bool
    other_sources: bool = False
    other_templates: bool = False

    @property
    def mismatches(self) -> list[str]:
        """Differences between the evidence and the predicted training, in words; may be empty."""
        differs = {
            "another prompt template": self.other_templates,
            "another number of sources": self.other_sources,
            "another batch size": self.other_batches,
        }
        return [words for words, differ in differs.items() if differ]

    def plus(self, other: CostPrediction) -> CostPrediction:
        """Return the prediction for two trainings in sequence."""
        return CostPrediction(
            self.seconds + other.seconds,
            self.low + other.low,
            self.high + other.high,
            tuple(dict.fromkeys(self.evidence + other.evidence)),
            self.other_batches or other.other_batches,
            self.other_sources or other.other_sources,
            self.other_templates or other.other_templates,
        )


def predict_training_time(
    rows: float,
    epochs: int,
    batch_size: int,
    measured: Sequence[MeasuredRun],
    sources: int = 1,
    template: str = "",
) -> CostPrediction | None:
    """Predict the time of a training with `rows` rows per epoch, for all epochs (it may stop earlier).

    measured: runs of the same kind, model and device. The evidence is narrowed to runs with the
    same prompt template, then number of sources, then batch size, and then to whole runs instead of
    calibrations; a step that would leave no run is skipped. Returns None if nothing was measured.
    """
    usable = [run for run in measured if run.examples > 0 and run.training_seconds > 0]
    if not usable:
        return None
    same_template = [run for run in usable if run.template == template]
    candidates = same_template or usable
    same_sources = [run for run in candidates if run.sources == sources]
    candidates = same_sources or candidates
    same_batch = [run for run in candidates if run.batch_size == batch_size]
    candidates = same_batch or candidates
    evidence = tuple([run for run in candidates if not run.short] or candidates)
    seconds = [rows * (epochs / run.rate + run.preparation) for run in evidence]
    return CostPrediction(
        median(seconds),
        min(seconds),
        max(seconds),
        evidence,
        other_batches=not same_batch,
        other_sources=not same_sources,
        other_templates=not same_template,
    )


def predict_inference_time(
    pairs: float, items: float, measured: Sequence[MeasuredRun], template: str = ""
) -> CostPrediction | None:
    """Predict the time for predicting `pairs` pairs of users and items, with `items` distinct items.

    measured: predictions of the same model and device. Those with the same prompt template are
    preferred, then whole runs to calibrations. Returns None if nothing was measured.
    """
    usable = [run for run in measured if run.items > 0 and run.rate > 0]
    same_template = [run for run in usable if run.template == template]
    candidates = same_template or usable
    evidence = tuple([run for run in candidates if not run.short] or candidates)
    if not evidence:
        return None
    seconds = [
        items * max(0.0, run.seconds - run.training_seconds) / run.items + pairs / run.rate
        for run in evidence
    ]
    return CostPrediction(
        median(seconds),
        min(seconds),
        max(seconds),
        evidence,
        other_batches=False,
        other_templates=not same_template,
    )


def break_even(
    retraining: float, users: int, migration: float, *, all_train: bool = False
) -> int | None:
    """Return the smallest number of users for which a migration is cheaper, or None if it never is.

    retraining: seconds for `users` users, proportional to their number. migration: seconds with
    its budget, independent of the number of users. all_train: all users train the adapter, so
    both costs are proportional to users, and the answer is 1 or None.
    """
    if all_train:
        return 1 if migration < retraining else None
    per_user = retraining / users
    return max(1, math.ceil(migration / per_user)) if per_user > 0 else None


def money(seconds: float, price: float) -> float:
    """Return the cost of seconds on a device with a price per hour."""
    return seconds / 3600 * price
