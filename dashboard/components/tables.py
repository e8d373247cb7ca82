"""Tables, numbers side by side, and tables from which one row can be selected."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import DatetimeColumn, LineChartColumn, NumberColumn, TextColumn

from dashboard.components import query_params
from dashboard.components.glossary import term

ROW_PIXELS = 33  # also of the header
AUTO_ROWS = 10


def height(rows: int, limit: int | None = None) -> int:
    """Return the pixels of a table. With a fixed height, the page does not jump when it is drawn."""
    full = 2 + ROW_PIXELS * (1 + rows)
    return full if limit is None else min(full, limit)


def show(frame: pd.DataFrame, columns: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Show a table without its index; return its selection event, if any.

    columns: st.dataframe's column_config. more: its other arguments; a height of "content" shows all
    rows, and none AUTO_ROWS at most.
    """
    height_given, rows = more.get("height"), max(len(frame.index), 1)
    if not isinstance(height_given, int):
        more["height"] = height(rows if height_given == "content" else min(rows, AUTO_ROWS))
    return st.dataframe(frame, hide_index=True, placeholder="–", column_config=columns, **more)


def show_prompts(frame: pd.DataFrame, shown: Sequence[str], alt: str) -> None:
    """Show these columns of engine.models.prompt_table."""
    columns = {
        "side": "On",
        "kind": "Kind",
        "name": TextColumn("Name", width=335),
        "users": NumberColumn("Users", format="localized"),
        "trained on": NumberColumn("Users trained", format="localized", help=term("budget")),
        "backbone": TextColumn("Model", help=term("backbone")),
        "data set": "Data set",
        "template": "Template",
        "validation": NumberColumn(
            "RMSE (stars) or log loss",
            format="%.4f",
            help="The best value of the training on the validation records: RMSE of ratings, "
            "log loss of clicks.",
        ),
        "by epoch": LineChartColumn(
            "By epoch",
            width=100,
            help="The value after each epoch, on a scale of its own; lower is better. The best "
            "epoch is kept.",
        ),
        "seconds": NumberColumn("Time (s)", format="%.1f"),
        "created": DatetimeColumn("Made (UTC)", format="YYYY-MM-DD HH:mm"),
    }
    show(frame[shown], columns, alt=alt)


def metrics(values: Mapping[str, tuple[str, str | None]], widths: Sequence[float] = ()) -> None:
    """Show numbers side by side. values: the text and the help of each, by label."""
    columns = st.columns(widths or len(values))
    for column, (label, (value, hint)) in zip(columns, values.items(), strict=True):
        column.metric(label, value, help=hint, border=True)


def facts(values: Mapping[str, str]) -> None:
    """Show figures that describe, and decide nothing, on one line. values: the texts by label."""
    with st.container(horizontal=True, gap="medium"):
        for label, value in values.items():
            with st.container(gap=None, width="content"):
                st.caption(label)
                st.markdown(f"**{value}**")


def select_row(
    frame: pd.DataFrame,
    ids: Sequence[str],
    name: str,
    *,
    columns: Mapping[str, Any],
    alt: str,
    height: int = 320,
) -> str | None:
    """Show a table; return the id of the selected row, or of the address, or None.

    ids: the id of each row, which stays on the server. name: the query parameter. columns:
    st.dataframe's column_config. An unknown id in the address is reported and not returned.
    """
    key = f"pick-{name}"
    event = show(
        frame,
        columns,
        height=height,
        on_select=lambda: query_params.write(name, selected_id(st.session_state.get(key), ids)),
        selection_mode="single-row",
        key=key,
        alt=alt,
    )
    row_id = selected_id(event, ids) or query_params.read(name, ids)
    if row_id is None and st.query_params.get(name) is not None:
        st.caption(":material/link_off: The row in the address is not in this table.")
    return row_id


def selected_id(event: Any, ids: Sequence[str]) -> str | None:
    """Return the id of the selected row of a table's event; None for no row or an unknown one."""
    rows = event["selection"]["rows"] if event else []
    row = rows[0] if rows else -1
    return str(ids[row]) if isinstance(row, int) and 0 <= row < len(ids) else None


def clicked_row(event: Any, rows: int) -> int | None:
    """Return the row of the clicked cell of a table with this number of rows, with selection "single-cell"."""
    cells = (event["selection"].get("cells") if event else None) or []
    row = cells[0][0] if cells else -1
    return row if isinstance(row, int) and 0 <= row < rows else None
