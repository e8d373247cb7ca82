"""The pages: adding one is one line here and `views/<name>.py` with a `page()`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from urllib.parse import urlencode

import streamlit as st
from streamlit.errors import FragmentHandledException

# Name (also the address), title, icon, and what it answers.
PAGES = {
    "overview": ("Overview", ":material/space_dashboard:", "What is here, and what to do next."),
    "data": ("Data", ":material/database:", "What the data sets hold, and bringing in more."),
    "models": (
        "Models",
        ":material/neurology:",
        "Old and new model, their memory, and adding one.",
    ),
    "users": ("Users", ":material/scatter_plot:", "Who is like whom, before and after?"),
    "plan": ("Plan", ":material/route:", "Put a migration together, price it, launch it."),
    "compare": ("Compare", ":material/compare_arrows:", "Is a migration as good as retraining?"),
    "studies": (
        "Studies",
        ":material/science:",
        "What of the paper holds, and what is more than chance?",
    ),
    "user": ("User", ":material/person:", "One user: records, predictions, prompt, what-ifs."),
    "reports": (
        "Reports",
        ":material/description:",
        "A comparison for stakeholders; tables and prompts as files.",
    ),
    "jobs": ("Jobs", ":material/work_history:", "What works, waits, ended or failed, with logs."),
}


def navigation(first: str | None = None) -> st.Page:
    """Set up the navigation and return the page that the address names.

    An address without a page leads to the overview, or shows the page `first` if given.
    """
    found = [page(name, default=name == first) for name in PAGES]
    if first is None:
        # Streamlit gives its default page no address of its own; every view here has one.
        home = st.Page(lambda: go("overview"), title="PUMA", default=True, visibility="hidden")
        found.append(home)
    return st.navigation(found)


def run(page: st.Page) -> None:
    """Draw a page; what nobody foresaw ends it in a sentence, and is told in full in the log."""
    try:
        page.run()
    except FragmentHandledException:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("The page %r failed.", page.title)
        st.error(
            "This cannot be shown: something happened that was not foreseen.",
            icon=":material/error:",
        )
        st.markdown(
            f"The log of `puma serve` tells it in full ({type(error).__name__}). `puma doctor` checks "
            "every file of the workspace."
        )


def page(name: str, *, default: bool = False) -> st.Page:
    """Return streamlit's page of a name; its module is loaded when it is opened."""
    title, icon, about = PAGES[name]
    return st.Page(
        lambda: import_module(f"dashboard.views.{name}").page(),
        title=title,
        icon=icon,
        url_path=name,
        default=default,
        help=about,
    )


def link(
    name: str,
    *,
    label: str | None = None,
    icon: str | None = None,
    **address: str | Sequence[str],
) -> None:
    """Show a link to a page, with what it is to show in its address.

    label is read as markdown: escape other people's text.
    """
    if name in PAGES:
        st.page_link(page(name), label=label, icon=icon, query_params=_values(address))


def url(name: str, **address: str | Sequence[str]) -> str:
    """Return the address of a page, for a link in a table."""
    return f"{name}?{urlencode(_values(address), doseq=True)}"


def go(name: str, **address: str | Sequence[str]) -> None:
    """Open a page now, with what it is to show in its address."""
    st.switch_page(page(name), query_params=_values(address))


def _values(address: dict[str, str | Sequence[str]]) -> dict[str, str | list[str]]:
    return {key: one if isinstance(one, str) else list(one) for key, one in address.items()}
