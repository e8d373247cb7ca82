"""Differences that users notice: plans on the new model against the old model with its prompts.

A verdict compares migrations with full retraining. All plans may be close to full retraining, and
yet be worse than what users have now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from puma_engine.evaluation.formatting import format_change, method_names, mid_sentence
from puma_engine.evaluation.metrics import METRICS, SampledMetrics, estimates
from puma_engine.evaluation.shares_kept import ASPECTS, aspect_label

COLUMNS = (
    *("source", "method", "metric", "value", "source_value"),
    *("difference", "difference_low", "difference_high", "n_users"),
)
Change = Literal["worse", "better", "behind", "ahead", "mixed"]


@dataclass(frozen=True)
class SourceChange:
    """The comparison of all plans with the old model, as a sentence and as a change in level and ranking.

    level and ranking: whether all plans are surely worse or better than the old model, whether all
    are behind or ahead of it but not all significantly, or neither; None where it is not measured.
    """

    sentence: str
    level: Change | None
    ranking: Change | None

    @property
    def warns(self) -> bool:
        """Whether users would lose by every plan, in level or in ranking."""
        return bool({self.level, self.ranking} & {"worse", "behind"})


def measured_changes(
    sampled: SampledMetrics, methods: Sequence[str], sources: Collection[str]
) -> pd.DataFrame:
    """Return the differences of methods from source prompts, with COLUMNS.

    sampled: the metrics of the methods, in their order. sources: names of source prompts among them.
    Differences are paired over users, a method minus the source, in the metric's units.
    """
    rows = []
    for number, source in enumerate(methods):
        if source not in sources:
            continue
        scored = estimates(sampled, number)
        for method, metrics in zip(methods, scored, strict=True):
            for metric, estimate in metrics.items():
                if (change := estimate.difference) is not None and method not in sources:
                    values = (estimate.interval.value, scored[number][metric].interval.value)
                    interval = (change.value, change.low, change.high, change.n_users)
                    rows.append((source, method, metric, *values, *interval))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def source_change(
    changes: pd.DataFrame, plans: Mapping[str, str], primary: str
) -> SourceChange | None:
    """Compare plans with the old model (the best of several); None where it is not measured.

    changes: the table of `measured_changes`. plans: names in plain words of the plans that can be
    chosen on the new model, by method. primary: the metric that picks the best old model.
    """
    table = changes[changes["method"].isin(list(plans))].reset_index(drop=True)
    of_primary = table[table["metric"] == primary]
    if of_primary.empty:
        return None
    task, order = METRICS[primary].task, _sign(primary) * of_primary["source_value"]
    best = of_primary.loc[order.idxmin(), "source"]
    several = table["source"].nunique() > 1
    changes_by_aspect: dict[str, Change] = {}
    # The same statement about level and ranking is made once, with both places and amounts.
    said: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for aspect, metrics in ASPECTS.items():
        rows = table[(table["source"] == best) & (table["metric"] == metrics[task])]
        losses = _losses(rows, _sign(metrics[task])).dropna()
        if losses.empty:
            continue
        changes_by_aspect[aspect] = _change(losses)
        nearest = losses.loc[losses["loss"].idxmin()]
        metric = METRICS[metrics[task]]
        amount = format_change(
            *(float(nearest[name]) for name in ("loss", "low", "high", "source_value")),
            noun=metric.label if metric.higher_is_better else "error",
            higher_is_better=metric.higher_is_better,
        )
        where = aspect_label(task, aspect).partition(" (")[0]
        name = plans[nearest["method"]]
        plan = f"the best, {mid_sentence(name)}," if len(losses) > 1 else "it"
        said.setdefault((*_words(changes_by_aspect[aspect], losses), plan), []).append(
            (where, amount)
        )
    if not said:
        return None
    parts = []
    for (claim, doubt, plan), measured in said.items():
        wheres, amounts = (" and ".join(texts) for texts in zip(*measured, strict=True))
        parts.append(f"{claim} in {wheres}{doubt}: {plan} has {amounts}")
    old = (
        f"the best of the old models ({method_names([best])[best]})" if several else "the old model"
    )
    sentence = f"Against {old}, which users have now, {'; '.join(parts)}."
    return SourceChange(sentence, changes_by_aspect.get("level"), changes_by_aspect.get("ranking"))


def _sign(metric: str) -> float:
    return -1.0 if METRICS[metric].higher_is_better else 1.0


def _losses(rows: pd.DataFrame, sign: float) -> pd.DataFrame:
    """Return the losses against the source, one row for each method: method, source_value, loss, low, high."""
    bounds = sign * rows[["difference_low", "difference_high"]]
    return rows[["method", "source_value"]].assign(
        loss=sign * rows["difference"], low=bounds.min(axis=1), high=bounds.max(axis=1)
    )


def _change(losses: pd.DataFrame) -> Change:
    if (losses["low"] > 0).all():
        return "worse"
    if (losses["high"] < 0).all():
        return "better"
    if (losses["loss"] > 0).all():
        return "behind"
    return "ahead" if (losses["loss"] < 0).all() else "mixed"


def _words(change: Change, losses: pd.DataFrame) -> tuple[str, str]:
    """Return a change in words, and the doubt that follows after the place of the measurement."""
    count = len(losses)
    every = "every plan is" if count > 1 else "the only plan is"
    if change in ("worse", "better"):
        return f"{every} surely {change}", ""
    if change in ("behind", "ahead"):
        return f"{every} {change}", f", which may be chance{' for some' if count > 1 else ''}"
    numbers = {"better": int((losses["high"] < 0).sum()), "worse": int((losses["low"] > 0).sum())}
    some = [f"{number} surely {word}" for word, number in numbers.items() if number]
    if not some:
        return "no plan is surely better or worse", ""
    return f"of {count} plans, {' and '.join(some)}", ""
