"""Compare, view "Methods and costs": every metric of every method, and quality against cost."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn

from dashboard import engine
from dashboard.components import figures, query_params, tables
from dashboard.components.formatting import percent, short
from dashboard.components.glossary import term
from dashboard.components.theme import KINDS, difference_texts, marker, rank
from dashboard.engine import METRICS, Run, comparisons
from dashboard.engine.summary import decision_texts

TIME, OF_BASELINE = "Time (s)", "Time against baseline"


def show(run: Run) -> None:
    """Draw the view of a comparison."""
    methods, scores = comparisons.tables(engine.root(), run.id)
    methods = in_order(methods)
    task = run.summary["task"]
    primary = comparisons.PRIMARY_METRIC[task]
    first = (primary, comparisons.RANKING_METRIC[task])
    metrics = list(dict.fromkeys([*first, *comparisons.metrics_of(task)]))
    measured = [name for name in metrics if name in set(scores["metric"])]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label, explanation = "Differences from the baseline", term("difference")
        differences = st.toggle(label, key="differences", bind="query-params", help=explanation)
        intervals = st.toggle("Intervals", value=True, key="intervals", bind="query-params")
    columns = {METRICS[name].heading: TextColumn(help=term(name)) for name in metrics}
    columns |= {
        OF_BASELINE: TextColumn(help="Seconds as a share of the pinned baseline's seconds."),
        "Users trained": NumberColumn(help=term("budget")),
        "Method": TextColumn(width=340, pinned=True),
        TIME: NumberColumn(
            format="%.1f",
            help="Measured seconds. For fitted prompts: training. For a migration: selection, "
            "training of the adapter and mapping. Without a language model: prediction.",
        ),
    }
    table = metric_table(methods, scores, metrics, differences=differences, intervals=intervals)
    styled = table.style.apply(lambda _: text_colours(table, scores, metrics), axis=None)
    tables.show(styled if differences else table, columns, height="content")
    st.caption(
        f"{run.summary['users']:,} users, {run.summary['rows']:,} rows of the "
        f"{run.summary['split']} split. 95 % intervals are from resampling users. The pinned "
        "baseline is marked."
    )
    shares = share_table(methods, comparisons.shares(engine.root(), run.id), task)
    if len(shares):
        aspects = [comparisons.aspect_label(task, aspect) for aspect in comparisons.ASPECTS]
        explanation = f"{term('share kept')} Measured here: {' and '.join(aspects)}."
        st.markdown("### What is kept of full retraining's gains", help=explanation)
        tables.show(shares, {"Method": TextColumn(width=340, pinned=True)}, height="content")
    costs = methods.drop(columns="kind")
    costs = scores.merge(costs, on="method", how="left", validate="many_to_one")
    figures.downloads(costs, "methods")
    metric = query_params.choose(
        "Metric of the figure",
        measured,
        "metric",
        labels={name: METRICS[name].axis for name in measured},
        default=primary,
        width=320,
    )
    every = methods.merge(scores[scores["metric"] == metric].drop(columns="kind"), on="method")
    rows, arithmetic = comparisons.summaries.with_costs(every)
    figures.show(
        cost_figure(rows, metric, arithmetic=arithmetic),
        every,
        "cost",
        title="Quality and cost: no method is both better and cheaper than those on the dotted line",
        x="Arithmetic in % of the baseline's (log scale)"
        if arithmetic
        else "Seconds to make the prompts (log scale)",
        y=METRICS[metric].axis,
        height=max(300, 60 + 38 * len(rows)),
    )
    if len(rows) < len(every):
        st.caption(
            "Arithmetic is that of the trainings. It decides what is cheaper, since it does not depend on how busy the machine is. "
            "Methods that nothing was trained for, such as those without a language model, are in the "
            "table alone."
        )


def cost_figure(rows: pd.DataFrame, metric: str, *, arithmetic: bool) -> go.Figure:
    """Draw quality with its interval against cost, and the Pareto frontier.

    rows: of `puma_engine.evaluation.summaries.with_costs`. arithmetic: whether costs are in percent of
    the baseline's arithmetic, else in seconds.
    """
    figure = go.Figure()
    frontier = comparisons.summaries.frontier(rows, metric)
    paid = "for %{x:.3g} % of the arithmetic" if arithmetic else "after %{x:.3g} s"
    figure.add_scatter(
        x=frontier["cost"],
        y=frontier["value"],
        mode="lines",
        name="Frontier",
        line=figures.REFERENCE_LINE | {"shape": "hv"},
        hoverinfo="skip",
    )
    for kind in [kind for kind in KINDS if kind in set(rows["kind"])]:
        of_kind = rows[rows["kind"] == kind]
        figure.add_scatter(
            x=of_kind["cost"],
            y=of_kind["value"],
            mode="markers",
            name=KINDS[kind].label,
            marker=marker(kind, size=11),
            error_y=figures.error_bars(of_kind, KINDS[kind].colour),
            customdata=[[short(name, figures.MAX_LABEL)] for name in of_kind["method"]],
            hovertemplate=f"%{{customdata[0]}}<br>%{{y:.4f}} {paid}<extra></extra>",
        )
    ticks = figures.log_ticks(rows["cost"][rows["cost"] > 0])
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])
    return figure


def in_order(methods: pd.DataFrame) -> pd.DataFrame:
    """Return methods with the baseline first, then by kind; within a kind by users who train, then by seconds."""
    pinned = ~methods["is_baseline"].astype(bool)
    order = methods.assign(pinned=pinned, rank=methods["kind"].map(rank))
    order = order.sort_values(["pinned", "rank", "users_trained", "seconds"], ignore_index=True)
    return order.drop(columns=["pinned", "rank"])


def metric_table(
    methods: pd.DataFrame,
    scores: pd.DataFrame,
    metrics: list[str],
    *,
    differences: bool,
    intervals: bool,
) -> pd.DataFrame:
    """Return one row per method with texts of its metrics, or of its differences.

    intervals: whether each text has its 95 % interval.
    """

    def cell(score: object) -> str:
        if score is None:
            return "not measured"
        names = ("value", "low", "high")
        if differences:
            names = ("difference", "difference_low", "difference_high")
        value, low, high = (float(getattr(score, name)) for name in names)
        if pd.isna(value):
            return "reference" if differences else "undefined"
        form = "+.4f" if differences else ".4f"
        return f"{value:{form}} [{low:{form}}, {high:{form}}]" if intervals else f"{value:{form}}"

    cells = {(row.method, row.metric): row for row in scores.itertuples()}
    baseline = methods.loc[methods["is_baseline"].astype(bool), "seconds"]
    rows = []
    for item in methods.itertuples():
        row = {"Method": item.method, "Pinned": "baseline" if item.is_baseline else ""}
        texts = {METRICS[name].heading: cell(cells.get((item.method, name))) for name in metrics}
        first = METRICS[metrics[0]].heading
        row |= {first: texts.pop(first), TIME: float(item.seconds)}
        row[OF_BASELINE] = percent(item.seconds / baseline.iloc[0]) if len(baseline) else ""
        row |= texts | {"Users trained": _whole(item.users_trained)}
        row |= {
            "Model": item.backbone or "",
            "Seed": _whole(item.seed),
            "Device": engine.device(item.device) if isinstance(item.device, str) else None,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def text_colours(table: pd.DataFrame, scores: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return the colour of each cell of a table of differences as CSS: of those that are sure.

    table: of `metric_table`.
    """
    styles = pd.DataFrame("", index=table.index, columns=table.columns)
    shades = difference_texts()
    cells = {(row.method, row.metric): row for row in scores.itertuples()}
    for index, method in table["Method"].items():
        for metric in metrics:
            score = cells.get((method, metric))
            if score is None or pd.isna(score.difference_low):
                continue
            surely_more, surely_less = score.difference_low > 0, score.difference_high < 0
            if surely_more or surely_less:
                is_better = surely_more == METRICS[metric].higher_is_better
                shade = shades["better" if is_better else "worse"]
                styles.loc[index, METRICS[metric].heading] = f"color: {shade}"
    return styles


def share_table(methods: pd.DataFrame, shares: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return one row a method with texts of what it keeps of full retraining's gains.

    shares: the table of `puma_engine.evaluation.shares_kept`; one column a reference and aspect.
    """
    cells = {(row.method, row.reference, row.aspect): row for row in shares.itertuples()}

    def cell(row: Any) -> str:
        if row is None:
            return ""
        if pd.isna(row.gain):
            return "undefined"
        if pd.isna(row.share):
            return "no sure gain"
        if pd.isna(row.share_low):
            return percent(row.share)
        return f"{percent(row.share)} [{percent(row.share_low)}, {percent(row.share_high)}]"

    columns = {
        f"{decision_texts.aspect_name(task, aspect)} over {name}": (reference, aspect)
        for reference, name in comparisons.REFERENCES.items()
        if reference in set(shares["reference"])
        for aspect in comparisons.ASPECTS
    }
    rows = [
        {"Method": method}
        | {
            label[:1].upper() + label[1:]: cell(cells.get((method, *key)))
            for label, key in columns.items()
        }
        for method in methods["method"]
        if method in set(shares["method"])
    ]
    return pd.DataFrame(rows)


def _whole(value: object) -> int | None:
    return None if pd.isna(value) else int(value)  # type: ignore[call-overload, arg-type]


def score_columns(metric: str) -> dict[str, Any]:
    """Return the column configuration of a metric, its interval and seconds."""
    value = NumberColumn(format="%.4f")
    columns = dict.fromkeys((metric, "95 % from", "95 % to"), value)
    return columns | {TIME: NumberColumn(format="%.1f")}
