"""Overview: what the workspace holds."""

from __future__ import annotations

import streamlit as st

from dashboard import engine, pages
from dashboard.components import states

COUNTED = {
    "dataset": "Data sets",
    "backbone": "Backbones",
    "prompts": "Prompt tables",
    "migration": "Migrations",
    "comparison": "Comparisons",
}


@states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Overview")
    for column, (kind, label) in zip(st.columns(len(COUNTED)), COUNTED.items(), strict=True):
        column.metric(label, len(engine.runs(kind)), border=True)
    pages.link("compare", label="Compare methods")
