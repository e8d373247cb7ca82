"""Methods x metrics of a comparison, and what quality costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import compare_figures, figures, query_params
from dashboard.components.glossary import term
from dashboard.components.theme import rank
from dashboard.engine import METRICS, Run, comparisons


def show(run: Run) -> None:
    """Draw the section."""
    methods, scores = comparisons.tables(engine.root(), run.id)
    methods = ordered(methods)
    primary = comparisons.PRIMARY_METRIC[run.summary["task"]]
    known = list(dict.fromkeys([primary, *scores["metric"]]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        differences = st.toggle(
            "Differences from the baseline",
            key="differences",
            bind="query-params",
            help=term("difference"),
        )
        exact = st.toggle("Intervals", value=True, key="intervals", bind="query-params")
    table = metric_table(methods, scores, known, differences=differences, exact=exact)
    st.dataframe(
        table, hide_index=True, height="content", placeholder="–", column_config=_columns(known)
    )
    st.caption(
        f"{run.summary['users']:,} users, {run.summary['rows']:,} rows of the {run.summary['split']} "
        "split; 95 % intervals from resampling users; the pinned baseline is marked."
    )
    figures.downloads(wide(methods, scores), "methods")
    metric = query_params.choose(
        "Metric of the figures",
        known,
        "metric",
        labels={name: METRICS[name].axis for name in known},
        default=primary,
        width=320,
    )
    chosen = scores[scores["metric"] == metric].drop(columns="kind")
    _figures(methods.merge(chosen, on="method"), metric)


def _figures(rows: pd.DataFrame, metric: str) -> None:
    """Every method with its interval, and what quality costs, side by side."""
    pinned = rows.loc[rows["is_baseline"].astype(bool), "value"]
    side = "right" if METRICS[metric].higher_is_better else "left"
    left, right = st.columns(2)
    with left:
        figures.show(
            compare_figures.intervals(rows, float(pinned.iloc[0]) if len(pinned) else None),
            rows,
            "quality",
            title=f"How good each method is: {side} of the dotted line beats the baseline",
            x=METRICS[metric].axis,
            height=max(300, 60 + 38 * len(rows)),
        )
    with right:
        figures.show(
            compare_figures.cost_quality(rows, metric),
            rows,
            "cost",
            title="What quality costs: methods off the dotted line are beaten in both",
            x="Measured seconds to make the prompts (log scale)",
            y=METRICS[metric].axis,
            height=max(300, 60 + 38 * len(rows)),
        )


def ordered(methods: pd.DataFrame) -> pd.DataFrame:
    """Return methods in the order that kinds have everywhere, cheap ones first within a kind."""
    order = methods.assign(place=methods["kind"].map(rank))
    return order.sort_values(["place", "seconds"], ignore_index=True).drop(columns="place")


def metric_table(
    methods: pd.DataFrame,
    scores: pd.DataFrame,
    known: list[str],
    *,
    differences: bool,
    exact: bool,
) -> pd.DataFrame:
    """One row a method as people read it: every metric, or its difference, with intervals."""
    cells = {(row.method, row.metric): row for row in scores.itertuples()}
    base = methods.loc[methods["is_baseline"].astype(bool), "seconds"]
    rows = []
    for item in methods.itertuples():
        row = {"Method": item.method, "Pinned": "baseline" if item.is_baseline else ""}
        scored = {
            METRICS[metric].heading: _cell(cells.get((item.method, metric)), differences, exact)
            for metric in known
        }
        main = METRICS[known[0]].heading
        row |= {main: scored.pop(main), "Seconds": float(item.seconds)}
        row["Time"] = f"{item.seconds / base.iloc[0]:.0%}" if len(base) else ""
        row |= scored | {"Users trained": _whole(item.users_trained)}
        row |= {"Backbone": item.backbone or "", "Seed": _whole(item.seed), "Device": item.device}
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(score: object, differences: bool, exact: bool) -> str:
    if score is None:
        return ""
    start = "difference" if differences else "value"
    names = (start, *(("difference_low", "difference_high") if differences else ("low", "high")))
    value, low, high = (float(getattr(score, name)) for name in names)
    if pd.isna(value):
        return "reference"
    form = "+.4f" if differences else ".4f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]" if exact else f"{value:{form}}"


def _whole(value: object) -> int | None:
    return None if pd.isna(value) else int(value)  # type: ignore[call-overload, arg-type]


def wide(methods: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Every number of a comparison, a row a method and metric."""
    costs = methods.drop(columns=["kind"])
    return scores.merge(costs, on="method", how="left", validate="many_to_one")


def digits(metric: str) -> dict[str, Any]:
    """How a table shows a metric, the ends of its interval, and seconds."""
    value = st.column_config.NumberColumn(format="%.4f")
    return dict.fromkeys((metric, "95 % from", "95 % to"), value) | {
        "Seconds": st.column_config.NumberColumn(format="%.1f")
    }


def _columns(known: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        METRICS[name].heading: st.column_config.TextColumn(help=term(name)) for name in known
    }
    return config | {
        "Time": st.column_config.TextColumn(help="Seconds as a share of the pinned baseline's."),
        "Users trained": st.column_config.NumberColumn(help=term("budget")),
        "Method": st.column_config.TextColumn(width=270),
        "Seconds": st.column_config.NumberColumn(
            format="%.1f",
            help="Measured seconds: of fitting, or of selection, adapter and mapping; of "
            "predicting, for methods without a language model.",
        ),
    }
