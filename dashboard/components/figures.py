"""One way to show a chart: what to see as its title, its axes, its look, and its data to take."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.typing import PlotlyState

from dashboard.components.formatting import escaped

Mode = Literal["points", "box", "lasso"]
HEIGHT = 420
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
    """Show a chart and a button that gives its data; return its selection if it has one.

    title: a sentence that says what to see; plain text. x, y: axis labels with units
    (those that the figure has stay where these are empty). data: what the download holds, a
    row for each thing drawn. key: stable and unique on the page; also the name of the file.
    select: ways of selecting points, such as ("lasso",); without one the chart only shows.
    """
    style(figure, x=x, y=y, height=height)
    st.markdown(f"##### {escaped(title, 200)}")
    chosen = None
    if select:
        chosen = st.plotly_chart(
            figure, key=key, config=CONFIG, alt=title, on_select="rerun", selection_mode=select
        )
    else:
        _drop_selection_tools(figure)
        st.plotly_chart(figure, key=key, config=CONFIG, alt=title)
    downloads(data, key)
    return chosen


def style(figure: go.Figure, *, x: str = "", y: str = "", height: int = HEIGHT) -> go.Figure:
    """Give a figure axis labels, margins and a legend above; colours follow the page's theme."""
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
    return figure


def downloads(data: pd.DataFrame | Callable[[], pd.DataFrame], key: str) -> None:
    """Two quiet buttons that give a table as CSV or as Parquet, made when they are pressed.

    data: the table, or a function that makes it.
    """
    with st.container(horizontal=True, horizontal_alignment="right"):
        for form, make, mime in (
            ("CSV", to_csv, "text/csv"),
            ("Parquet", to_parquet, "application/vnd.apache.parquet"),
        ):
            st.download_button(
                f"Data as {form}",
                lambda make=make: make(data() if callable(data) else data),  # type: ignore[misc]
                f"{key}.{form.lower()}",
                mime,
                key=f"{key}-{form.lower()}",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
            )


def to_csv(data: pd.DataFrame) -> bytes:
    """Return a table as CSV; text that a spreadsheet would run as a formula is disarmed."""
    safe = data.copy()
    for name in safe.select_dtypes(include=["object", "string"]):
        safe[name] = safe[name].map(_disarmed)
    return safe.to_csv(index=False).encode()


def to_parquet(data: pd.DataFrame) -> bytes:
    """Return a table as Parquet."""
    buffer = io.BytesIO()
    data.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _disarmed(value: Any) -> Any:
    risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if risky else value


def _drop_selection_tools(figure: go.Figure) -> None:
    figure.update_layout(dragmode="zoom", modebar={"remove": ["select2d", "lasso2d"]})
