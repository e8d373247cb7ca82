"""Texts about the decision on a comparison: its question, four figures, breakpoints and fine print."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import pandas as pd

from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.formatting import (
    capitalised,
    format_percent,
    format_seconds,
    mid_sentence,
)
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC
from puma_engine.evaluation.plan_summary import ComparisonSetup
from puma_engine.evaluation.shares_kept import ASPECTS, REFERENCES, aspect_label
from puma_engine.evaluation.user_effects import LIKELY, SURE, UserEffects
from puma_engine.evaluation.verdict import MAX_MARGIN, DecisionRange

# Methods without a language model that know users.
PERSONAL_BASELINES = [BASELINES[name].label for name in ("user_item_bias", "matrix_factorisation")]
# Possible ends of the scale of accepted errors, as shares.
SCALE_ENDS = (0.05, 0.10, MAX_MARGIN)
# Number of plans that are named below the scale; the others are counted.
MOST_NAMED = 3


class Tile(NamedTuple):
    """One figure of a decision: its name, its value, and a text with the reference or interval."""

    label: str
    value: str
    text: str


def aspect_name(task: str, aspect: str) -> str:
    """Return the name of an aspect without its metric: rating accuracy, ranking."""
    return aspect_label(task, aspect).partition(" (")[0]


def percent(share: float) -> str:
    """Return a share in whole percent, or a dash if it is unknown."""
    if pd.isna(share) or math.isinf(share):
        return "–"
    # An integer, which has no "-0 %".
    return f"{round(100 * share)} %"


def title(setup: ComparisonSetup) -> str:
    """Return the question of a comparison."""
    source = f" from {setup.source}" if setup.source else ""
    return f"Move {setup.users:,} users{source} to {setup.target or 'the new model'}?"


def behaviour_title(anchors: int, unit: str) -> str:
    """Return the title of the picture of users' behaviour; anchors: of `Behaviour`."""
    if anchors:
        return f"Predictions of the same {anchors} titles, median spread ({unit})"
    return f"Each user's predictions, and their median spread ({unit})"


def kept_tile(task: str, plan: pd.Series, aspect: str) -> Tile:
    """Return a tile with the share of full retraining's gain that a plan keeps in an aspect, and its interval."""
    prefix = "kept" if aspect == "level" else "ranking"
    over = REFERENCES.get(plan["reference"], "")
    text = f"of retraining's gain over {over}" if over else "no sure gain to keep a share of"
    low, high = plan[f"{prefix}_low"], plan[f"{prefix}_high"]
    if not math.isnan(low):
        text = f"{100 * low:.0f} to {100 * high:.0f} % {text}"
    return Tile(f"{capitalised(aspect_name(task, aspect))} kept", percent(plan[prefix]), text)


def metric_of(task: str, aspect: str) -> str:
    """Return the name of the metric in which an aspect is measured."""
    return METRICS[ASPECTS[aspect][task]].label


def cost_tile(plan: pd.Series, base: pd.Series, hour: float | None = None) -> Tile:
    """Return a tile with the cost of a plan: arithmetic if it is known, with seconds and their price.

    base: the full retraining. hour: the price of an hour of the device.
    """
    seconds = f"{format_seconds(plan['seconds'])} against {format_seconds(base['seconds'])}"
    if hour is not None:
        plan_cost, retraining_cost = (hour * float(row["seconds"]) / 3600 for row in (plan, base))
        seconds += f"; {plan_cost:,.2g} against {retraining_cost:,.2g} in money"
    label, time = "Cost against retraining", plan["seconds"] / base["seconds"]
    if pd.isna(plan["flops"]) or pd.isna(base["flops"]) or not base["flops"] > 0:
        return Tile(label, percent(time), f"of its time{_saving_text(time)}: {seconds}")
    share = plan["flops"] / base["flops"]
    text = f"of its arithmetic{_saving_text(share)}; {percent(time)} of its time: {seconds}"
    return Tile(label, percent(share), text)


def _saving_text(share: float) -> str:
    """Return how much of a cost is saved in words, "" if nothing is."""
    return f", {percent(1 - share)} saved" if round(100 * share) < 100 else ""


def worse_off_tile(effects: UserEffects | None) -> Tile:
    """Return a tile with the number of people who are surely worse off than with retraining.

    effects: None if predictions are missing.
    """
    label = "People surely worse off"
    if effects is None:
        return Tile(label, "–", "predictions are gone; evaluate again")
    n_sure, n_likely = (len(effects.worse(level)) for level in (SURE, LIKELY))
    text = f"of {effects.users:,}; a further {n_likely - n_sure:,} probably are"
    return Tile(label, f"{n_sure:,}", text)


def recommended(ranges: tuple[DecisionRange, ...]) -> tuple[DecisionRange, ...]:
    """Return the ranges of the accepted error in which another plan than retraining is recommended."""
    return tuple(part for part in ranges if part.decision in ("migrate", "refine", "reuse"))


def breakpoint_text(ranges: tuple[DecisionRange, ...], limit: int | None = None) -> str:
    """Return a sentence on which plan is recommended from which accepted error on.

    ranges: of `puma_engine.evaluation.verdict.decision_ranges`. limit: number of changes to name,
    those of the smallest errors; None for all. The others are counted.
    """
    parts = [
        f"from {format_percent(part.low)}: {mid_sentence(decision_label(part))}"
        for part in recommended(ranges)
    ]
    if not parts:
        return f"Up to {format_percent(MAX_MARGIN)}, nothing is recommended in place of full retraining."
    named = parts[:limit]
    omitted = f"; then {len(parts) - len(named)} more" if len(parts) > len(named) else ""
    return f"Recommended {'; '.join(named)}{omitted}."


def range_text(part: DecisionRange) -> str:
    """Return a range of accepted errors with its decision: 0.1 % to 1.1 %: not settled."""
    low, high = format_percent(part.low), format_percent(part.high)
    span = low if low == high else f"{low} to {high}"
    return f"{span}: {mid_sentence(decision_label(part))}"


def ranges_text(ranges: tuple[DecisionRange, ...]) -> str:
    """Return all ranges of accepted errors with their decisions, for screen readers."""
    return f"What follows from the accepted error: {'; '.join(map(range_text, ranges))}."


def slider_max(ranges: tuple[DecisionRange, ...], margin: float) -> float:
    """Return the end of the scale of accepted errors, a share.

    The scale includes every recommendation and the margin.
    """
    needed = max([margin, *(1.1 * part.low for part in recommended(ranges))])
    return next((end for end in SCALE_ENDS if needed <= end), SCALE_ENDS[-1])


def decision_label(part: DecisionRange) -> str:
    """Return a short name of a decision: the chosen plan, or that it is not settled."""
    name = _training_users(part.method)
    return {
        "migrate": name,
        "reuse": name,
        "refine": f"{name}, some again" if "refined" in name else f"{name}, some refined",
        "retrain": "Retrain",
    }.get(part.decision, "Not settled")


def plan_label(plan: Any) -> str:
    """Return the short name of a plan in a chart. plan: method, kind and is_baseline."""
    if plan.kind == "source":
        return "Old model"
    if plan.kind == "retrained" and plan.is_baseline:
        return "Retrained"
    return _training_users(str(plan.method))


def _training_users(method: str) -> str:
    """Return from the name of a migration which users train it, and whether it was refined."""
    users = method.removeprefix("Migration trained on ").removeprefix("Migration ")
    return capitalised(re.sub(r", refined for .*", ", refined", users))


def fine_print(
    task: str,
    plans: pd.DataFrame,
    seeds: int,
    spread: tuple[int, int, float] | None,
    published: int,
    disagreement: str,
) -> str:
    """Return the fine print: methods without a language model, seeds, and where metrics disagree.

    plans: of `puma_engine.evaluation.plan_summary.plan_table`. seeds: of the comparison's
    trainings, see `ComparisonSetup`. spread: of `puma_engine.evaluation.plan_summary.seed_spread`.
    published: number of methods that come from published runs. disagreement: of the verdict.
    """
    metric = METRICS[PRIMARY_METRIC[task]]
    simple = plans[plans["method"].isin(PERSONAL_BASELINES) & plans["value"].notna()]
    simple = simple.sort_values("value", ascending=not metric.higher_is_better)
    level, ranking = (aspect_name(task, aspect) for aspect in ("level", "ranking"))
    parts: list[str] = []
    both = bool(len(simple)) and bool(simple[["kept", "ranking"]].notna().all(axis=None))
    for row in simple.itertuples():
        reached = f"{metric.label} {row.value:.4f}"
        name = mid_sentence(str(row.method))
        kept = [
            f"{percent(share)} of the {aspect}"
            for share, aspect in ((row.kept, level), (row.ranking, ranking))
            if not pd.isna(share)
        ]
        if both and parts:  # The first part has named the aspects.
            parts.append(f"{name} {percent(row.kept)} and {percent(row.ranking)} ({reached})")
        elif kept:
            parts.append(f"{name} keeps {' and '.join(kept)} ({reached})")
        else:
            parts.append(f"{name} reaches {reached}")
    text = f"Without any language model, {'; '.join(parts)}. " if parts else ""
    scope = "One seed" if seeds == 1 and spread is None else "Each figure is of one training"
    text += f"{scope}: intervals are over users, not over trainings."
    if seeds > 1:
        text += f" The trainings have {seeds} seeds."
    if spread is not None:
        count, trained, most = spread
        plans_text = "One plan was" if count == 1 else f"{count} plans were"
        text += (
            f" {plans_text} trained with {trained} seeds, up to {format_percent(most)} apart in "
            f"{metric.label}."
        )
    if published:
        methods = "1 method was" if published == 1 else f"{published} methods were"
        text += f" {methods} measured before, elsewhere, and published."
    return text + (f" Caution: {disagreement}" if disagreement else "")
