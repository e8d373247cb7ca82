"""Studies, view "One study": scores of its methods, and which differences are more than chance."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import CheckboxColumn, NumberColumn, TextColumn

from dashboard.components import figures, page_states, query_params, tables
from dashboard.components.formatting import escaped, percent
from dashboard.components.glossary import term
from dashboard.components.theme import CATEGORIES, NEUTRAL, rank
from dashboard.engine import METRICS, studies

MAX_NOTE = 1000
METHOD = TextColumn("Method", width=270)


def show(report: dict[str, Any], dataset: str) -> None:
    """Draw the report of a study for one of its data sets."""
    st.code(report["command"], language=None)
    st.caption(escaped(f"Made on {report['date']}. {report.get('note', '')}", MAX_NOTE))
    counts = {"not run": len(report["missing"]), "failed": len(report["failed"])}
    if any(counts.values()):
        text = ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)
        page_states.stale(f"Incomplete: {text}. The same command continues with the rest.")
    metric, scores = studies.summary(report, dataset)
    st.header("Results", divider="gray")
    draw = _budgets if studies.reports.compares_budgets(report) else _scores
    draw(report, dataset, metric, scores)
    _differences(report, dataset, metric)


def _scores(report: dict[str, Any], dataset: str, metric: str, scores: pd.DataFrame) -> None:
    """List the mean score of each method over seeds, its spread and its cost."""
    rows = _by_kind(scores)
    st.markdown(f"### Every method: {studies.reports.metric_title(metric)}")
    label = METRICS[metric].label
    columns = {
        "method": METHOD,
        "seeds": NumberColumn("Seeds", help="Number of trainings in the mean."),
        "share": NumberColumn("Share of users", format="%.3g %%"),
        "users trained": NumberColumn("Users trained", format="localized"),
        "seconds": NumberColumn("Seconds (mean)", format="%.1f"),
        metric: NumberColumn(label, format="%.4f"),
        "sd over seeds": NumberColumn(f"SD over seeds ({label})", format="%.4f"),
    }
    for name in rows:
        if name in METRICS and name != metric:
            columns[name] = NumberColumn(METRICS[name].heading, format="%.4f", help=term(name))
        elif " over " in name and name not in columns:
            columns[name] = TextColumn(f"Kept of {name}", help=term("share kept"))
    shown = rows.drop(columns="kind", errors="ignore")
    if "share" in shown:
        shown["share"] = 100 * pd.to_numeric(shown["share"])
    tables.show(shown, columns, height="content")
    figures.downloads(rows, f"study-{report['study']}-{dataset}")


def _by_kind(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("kind", key=lambda kinds: kinds.map(rank), kind="stable")


def _budgets(report: dict[str, Any], dataset: str, metric: str, scores: pd.DataFrame) -> None:
    """Draw the scores of selection strategies over budgets, and list their overall differences."""
    table = studies.budgets(report, dataset)
    key = f"study-budgets-{report['study']}"
    figures.show(
        budget_figure(scores, metric, studies.leading(table, metric)),
        scores,
        key,
        title=f"Every strategy: {studies.reports.metric_title(metric)}",
        x="Share of the users that the adapter was trained on",
        y=f"Mean {METRICS[metric].label} over seeds",
    )
    columns = dict.fromkeys(table, NumberColumn(format="%.4f")) | {
        "method": TextColumn("Strategy", width=150),
        "difference": NumberColumn(
            f"Over all numbers of users ({METRICS[metric].label})",
            format="%+.4f",
            help="Mean difference from random users, in pairs with as many training users and the same seed.",
        ),
        "interval": "95 % over trainings",
        "pairs": "Pairs",
    }
    tables.show(table, columns, height="content")
    figures.downloads(table, f"{key}-table")


def budget_figure(scores: pd.DataFrame, metric: str, leading: list[str]) -> go.Figure:
    """Draw mean scores over shares of users, as in the paper's Figure 3.

    scores: method, share and the metric. leading: the strategies drawn in colour. Random users
    are dotted, the other strategies faint.
    """
    figure = go.Figure()
    styles = {name: {"color": CATEGORIES[n], "width": 3} for n, name in enumerate(leading)}
    styles[studies.RANDOM] = {"color": NEUTRAL, "width": 3, "dash": "dot"}
    # Highlighted lines are drawn last, above the others.
    for name in sorted(scores["method"].unique(), key=lambda name: name in styles):
        rows = scores[scores["method"] == name].sort_values("share")
        figure.add_scatter(
            x=rows["share"],
            y=rows[metric],
            mode="lines+markers" if name in styles else "lines",
            name=name,
            line=styles.get(name, {"color": NEUTRAL, "width": 1}),
            opacity=1.0 if name in styles else 0.45,
            showlegend=name in styles,
            customdata=[percent(share) for share in rows["share"]],
            hovertemplate=f"{name}, %{{customdata}}: %{{y:.4f}}<extra></extra>",
        )
    shares = sorted(scores["share"].unique())
    figure.update_xaxes(type="log", tickvals=shares, ticktext=[percent(share) for share in shares])
    return figure


def _differences(report: dict[str, Any], dataset: str, metric: str) -> None:
    """Draw and list the differences from what the study compares with."""
    rows = _by_kind(studies.differences(report, dataset))
    if rows.empty:
        return
    shares = sorted(rows["share"].dropna().unique())
    if shares:
        labels = {f"{share:g}": f"{percent(share)} of the users" for share in shares}
        chosen = query_params.segment("Users who train it", labels, "share")
        rows = rows[rows["share"] == float(chosen)]
    side = "right" if METRICS[metric].higher_is_better else "left"
    over = rows["over"].iloc[0]
    figures.show(
        figures.interval_figure(rows, 0.0),
        rows,
        f"study-differences-{report['study']}",
        title=f"Differences from {studies.against(report)}: {side} of zero is better",
        x=f"Difference of test {METRICS[metric].label}<br>(95 % interval over {over})",
        height=120 + 30 * len(rows),
    )
    table = rows[["method", "value", "trainings", "real"]].copy()
    # No -0.0000.
    table["value"] = table["value"].round(4) + 0.0
    if over == "users":
        intervals = zip(rows["low"], rows["high"], strict=True)
        table.insert(2, "users", [f"{low:+.4f} to {high:+.4f}" for low, high in intervals])
    columns = {
        "method": METHOD,
        "value": NumberColumn(f"Difference ({METRICS[metric].label})", format="%+.4f"),
        "users": TextColumn(
            "95 % over users", help="From resampling users: the spread over other users."
        ),
        "trainings": TextColumn(
            "95 % over trainings",
            help="Student's t over the seeds: the spread over other trainings.",
        ),
        "real": CheckboxColumn(
            f"Significant over {over}", help="After Holm's correction for multiple tests."
        ),
    }
    tables.show(table, columns, height="content")
    significant = int(rows["real"].astype(bool).sum())
    st.caption(
        f"{significant} of {len(rows)} differences are significant after Holm's correction for "
        f"multiple tests. Values are means over the seeds, intervals are over {over}."
    )
