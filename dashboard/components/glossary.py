"""The glossary in the pages: help texts, and a folded list of terms."""

import streamlit as st

from dashboard.engine import TERMS, heading


def term(name: str) -> str:
    """Return the explanation of a term, for `help=`."""
    return TERMS[name]


def show_glossary(*names: str) -> None:
    """Show a folded list of the terms that a page uses."""
    with st.expander("What do these words mean?", icon=":material/menu_book:"):
        for name in names:
            st.markdown(f"**{heading(name)}**: {TERMS[name]}")
