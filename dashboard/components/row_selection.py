"""Tables from which one row is picked; the pick is in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components import query_params

ROW = 33  # pixels, also of the header


def height(rows: int, most: int | None = None) -> int:
    """Pixels of a table with so many rows: known before it is drawn, so that nothing jumps."""
    whole = 2 + ROW * (1 + rows)
    return whole if most is None else min(whole, most)


def pick(
    frame: pd.DataFrame,
    ids: Sequence[str],
    name: str,
    *,
    columns: Mapping[str, Any],
    alt: str,
    height: int = 320,
) -> str | None:
    """Show a table and return the id of the row that is picked, or named by the address.

    ids: the id of each row, kept on the server. name: of the address's value. columns:
    streamlit's column_config. An id in the address that is in no row is not returned.
    """
    key = f"pick-{name}"
    event = st.dataframe(
        frame,
        hide_index=True,
        placeholder="–",
        height=height,
        column_config=dict(columns),
        on_select=lambda: query_params.write(name, picked(st.session_state.get(key), ids)),
        selection_mode="single-row",
        key=key,
        alt=alt,
    )
    one = picked(event, ids) or query_params.read(name, ids)
    if one is None and st.query_params.get(name) is not None:
        st.caption(":material/link_off: What the address names is not in this table.")
    return one


def picked(event: Any, ids: Sequence[str]) -> str | None:
    """Return the id of the selected row of a table's event; None for none, or one out of range."""
    rows = event["selection"]["rows"] if event else []
    place = rows[0] if rows else -1
    return str(ids[place]) if isinstance(place, int) and 0 <= place < len(ids) else None
