"""Summary: the question, the decision that follows from the accepted error, tiles, fine print."""

import math

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, query_params, verdicts
from dashboard.components.formatting import escaped, plotly_text, short
from dashboard.components.glossary import term
from dashboard.components.label_layout import CHARACTER
from dashboard.components.theme import KINDS, NEUTRAL
from dashboard.engine import METRICS, Run, comparisons, summary, user_impact
from dashboard.engine.comparisons import Verdict
from dashboard.engine.summary import Breakpoint, DecisionRange, Question

# Largest values of the slider of the accepted error, in percent.
SLIDER_ENDS = (5.0, 10.0, 20.0)
# The bar under the slider: its width in a narrow window, and where the slider's track begins.
BAR_PIXELS, BAR_MARGIN = 330, 8
GAP = 0.004  # between its parts, as a share of its width
BAR_COLOURS = {
    "migrate": KINDS["migrated"].colour,
    "refine": KINDS["refined"].colour,
    "retrain": KINDS["retrained"].colour,
    "undecided": NEUTRAL,
    "incomplete": NEUTRAL,
}


def title(asked: Question) -> str:
    """Return the question of a comparison, with names as plain text."""
    source = f" from {escaped(asked.source, 40)}" if asked.source else ""
    target = escaped(asked.target, 40) or "the new model"
    return f"Move {asked.users:,} users{source} to {target}?"


def switch(runs: list[Run]) -> Run:
    """Draw the choice of the comparison that is summarised, if there are several; return it.

    runs: finished comparisons, the newest first. By default the newest of this workspace is shown; a
    published one, which was measured elsewhere, is chosen.
    """
    own = [run for run in runs if run.published is None]
    published = [run for run in runs if run.published is not None]
    ordered = [*own, *published]
    if len(ordered) == 1:
        return ordered[0]
    by_id = {run.id: run for run in ordered}
    labels = {
        run.id: f"{'Published' if run in published else 'This workspace'}: {short(run.name, 60)}"
        for run in ordered
    }
    chosen = query_params.choose(
        "Verdict shown",
        list(by_id),
        "comparison",
        labels=labels,
        follows=True,
        label_visibility="collapsed",
    )
    return by_id[chosen]


def price() -> float | None:
    """Draw the price of an hour of the device, which is in the address; None where none is set."""
    with st.popover("Price", icon=":material/payments:", type="tertiary"):
        value = st.number_input(
            "Price of an hour on the device",
            min_value=0.0,
            max_value=100_000.0,
            value=None,
            step=0.5,
            key="price",
            bind="query-params",
            help="In your currency. The tile of the cost then shows what the measured seconds cost.",
        )
    return float(value) if value else None


def context(run: Run, asked: Question, share: float) -> float | None:
    """Show what was measured, when and where, and links to more; return the price of an hour."""
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
        return price()


def breakpoint_text(points: tuple[Breakpoint, ...]) -> str:
    """Say from which accepted error on which migration is recommended."""
    if not points:
        return "No migration is recommended at any accepted error."
    # Of migrations that one step of the slider admits together, the last is the cheapest.
    methods = {summary.round_up_percent(point.margin): point.method for point in points}
    parts = [
        f"{method} {f'from {summary.format_percent(margin)}' if margin else 'always'}"
        for margin, method in methods.items()
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


def tiles(run: Run, plans: pd.DataFrame, verdict: Verdict, hour: float | None = None) -> None:
    """Show four numbers about the judged migration. hour: the price of an hour of the device."""
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
    _tile(columns[2], *cost(row, base, hour))
    _tile(columns[3], *worse_off(run, str(row["evaluation"])))


def cost(row: pd.Series, base: pd.Series, hour: float | None = None) -> tuple[str, str, str, str]:
    """Return the cost tile: arithmetic of the trainings first, seconds and their price beside it."""
    seconds = f"{formatting.duration(row['seconds'])} of {formatting.duration(base['seconds'])}"
    money = ""
    if hour is not None:
        own, whole = (hour * float(line["seconds"]) / 3600 for line in (row, base))
        money = f"; {own:,.2g} of {whole:,.2g} in money"
    time = f"{_percent(row['seconds'] / base['seconds'])} of its time: {seconds}{money}"
    about = (
        "Arithmetic: operations of the trainings, which do not depend on how busy the machine is. "
        "Time: measured seconds, with selection and mapping. Source prompts exist before both. Money: "
        "the measured seconds at the price of an hour that you set."
    )
    if pd.isna(row["flops"]) or pd.isna(base["flops"]) or not base["flops"] > 0:
        return (
            "Time, of full retraining's",
            _percent(row["seconds"] / base["seconds"]),
            f"{seconds}{money}",
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
    spread = summary.seed_spread(run)
    if spread is not None:
        count, trained, most = spread
        plans_text = "one plan" if count == 1 else f"{count} plans"
        seeds += (
            f" Trainings of {plans_text} with {trained} seeds are up to "
            f"{summary.format_percent(most)} apart."
        )
    shipped = summary.measured_before(run)
    if shipped:
        methods = "1 method was" if shipped == 1 else f"{shipped} methods were"
        seeds += f" {methods} measured before, elsewhere, and published."
    caution = f" Caution: {verdict.disagreement}" if verdict.disagreement else ""
    return escaped(f"{text}{seeds}{caution}", 2000)


def accepted(run: Run, points: tuple[Breakpoint, ...]) -> float:
    """Draw the slider of the accepted error, and what it leads to; return it as a share.

    It is in the address, as on the page of the evidence.
    """
    metric = METRICS[comparisons.PRIMARY_METRIC[run.summary["task"]]]
    lost = f"less {metric.label}" if metric.higher_is_better else "more error"
    most = slider_end(points, st.session_state.get("margin") or st.query_params.get("margin"))
    percent = st.slider(
        f"I accept up to so much {lost} (%)",
        min_value=0.1,
        max_value=most,
        value=100 * comparisons.MARGIN,
        step=0.1,
        format="%.1f %%",
        key="margin",
        bind="query-params",
        help=term("margin"),
    )
    share = float(percent) / 100
    ranges = summary.ranges(engine.root(), run.id, most / 100)
    text = breakpoint_text(points)
    if ranges:
        figure = decision_bar(ranges, share, most / 100)
        st.plotly_chart(figure, key="decision-bar", config={"staticPlot": True}, alt=text)
    st.caption(escaped(text, 500))
    return share


def slider_end(points: tuple[Breakpoint, ...], given: object) -> float:
    """Return the largest accepted error that the slider offers, in percent.

    It has room for every breakpoint, and for the value of the address.
    """
    try:
        wanted = float(str(given)) if given is not None else 0.0
    except ValueError:
        wanted = 0.0
    wanted = max([wanted, *(110 * point.margin for point in points)])
    return next((end for end in SLIDER_ENDS if wanted <= end), SLIDER_ENDS[-1])


def decision_bar(ranges: tuple[DecisionRange, ...], share: float, most: float) -> go.Figure:
    """Draw the decisions over the accepted error as a bar under the slider.

    The borders of its parts have their values, the part of the slider's value is opaque.
    """
    figure = go.Figure()
    step = ranges[0].low
    for part in ranges:
        low, width = part.low - step / 2, part.high - part.low + step
        here = low < share < low + width
        figure.add_bar(
            x=[width - GAP * most],
            base=[low],
            y=[0],
            orientation="h",
            marker={"color": BAR_COLOURS[part.decision], "opacity": 1.0 if here else 0.3},
            hoverinfo="skip",
            showlegend=False,
        )
        label = decision_label(part)
        if width / most * BAR_PIXELS > CHARACTER * len(label) + 8:
            font = {"size": 12} | ({"color": "white"} if here else {})
            text = f"<b>{plotly_text(label)}</b>" if here else plotly_text(label)
            figure.add_annotation(x=low + width / 2, y=0, text=text, font=font, showarrow=False)
    borders: list[float] = []
    for part in ranges[1:]:
        # Values of borders that are close to each other would overlap: the first one is written.
        if not borders or (part.low - borders[-1]) / most * BAR_PIXELS > CHARACTER * 6:
            borders.append(part.low)
    figure.update_xaxes(
        range=[step, most],
        tickvals=borders,
        ticktext=[summary.format_percent(value) for value in borders],
        showgrid=False,
        zeroline=False,
        ticks="outside",
        ticklen=3,
        tickangle=0,
        automargin=False,
    )
    figure.update_yaxes(visible=False, fixedrange=True)
    figure.update_layout(
        height=62,
        barmode="overlay",
        bargap=0,
        margin={"l": BAR_MARGIN, "r": BAR_MARGIN, "t": 6, "b": 30},
    )
    return figure


def decision_label(part: DecisionRange) -> str:
    """Return a short name of a decision: what is chosen, or that it is open."""
    who = part.method.removeprefix("Migration trained on ").removeprefix("Migration ")
    return {
        "migrate": who[:1].upper() + who[1:],
        "refine": f"{who[:1].upper()}{who[1:]}, some refined",
        "retrain": "Retrain",
    }.get(part.decision, "Not settled")
