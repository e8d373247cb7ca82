"""Compare: three sentences about the judged migration, and every method's difference from the baseline."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine
from dashboard.components import figures, summary_decision
from dashboard.components.compare_methods import in_order
from dashboard.components.formatting import mid_sentence, plotly_lines, short, unbroken
from dashboard.components.theme import DIFFERENCE_COLOURS, KINDS, NEUTRAL
from dashboard.engine import METRICS, Run, comparisons, summary
from dashboard.engine.comparisons import Verdict
from dashboard.engine.summary import decision_texts

# Methods whose differences may be too large to be drawn to scale with those of the others.
CONTROLS = ("random", "shuffled")
MARKS = {"better": "circle", "worse": "circle", "open": "circle-open"}


def show_sentences(run: Run, plans: pd.DataFrame, verdict: Verdict) -> None:
    """Say of the judged migration what it keeps and costs and who is worse off, and what moving changes."""
    migration = plans[plans["method"] == verdict.method]
    base = plans[plans["is_baseline"].astype(bool)]
    if migration.empty or base.empty:
        return
    row = migration.iloc[0]
    for sentence in (
        kept_sentence(run.summary["task"], row),
        cost_sentence(row, base.iloc[0]),
        people_sentence(run, str(row["evaluation"])),
        *((verdict.source.sentence,) if verdict.source else ()),
    ):
        st.text(unbroken(sentence))


def kept_sentence(task: str, row: pd.Series) -> str:
    """Say what a migration keeps of full retraining's gains in level and ranking."""
    over = comparisons.REFERENCES.get(row["reference"], "")
    parts = []
    for aspect, prefix in (("level", "kept"), ("ranking", "ranking")):
        if math.isnan(row[prefix]):
            continue
        low, high = row[f"{prefix}_low"], row[f"{prefix}_high"]
        interval = "" if math.isnan(low) else f" ({100 * low:.0f} to {100 * high:.0f} %)"
        name = comparisons.aspect_label(task, aspect).partition(" (")[0]
        parts.append(f"{100 * row[prefix]:.0f} % of the {name}{interval}")
    if not parts:
        return "What it keeps of full retraining's gains is not known: no gain is sure."
    return f"It keeps {' and '.join(parts)} that full retraining gains over {over}."


def cost_sentence(row: pd.Series, base: pd.Series) -> str:
    """Say what a migration costs: arithmetic first, then seconds."""
    _, value, text = decision_texts.cost_tile(row, base)
    whose = text.replace("of its", "of full retraining's", 1)
    return f"It takes {value} {whose}."


def people_sentence(run: Run, evaluation: str) -> str:
    """Say how many people are surely worse off than with full retraining."""
    _, value, text = summary_decision.worse_off(run, evaluation)
    if value == "–":
        return f"Who is worse off is not known: {text}."
    return f"{value} {text.replace(';', ' people are surely worse off than with full retraining;', 1)}."


def show(run: Run, margin: float) -> None:
    """Draw the differences of all methods from the pinned baseline. margin: the accepted share."""
    methods, scores = comparisons.tables(engine.root(), run.id)
    metric = comparisons.PRIMARY_METRIC[run.summary["task"]]
    of_metric = scores[scores["metric"] == metric].drop(columns="kind")
    rows = relative(in_order(methods).merge(of_metric, on="method"), metric)
    if rows["change"].notna().sum() < 1:
        return
    noun = "error" if not METRICS[metric].higher_is_better else METRICS[metric].label
    worse = "right" if not METRICS[metric].higher_is_better else "left"
    base = rows.loc[rows["is_baseline"].astype(bool), "method"]
    figures.show(
        difference_figure(rows, margin if METRICS[metric].higher_is_better is False else -margin),
        rows[["method", "kind", "value", "change", "change_low", "change_high", "outcome"]],
        "method-differences",
        title=f"Difference of {noun} from {mid_sentence(short(base.iloc[0], 60))}: {worse} of zero is worse",
        x=f"Difference of {METRICS[metric].label} (%)",
        # Long names have two lines or three.
        height=80 + sum(30 + 12 * plotly_lines(name).count("<br>") for name in rows["method"]),
    )
    st.caption("In % of the baseline's value; the bars are 95 % intervals over users.")


def relative(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Add differences in percent of the baseline's value, and whether they are surely good or bad.

    Columns added: change, change_low, change_high (%, NaN for the baseline) and outcome: better, worse
    or open (the interval includes 0).
    """
    base = rows.loc[rows["is_baseline"].astype(bool), "value"].abs()
    base_value = float(base.iloc[0]) if len(base) and base.iloc[0] > 0 else float("nan")
    table = rows.copy()
    for name, column in (
        ("", "difference"),
        ("_low", "difference_low"),
        ("_high", "difference_high"),
    ):
        table[f"change{name}"] = 100 * table[column].astype(float) / base_value
    above, below = table["change_low"] > 0, table["change_high"] < 0
    good, bad = (above, below) if METRICS[metric].higher_is_better else (below, above)
    table["outcome"] = np.select([good, bad], ["better", "worse"], "open")
    return table


def difference_figure(rows: pd.DataFrame, margin: float) -> go.Figure:
    """Draw a line a method, the baseline on top; colours say whether a difference is sure.

    rows: of `relative`, from top to bottom. margin: the accepted share, negative where less is worse;
    the band between it and zero is shaded. Controls beyond the other methods are drawn at the border,
    with an arrow and their value.
    """
    figure = go.Figure()
    low, high = _reach(rows, margin)
    names = [plotly_lines(name) for name in rows["method"]]
    figure.add_vrect(
        x0=min(0.0, 100 * margin),
        x1=max(0.0, 100 * margin),
        fillcolor=NEUTRAL,
        opacity=0.15,
        line_width=0,
        layer="below",
    )
    for name, row in zip(names, rows.to_dict("records"), strict=True):
        figure.add_scatter(**_trace(name, row, low, high))
    figure.add_vline(x=0, line=figures.REFERENCE_LINE)
    figure.add_annotation(
        x=0,
        y=0,
        yref="paper",
        # Inside the band or, where that is narrow, beyond it, but not across the line at zero.
        xanchor="left" if margin > 0 else "right",
        xshift=4 if margin > 0 else -4,
        yanchor="bottom",
        text="accepted",
        font={"size": 11, "color": NEUTRAL},
        showarrow=False,
    )
    # A grid line of a row would cross the value that is written on it.
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    figure.update_xaxes(range=[low, high], ticksuffix=" %", zeroline=False)
    figure.update_layout(showlegend=False)
    return figure


def _trace(name: str, row: dict[Any, Any], low: float, high: float) -> dict[str, Any]:
    """Return one method's mark with its interval and its value as text."""
    if row["is_baseline"] or pd.isna(row["change"]):
        mark = {"symbol": KINDS[row["kind"]].symbol, "size": 11, "color": KINDS[row["kind"]].colour}
        return {
            "x": [0.0],
            "y": [name],
            "mode": "markers+text",
            "marker": mark,
            "text": ["baseline" if row["is_baseline"] else "not measured"],
            "textposition": "middle right",
            "hoverinfo": "skip",
        }
    colour = DIFFERENCE_COLOURS[row["outcome"]]
    change = float(row["change"])
    outside = change < low or change > high
    interval = "" if outside else f" ({row['change_low']:+.1f} to {row['change_high']:+.1f} %)"
    at = min(max(change, low), high)
    left = at > (low + high) / 2
    mark = {"symbol": MARKS[row["outcome"]], "size": 10, "color": colour}
    if outside:
        mark["symbol"] = "triangle-right" if change > high else "triangle-left"
    return {
        "x": [at],
        "y": [name],
        "mode": "markers+text" if outside else "markers",
        "marker": mark,
        "text": [f"{change:+.1f} %"],
        "textfont": {"color": colour},
        "textposition": "middle left" if left else "middle right",
        "cliponaxis": False,
        "error_x": None
        if outside
        else {
            "array": [row["change_high"] - change],
            "arrayminus": [change - row["change_low"]],
            "color": colour,
            "thickness": 2,
        },
        "hovertemplate": f"{name}: {change:+.2f} %{interval}<extra></extra>",
    }


def _reach(rows: pd.DataFrame, margin: float) -> tuple[float, float]:
    """Return the ends of the axis: of all methods but the controls, and of the accepted band."""
    shown = rows[~rows["kind"].isin(CONTROLS)]
    shown = shown if shown["change"].notna().any() else rows
    bounds = pd.concat([shown["change_low"], shown["change_high"]]).dropna().tolist()
    # Baselines that know nobody are as far as the controls; they may not squeeze the rest.
    plans = rows[rows["kind"].isin(("source", *summary.MIGRATED))]
    of_plans = pd.concat([plans["change_low"], plans["change_high"]]).dropna()
    if len(of_plans):
        limit = 1.2 * max(float(of_plans.abs().max()), abs(100 * margin))
        bounds = [min(max(value, -limit), limit) for value in bounds]
    bounds += [0.0, 100 * margin]
    space = 0.08 * (max(bounds) - min(bounds) or 1.0)
    return min(bounds) - space, max(bounds) + space
