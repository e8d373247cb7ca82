"""The shares of full retraining's gain that methods of a study keep, in level and in ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from puma_engine.evaluation.metrics import METRICS, SampledMetrics, shares_kept
from puma_engine.evaluation.shares_kept import ASPECTS
from puma_engine.studies.cells import Study
from puma_engine.studies.differences import Bounds, Row, paired_t_test, primary_metric

# Returns metrics of some rows of a report for resampled users, in the order of the rows.
Sampler = Callable[[Sequence[int], Sequence[str]], SampledMetrics]


def shares_of_rows(
    study: Study,
    rows: Sequence[Row],
    methods: Sequence[tuple[Row, list[int]]],
    sample: Sampler | None = None,
) -> list[Row]:
    """Return a line for each method, reference (random prompts, item mean) and aspect.

    methods: the labels of each method with the indices of its rows, one for each seed. sample:
    reads the predictions of rows; without it, intervals are over trainings. A line has the labels,
    reference, aspect, metric, kept (the share), kept_low, kept_high, gain, gain_low, gain_high,
    over (users or trainings, for the interval of the gain), seeds, and trainings (the interval of
    the share over three trainings or more, else None). Shares are ratios of means over the seeds
    that all methods have. A share is None unless the whole interval of the gain is positive.
    """
    compared = []
    for labels, group in methods:
        shared_labels = {name: labels.get(name) for name in ("dataset", *study.within)}
        retrained = _rows_with(rows, shared_labels | study.reference | {"kind": "retrained"})
        if not retrained or group[0] in retrained:
            continue
        baseline = {"dataset": labels["dataset"], "method": "item_mean", "kind": "baseline"}
        references = {
            "random": _rows_with(rows, shared_labels | {"kind": "random"}),
            "item_mean": _rows_with(rows, baseline),
        }
        for reference, of_reference in references.items():
            if of_reference and group[0] not in of_reference:
                trainings = _common(rows, [group, retrained, of_reference])
                if all(trainings):
                    compared.append((labels | {"reference": reference}, trainings))
    rows_of_dataset: dict[str, list[int]] = {}
    for labels, trainings in compared:
        row_indices = {index for group in trainings for index in group}
        dataset_rows = rows_of_dataset.setdefault(labels["dataset"], [])
        dataset_rows += sorted(row_indices - set(dataset_rows))
    samples = {}
    if sample is not None:
        for dataset, dataset_rows in rows_of_dataset.items():
            task = _task(rows[dataset_rows[0]])
            names = [metric[task] for metric in ASPECTS.values()]
            samples[dataset] = sample(dataset_rows, names)
    lines = []
    for labels, trainings in compared:
        sampled = None
        if sample is not None:
            dataset_rows = rows_of_dataset[labels["dataset"]]
            sampled = samples[labels["dataset"]].select(
                [dataset_rows.index(index) for group in trainings for index in group]
            )
        for aspect in ASPECTS:
            line = _line(rows, trainings, aspect, sampled)
            lines += [] if line is None else [labels | {"aspect": aspect} | line]
    return lines


def _task(row: Row) -> str:
    return METRICS[primary_metric(row)].task


def _rows_with(rows: Sequence[Row], labels: Row) -> list[int]:
    return [
        index
        for index, row in enumerate(rows)
        if all(row.get(name) == value for name, value in labels.items())
    ]


def _common(rows: Sequence[Row], groups: Sequence[list[int]]) -> list[list[int]]:
    """Return the rows of each group by seed, for the seeds that all groups with seeds have."""
    by_seed = [{rows[index].get("seed"): index for index in group} for group in groups]
    seeded: list[set[Any]] = [set(group) for group in by_seed if None not in group]
    seeds: list[Any] = sorted(set.intersection(*seeded)) if seeded else []
    return [
        [group[None]] if None in group else [group[seed] for seed in seeds] for group in by_seed
    ]


def _line(
    rows: Sequence[Row], trainings: list[list[int]], aspect: str, sampled: SampledMetrics | None
) -> Row | None:
    """Return the share of a method, from [method, retraining, reference] rows; None if not measured."""
    metric = ASPECTS[aspect][_task(rows[trainings[0][0]])]
    scores = [[rows[index].get(metric) for index in group] for group in trainings]
    if any(score is None for group in scores for score in group):
        return None
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    method_losses, retrained_losses, reference_losses = (
        sign * np.array(group, np.float64) for group in scores
    )
    reference_gains, gains_kept = (
        reference_losses - retrained_losses,
        reference_losses - method_losses,
    )
    gain = float(reference_gains.mean())
    line: Row = {"metric": metric, "seeds": max(len(group) for group in trainings), "gain": gain}
    test = paired_t_test(reference_gains.tolist())
    share_bounds: Row = {}
    if sampled is not None:
        sizes = [len(group) for group in trainings]
        measured = shares_kept(sampled, sizes, retrained=1, references=[2], names=[metric])
        share, of_gain = measured[0][0][metric].share, measured[0][0][metric].gain
        line |= {"over": "users", "gain_low": of_gain.low, "gain_high": of_gain.high}
        share_bounds = {"kept_low": share.low, "kept_high": share.high}
    elif test is not None:
        line |= {"over": "trainings", "gain_low": test.low, "gain_high": test.high}
    else:
        return None
    if not line["gain_low"] > 0:
        return line | dict.fromkeys(("kept", "kept_low", "kept_high", "trainings"))
    value = float(gains_kept.mean()) / gain
    over_trainings = _ratio_interval(gains_kept, reference_gains, value)
    low, high = over_trainings or (None, None)
    line |= {"kept": value} | (share_bounds or {"kept_low": low, "kept_high": high})
    return line | {"trainings": over_trainings}


def _ratio_interval(gains_kept: np.ndarray, gains: np.ndarray, share: float) -> Bounds | None:
    """Return the interval of a ratio of means over trainings (Cochran, Sampling Techniques, 1977, ch. 6)."""
    test, gain = paired_t_test((gains_kept - share * gains).tolist()), float(gains.mean())
    return None if test is None else (share + test.low / gain, share + test.high / gain)
