"""Summary: the question, the decision that follows from the accepted error, tiles, fine print."""

import math

import pandas as pd
import streamlit as st

from dashboard import pages
from dashboard.components import formatting, verdicts
from dashboard.components.formatting import escaped
from dashboard.components.glossary import term
from dashboard.engine import METRICS, Run, comparisons, summary, user_impact
from dashboard.engine.comparisons import Verdict
from dashboard.engine.summary import Breakpoint, Question


def title(asked: Question) -> str:
    """Return the question of a comparison, with names as plain text."""
    source = f" from {escaped(asked.source, 40)}" if asked.source else ""
    target = escaped(asked.target, 40) or "the new model"
    return f"Move {asked.users:,} users{source} to {target}?"


def context(run: Run, asked: Question, share: float) -> None:
    """Show what was measured, when and where, and links to more."""
    parts = [
        asked.data,
        f"{run.summary['rows']:,} held-out records",
        formatting.ago(run.created),
        asked.device and f"on {asked.device}",
    ]
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.text(" · ".join(part for part in parts if part), width="stretch")
        pages.link(
            "compare",
            label="Show the evidence",
            icon=":material/compare_arrows:",
            comparison=run.id,
            margin=f"{100 * share:.1f}",
        )
        pages.link(
            "studies",
            label="Published results",
            icon=":material/menu_book:",
            **{"from": "published"},
        )


def breakpoint_text(points: tuple[Breakpoint, ...]) -> str:
    """Say from which accepted error on which migration is recommended."""
    if not points:
        return "No migration is recommended at any accepted error."
    parts = [
        f"{point.method} "
        + (
            f"from {summary.format_percent(summary.round_up_percent(point.margin))}"
            if point.margin
            else "always"
        )
        for point in points
    ]
    return f"Recommended: {'; '.join(parts)}."


def strip(verdict: Verdict) -> None:
    """Show the verdict with its reason, and whether accuracy and ranking disagree."""
    verdicts.headline(verdict)
    if verdict.disagreement:
        st.markdown(
            ":orange[:material/warning:] Accuracy and ranking disagree: it is behind in one of them.",
            help=escaped(verdict.disagreement, 500),
        )


def tiles(run: Run, plans: pd.DataFrame, verdict: Verdict) -> None:
    """Show four numbers about the judged migration."""
    row = plans[plans["method"] == verdict.method].iloc[0]
    base = plans[plans["is_baseline"].astype(bool)].iloc[0]
    task = run.summary["task"]
    columns = st.columns(4)
    for column, (aspect, prefix) in zip(
        columns, (("level", "kept"), ("ranking", "ranking")), strict=False
    ):
        name = comparisons.aspect_label(task, aspect).partition(" (")[0]
        warns = aspect == "ranking" and bool(verdict.disagreement)
        over = comparisons.REFERENCES.get(row["reference"], "")
        text = f"against {over}" if over else "no sure gain to keep a share of"
        low, high = row[f"{prefix}_low"], row[f"{prefix}_high"]
        if not math.isnan(low):
            text = f"{100 * low:.0f} to {100 * high:.0f} %, {text}"
        metric = METRICS[comparisons.ASPECTS[aspect][task]].label
        _tile(
            column,
            f"{name[:1].upper()}{name[1:]} kept",
            _percent(row[prefix]),
            f"{':orange[:material/warning:] ' if warns else ''}{text}",
            f"Measured in {metric}. {term('share kept')}",
        )
    _tile(columns[2], *cost(row, base))
    _tile(columns[3], *worse_off(run, str(row["evaluation"])))


def cost(row: pd.Series, base: pd.Series) -> tuple[str, str, str, str]:
    """Return the cost tile: arithmetic of the trainings first, seconds beside it."""
    seconds = f"{formatting.duration(row['seconds'])} of {formatting.duration(base['seconds'])}"
    time = f"{_percent(row['seconds'] / base['seconds'])} of its time: {seconds}"
    about = (
        "Arithmetic: operations of the trainings, which do not depend on how busy the machine is. "
        "Time: measured seconds, with selection and mapping. Source prompts exist before both."
    )
    if pd.isna(row["flops"]) or pd.isna(base["flops"]) or not base["flops"] > 0:
        return (
            "Time, of full retraining's",
            _percent(row["seconds"] / base["seconds"]),
            seconds,
            about,
        )
    return "Arithmetic, of full retraining's", _percent(row["flops"] / base["flops"]), time, about


def worse_off(run: Run, evaluation: str) -> tuple[str, str, str, str]:
    """Return the tile of people who are surely worse off than with retraining."""
    effects = summary.effects(run, evaluation)
    label, about = "People surely worse off", term("regress")
    if effects is None:
        return label, "–", "predictions are gone; evaluate again", about
    sure, likely = (len(effects.worse(level)) for level in (user_impact.SURE, summary.LIKELY))
    text = f"of {effects.users:,}; a further {likely - sure:,} probably are"
    return label, f"{sure:,}", text, f"Surely: with {user_impact.SURE:.0%} or more. {about}"


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.0f} %"


def _tile(column: object, label: str, value: str, text: str, about: str) -> None:
    with column.container(border=True, gap="xxsmall", height="stretch"):  # type: ignore[attr-defined]
        st.metric(label, value, help=about)
        st.caption(text)


def fine_print(run: Run, plans: pd.DataFrame, asked: Question, verdict: Verdict) -> str:
    """Say what methods without a language model reach, over how many seeds, and what disagrees.

    It is markdown; names in it are escaped.
    """
    simple = plans[(plans["kind"] == "baseline") & plans["kept"].notna()]
    simple = simple.sort_values("kept", ascending=False).head(2)
    level, ranking = (
        comparisons.aspect_label(run.summary["task"], aspect).partition(" (")[0]
        for aspect in ("level", "ranking")
    )
    parts = []
    for row in simple.itertuples():
        order = "" if pd.isna(row.ranking) else f" and {_percent(row.ranking)} of the {ranking}"
        parts.append(f"{row.method} keeps {_percent(row.kept)} of the {level}{order}")
    text = f"Without any language model, {'; '.join(parts)}. " if parts else ""
    seeds = (
        "One seed: intervals are over users, not over trainings."
        if asked.seeds <= 1
        else f"{asked.seeds} seeds."
    )
    caution = f" Caution: {verdict.disagreement}" if verdict.disagreement else ""
    return escaped(f"{text}{seeds}{caution}", 2000)


def accepted(task: str, points: tuple[Breakpoint, ...]) -> float:
    """Draw the slider of the accepted error, and where the verdict changes; return it as a share.

    It is in the address, as on the page of the evidence.
    """
    metric = METRICS[comparisons.PRIMARY_METRIC[task]]
    lost = f"less {metric.label}" if metric.higher_is_better else "more error"
    percent = st.slider(
        f"I accept up to so much {lost} (%)",
        min_value=0.1,
        max_value=20.0,
        value=100 * comparisons.MARGIN,
        step=0.1,
        format="%.1f %%",
        key="margin",
        bind="query-params",
        help=term("margin"),
    )
    st.text(breakpoint_text(points))
    return float(percent) / 100
