"""Showing a chart: its title, axis labels, look and data download; parts that charts share."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.typing import PlotlyState

from dashboard.components.formatting import escaped, plotly_lines
from dashboard.components.theme import KINDS, NEUTRAL, marker
from dashboard.engine.spreadsheets import without_formulas

Mode = Literal["points", "box", "lasso"]
HEIGHT = 420
MAX_LABEL = 44
REFERENCE_LINE = {"color": NEUTRAL, "dash": "dot"}
CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendDataToCloud", "toImage", "autoScale2d"],
    "plotlyServerURL": "",
    "showEditInChartStudio": False,
    "showSendToCloud": False,
}


def show(
    figure: go.Figure,
    data: pd.DataFrame,
    key: str,
    *,
    title: str,
    x: str = "",
    y: str = "",
    height: int = HEIGHT,
    select: Sequence[Mode] = (),
) -> PlotlyState | None:
    """Show a chart with a menu that downloads its data; return its selection, if any.

    title: plain text, a sentence that states what the chart shows. x, y: axis labels with
    units; empty ones leave the figure's own labels. data: the table to download, one row per
    mark. key: unique on the page and stable; also the file name. select: selection modes such
    as ("lasso",); without any, the chart cannot be selected from.
    """
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": {"text": ""}},
        hoverlabel={"namelength": -1},
    )
    if x:
        figure.update_xaxes(title={"text": x})
    if y:
        figure.update_yaxes(title={"text": y})
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"### {escaped(title, 200)}", width="stretch")
        downloads(data, key)
    chosen = None
    if select:
        chosen = st.plotly_chart(
            figure, key=key, config=CONFIG, alt=title, on_select="rerun", selection_mode=select
        )
    else:
        figure.update_layout(dragmode="zoom", modebar={"remove": ["select2d", "lasso2d"]})
        st.plotly_chart(figure, key=key, config=CONFIG, alt=title)
    return chosen


def downloads(data: pd.DataFrame | Callable[[], pd.DataFrame], key: str) -> None:
    """Show a menu that downloads a table as CSV or Parquet.

    data: the table, or a function that returns it. The file is written when a button is pressed.
    """
    with st.popover("Data", icon=":material/download:", type="tertiary"):
        for name, convert, mime in (
            ("CSV", to_csv, "text/csv"),
            ("Parquet", to_parquet, "application/vnd.apache.parquet"),
        ):
            st.download_button(
                f"Data as {name}",
                lambda convert=convert: convert(data() if callable(data) else data),  # type: ignore[misc]
                f"{key}.{name.lower()}",
                mime,
                key=f"{key}-{name.lower()}",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
            )


def to_csv(data: pd.DataFrame) -> bytes:
    """Return a table as CSV. Texts that a spreadsheet would run as a formula get an apostrophe."""
    return without_formulas(data)[0].to_csv(index=False).encode()


def to_parquet(data: pd.DataFrame) -> bytes:
    """Return a table as Parquet."""
    buffer = io.BytesIO()
    data.to_parquet(buffer, index=False)
    return buffer.getvalue()


def log_ticks(values: pd.Series) -> list[float]:
    """Return the ticks of a logarithmic axis for positive values: powers of ten.

    Over less than two of them, 2, 3 and 5 times each are ticks, too.
    """
    if values.empty:
        return []
    low, high = math.log10(values.min()), math.log10(values.max())
    factors = (1, 2, 3, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [factor * 10.0**power for power in powers for factor in factors]


def error_bars(rows: pd.DataFrame, colour: str, value: str = "value") -> dict[str, object]:
    """Return plotly's error bars from the columns low and high around a value column."""
    return {
        "array": rows["high"] - rows[value],
        "arrayminus": rows[value] - rows["low"],
        "color": colour,
        "thickness": 1.5,
    }


def histogram(bars: pd.DataFrame, colours: str | Sequence[str]) -> go.Figure:
    """Draw the number of users in each bin; bars: from, to and users."""
    return go.Figure(
        go.Bar(
            x=(bars["from"] + bars["to"]) / 2,
            y=bars["users"],
            width=bars["to"] - bars["from"],
            marker={"color": colours, "line": {"width": 0}},
            customdata=bars[["from", "to"]].to_numpy(),
            hovertemplate="%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{y:,} users<extra></extra>",
            showlegend=False,
        )
    )


def interval_figure(rows: pd.DataFrame, reference: float | None) -> go.Figure:
    """Draw one line per method with its interval, and a dotted line at the reference value.

    rows: method, kind, value, low and high, from top to bottom.
    """
    figure = go.Figure()
    rows = rows.iloc[::-1]
    names = [plotly_lines(name) for name in rows["method"]]
    rows = rows.assign(label=names)
    for kind in [kind for kind in KINDS if kind in set(rows["kind"])]:
        of_kind = rows[rows["kind"] == kind]
        figure.add_scatter(
            x=of_kind["value"],
            y=of_kind["label"],
            mode="markers",
            name=KINDS[kind].label,
            marker=marker(kind, size=10),
            error_x=error_bars(of_kind, KINDS[kind].colour),
            hovertemplate="%{y}<br>%{x:.4f}<extra></extra>",
        )
    if reference is not None:
        figure.add_vline(x=reference, line=REFERENCE_LINE)
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    figure.update_layout(showlegend=False)
    return figure
