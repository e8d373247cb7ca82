"""Tables from which one row can be selected; the selection is in the address."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components import query_params

ROW_PIXELS = 33  # also of the header


def height(rows: int, limit: int | None = None) -> int:
    """Return the pixels of a table. With a fixed height, the page does not jump when it is drawn."""
    full = 2 + ROW_PIXELS * (1 + rows)
    return full if limit is None else min(full, limit)


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
    event = st.dataframe(
        frame,
        hide_index=True,
        placeholder="–",
        height=height,
        column_config=dict(columns),
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
