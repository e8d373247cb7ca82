"""The shares of full retraining's gain that methods keep, in level and in ranking.

The level is how far predictions are from outcomes; the ranking is how well they order the items of
each user. A method can keep one and lose the other: predictions that contain little more than the
mean rating of a user have nearly the right level and a poor order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from puma_engine.evaluation.metrics import (
    LEVEL_METRIC,
    METRICS,
    RANKING_METRIC,
    Interval,
    SampledMetrics,
    ShareKept,
    shares_kept,
)

# References of gains: prompts without information about users, and a baseline that only knows items.
REFERENCES = {"random": "random prompts", "item_mean": "the item mean"}
ASPECTS = {"level": LEVEL_METRIC, "ranking": RANKING_METRIC}
COLUMNS = (
    *("method", "reference", "reference_method", "aspect", "metric"),
    *("share", "share_low", "share_high", "gain", "gain_low", "gain_high", "n_users"),
)


def aspect_label(task: str, aspect: str) -> str:
    """Return the name of an aspect with its metric, within a sentence: ranking (pair accuracy)."""
    level = {"rating": "rating accuracy", "click": "accuracy of probabilities"}[task]
    name = level if aspect == "level" else "ranking"
    return f"{name} ({METRICS[ASPECTS[aspect][task]].label})"


def measured_shares(
    task: str,
    sampled: SampledMetrics,
    methods: Mapping[str, int],
    *,
    retrained: str,
    references: Mapping[str, str],
) -> pd.DataFrame:
    """Return the table of shares with intervals from resampling users.

    sampled: the metrics of the trainings of all methods, with those of ASPECTS. methods: the number
    of trainings of each method by its name, in the order of the sample. retrained: the name of full
    retraining. references: names of methods by key of REFERENCES. One row for each other method,
    reference and aspect, with COLUMNS; shares are NaN where the gain is not surely positive.
    """
    names = list(methods)
    measured = shares_kept(
        sampled,
        list(methods.values()),
        retrained=names.index(retrained),
        references=[names.index(name) for name in references.values()],
        names=[metric[task] for metric in ASPECTS.values()],
    )
    rows = [
        _row(method, reference, name, aspect, metric[task], shares[metric[task]])
        for (reference, name), of_reference in zip(references.items(), measured, strict=True)
        for method, shares in zip(names, of_reference, strict=True)
        if method not in (retrained, name)
        for aspect, metric in ASPECTS.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def shares_of_scores(
    task: str, scores: pd.DataFrame, *, retrained: str, references: Mapping[str, str]
) -> pd.DataFrame:
    """Return the table of shares from the table "comparison" alone, without intervals of shares.

    The differences of the table must be from full retraining. Metrics that it lacks are left out.
    """
    table = scores.set_index(["method", "metric"])
    others = [name for name in dict.fromkeys(scores["method"]) if name != retrained]
    rows = []
    for reference, name in references.items():
        for aspect, metrics in ASPECTS.items():
            metric = metrics[task]
            if (name, metric) not in table.index:
                continue
            sign = -1.0 if METRICS[metric].higher_is_better else 1.0
            row = table.loc[(name, metric)]
            low, high = sorted((sign * row["difference_low"], sign * row["difference_high"]))
            users = int(row["n_users"])
            gain = Interval(float(sign * row["difference"]), float(low), float(high), users)
            for method in others:
                if method != name and (method, metric) in table.index:
                    loss = sign * float(table.loc[(method, metric), "difference"])
                    share = 1 - loss / gain.value if gain.low > 0 else np.nan
                    share_kept = ShareKept(Interval(share, np.nan, np.nan, users), gain)
                    rows.append(_row(method, reference, name, aspect, metric, share_kept))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    method: str, reference: str, name: str, aspect: str, metric: str, share_kept: ShareKept
) -> dict[str, object]:
    share, gain = share_kept.share, share_kept.gain
    values = (share.value, share.low, share.high, gain.value, gain.low, gain.high, share.n_users)
    return dict(zip(COLUMNS, (method, reference, name, aspect, metric, *values), strict=True))
