"""Summary: the question, the decision that follows from the accepted error, tiles, fine print."""

from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, query_params, verdicts
from dashboard.components.formatting import escaped, plotly_text, short, unbroken
from dashboard.components.glossary import term
from dashboard.components.theme import KINDS, NEUTRAL, text_colour
from dashboard.engine import METRICS, Run, comparisons, summary, user_impact
from dashboard.engine.comparisons import Verdict
from dashboard.engine.summary import (
    ComparisonSetup,
    DecisionRange,
    decision_texts,
    label_layout,
)

ABOUT_COST = (
    "Arithmetic: operations of the trainings, which do not depend on how busy the machine is. "
    "Time: measured seconds, with selection and mapping. Source prompts exist before both. Money: "
    "the measured seconds at the price of a device hour, which *Price* above sets."
)
# The bar under the slider: its width in a narrow window, and where the slider's track begins.
BAR_PIXELS, BAR_MARGIN = 330, 8
GAP = 0.004  # between its parts, as a share of its width
# The colour of each decision in it; colour and name in the legend below it.
BAR_COLOURS = {
    "migrate": KINDS["migrated"].colour,
    "refine": KINDS["refined"].colour,
    "reuse": KINDS["refined"].colour,
    "retrain": KINDS["retrained"].colour,
    "undecided": NEUTRAL,
    "incomplete": NEUTRAL,
}
LEGEND = {
    "migrate": ("green", "migrate"),
    "refine": ("violet", "migrate, refine some users"),
    "reuse": ("violet", "reuse and refine"),
    "retrain": ("orange", "retrain"),
    "undecided": ("gray", "not settled"),
    "incomplete": ("gray", "not settled"),
}


def title(setup: ComparisonSetup) -> str:
    """Return the question of a comparison, with names as plain text."""
    source, target = (escaped(name, 40) for name in (setup.source, setup.target))
    return decision_texts.title(replace(setup, source=source, target=target))


def switch(runs: list[Run]) -> Run:
    """Draw the choice of the comparison that is summarised, if there are several; return it.

    runs: finished comparisons, the newest first. By default the newest of this workspace is shown; a
    published one, which was measured elsewhere, is chosen.
    """
    ordered = comparisons.own_first(runs)
    if len(ordered) == 1:
        return ordered[0]
    by_id = {run.id: run for run in ordered}
    labels = {
        run.id: f"{'This workspace' if run.published is None else 'Published'}: "
        f"{short(run.name, 60)}"
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
            "Price of a device hour",
            min_value=0.0,
            max_value=100_000.0,
            value=None,
            step=0.5,
            key="price",
            bind="query-params",
            help="In your currency. The tile of the cost then shows what the measured seconds cost.",
        )
    return float(value) if value else None


def context(run: Run, setup: ComparisonSetup, share: float) -> float | None:
    """Show what was measured, when and where, and links to more; return the price of an hour."""
    parts = [
        setup.data,
        f"{run.summary['rows']:,} held-out records",
        formatting.ago(run.created),
        setup.device and f"on {engine.device(setup.device)}",
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


def show_outlook(run: Run, verdict: Verdict, share: float) -> None:
    """Say how many more seeds would settle a verdict that is not settled. share: the accepted error."""
    if outlook := summary.seeds_outlook(run, verdict, share):
        st.caption(unbroken(outlook))


def strip(verdict: Verdict) -> None:
    """Show the verdict with its reason, what moving changes, and whether accuracy and ranking disagree."""
    verdicts.headline(verdict)
    if (source := verdict.source) is not None:
        mark = ":orange[:material/warning:] " if source.warns else ""
        st.markdown(f"{mark}{unbroken(escaped(source.sentence, 500))}")
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
    for column, aspect in zip(columns, ("level", "ranking"), strict=False):
        metric = decision_texts.metric_of(task, aspect)
        warns = aspect == "ranking" and bool(verdict.disagreement)
        tile = decision_texts.kept_tile(task, row, aspect)
        _show_tile(column, tile, f"Measured in {metric}. {term('share kept')}", warns=warns)
    _show_tile(columns[2], decision_texts.cost_tile(row, base, hour), ABOUT_COST)
    hint = f"Surely: with {decision_texts.percent(user_impact.SURE)} or more. {term('regress')}"
    _show_tile(columns[3], worse_off(run, str(row["evaluation"])), hint)


def worse_off(run: Run, evaluation: str) -> decision_texts.Tile:
    """Return the tile of people who are surely worse off than with retraining."""
    return decision_texts.worse_off_tile(summary.effects(run, evaluation))


def _show_tile(
    column: object, tile: decision_texts.Tile, hint: str, *, warns: bool = False
) -> None:
    with column.container(border=True, gap="xxsmall", height="stretch"):  # type: ignore[attr-defined]
        st.metric(tile.label, tile.value, help=hint)
        mark = ":orange[:material/warning:] " if warns else ""
        st.caption(f"{mark}{unbroken(tile.text)}")


def fine_print(run: Run, plans: pd.DataFrame, setup: ComparisonSetup, verdict: Verdict) -> str:
    """Return what decision_texts.fine_print says of a comparison, as markdown with names escaped."""
    text = decision_texts.fine_print(
        run.summary["task"],
        plans,
        setup.seeds,
        summary.seed_spread(run, plans),
        summary.measured_before(run),
        verdict.disagreement,
    )
    return escaped(text, 2000)


def accepted(run: Run, ranges: tuple[DecisionRange, ...]) -> float:
    """Draw the slider of the accepted error, and what it leads to; return it as a share.

    It is in the address, as on the page of the evidence.
    """
    metric = METRICS[comparisons.PRIMARY_METRIC[run.summary["task"]]]
    lost = f"less {metric.label}" if metric.higher_is_better else "more error"
    most = slider_end(ranges, st.session_state.get("margin") or st.query_params.get("margin"))
    percent = st.slider(
        f"I accept up to this much {lost} (%)",
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
    text = decision_texts.breakpoint_text(ranges)
    brief = decision_texts.breakpoint_text(ranges, decision_texts.MOST_NAMED)
    if ranges:
        figure = decision_bar(ranges, share, most / 100)
        # Hovering names the parts; nothing else can be done with the bar.
        config = {"displayModeBar": False, "doubleClick": False, "showAxisDragHandles": False}
        st.plotly_chart(
            figure, key="decision-bar", config=config, alt=decision_texts.ranges_text(ranges)
        )
        st.caption(bar_legend(ranges, most / 100))
    st.caption(
        unbroken(escaped(brief, 500)), help=unbroken(escaped(text, 2000)) if text != brief else None
    )
    return share


def bar_legend(ranges: tuple[DecisionRange, ...], most: float) -> str:
    """Return what the colours of the bar mean, as markdown, in the order in which they appear."""
    shown = dict.fromkeys(LEGEND[part.decision] for part in ranges if part.low <= most)
    return " · ".join(f":{colour}[■]\u00a0{name}" for colour, name in shown)


def slider_end(ranges: tuple[DecisionRange, ...], requested: object) -> float:
    """Return the largest accepted error that the slider offers, in percent.

    It has room for every recommendation, and for the value of the address.
    """
    try:
        percent = float(str(requested)) if requested is not None else 0.0
    except ValueError:
        percent = 0.0
    return round(100 * decision_texts.slider_max(ranges, percent / 100), 1)


def decision_bar(ranges: tuple[DecisionRange, ...], share: float, max_share: float) -> go.Figure:
    """Draw the decisions over the accepted error as a bar under the slider.

    The borders of its parts have their values, the part of the slider's value is opaque.
    """
    figure = go.Figure()
    step = ranges[0].low
    shown = [
        replace(part, high=min(part.high, max_share)) for part in ranges if part.low <= max_share
    ]
    for part in shown:
        low, width = part.low - step / 2, part.high - part.low + step
        inside = low < share < low + width
        figure.add_bar(
            x=[width - GAP * max_share],
            base=[low],
            y=[0],
            orientation="h",
            marker={"color": BAR_COLOURS[part.decision], "opacity": 1.0 if inside else 0.3},
            hovertemplate=f"{plotly_text(decision_texts.range_text(part), 100)}<extra></extra>",
            showlegend=False,
        )
        label = decision_texts.decision_label(part)
        if width / max_share * BAR_PIXELS > label_layout.CHARACTER * len(label) + 8:
            font = {"size": 12, "color": "white" if inside else text_colour()}
            text = f"<b>{plotly_text(label)}</b>" if inside else plotly_text(label)
            figure.add_annotation(x=low + width / 2, y=0, text=text, font=font, showarrow=False)
    borders: list[float] = []
    for part in shown[1:]:
        # Values of borders that are close to each other would overlap: the first one is written.
        if (
            not borders
            or (part.low - borders[-1]) / max_share * BAR_PIXELS > label_layout.CHARACTER * 6
        ):
            borders.append(part.low)
    figure.update_xaxes(
        range=[step, max_share],
        tickvals=borders,
        ticktext=[summary.format_percent(value) for value in borders],
        showgrid=False,
        zeroline=False,
        ticks="outside",
        ticklen=3,
        tickangle=0,
        automargin=False,
        fixedrange=True,
    )
    figure.update_yaxes(visible=False, fixedrange=True)
    figure.update_layout(
        height=62,
        dragmode=False,
        hovermode="closest",
        barmode="overlay",
        bargap=0,
        margin={"l": BAR_MARGIN, "r": BAR_MARGIN, "t": 6, "b": 30},
    )
    return figure
