"""The pages: adding one is one line here and `views/<name>.py` with a `page()`."""

import logging
from collections.abc import Sequence
from importlib import import_module
from urllib.parse import urlencode

import streamlit as st
from streamlit.errors import FragmentHandledException

# By name, which is also the address: title, icon and description.
PAGES = {
    "overview": ("Summary", ":material/space_dashboard:", "The decision, and what to do next."),
    "data": ("Data", ":material/database:", "Contents of the data sets, and importing more."),
    "models": ("Models", ":material/neurology:", "The old and the new model, and adding one."),
    "users": ("Users", ":material/scatter_plot:", "Maps of users before and after a migration."),
    "plan": ("Plan", ":material/route:", "Compose a migration, predict its cost, launch it."),
    "compare": ("Compare", ":material/compare_arrows:", "Is a migration as good as retraining?"),
    "studies": ("Studies", ":material/science:", "Which claims of the paper are reproduced?"),
    "user": ("User", ":material/person:", "One user: records, predictions, neighbours, what-if."),
    "reports": ("Reports", ":material/description:", "Download comparisons, tables and prompts."),
    "jobs": ("Jobs", ":material/work_history:", "Status, progress and logs of all jobs."),
}


def navigation(first: str | None = None) -> st.Page:
    """Set up the navigation and return the page of the address.

    first: the page shown for an address without a page, instead of the summary.
    """
    items = [page(name, default=name == first) for name in PAGES]
    if first is None:
        # Streamlit's default page has no address of its own, so it leads to one that has.
        home = st.Page(lambda: go("overview"), title="PUMA", default=True, visibility="hidden")
        items.append(home)
    return st.navigation(items)


def run(page: st.Page) -> None:
    """Draw a page. Log unexpected errors and show one sentence."""
    try:
        page.run()
    except FragmentHandledException:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("The page %r failed.", page.title)
        st.error(
            "This page cannot be shown because of an unexpected error.",
            icon=":material/error:",
        )
        st.markdown(
            f"The log of `puma serve` has the traceback ({type(error).__name__}). `puma doctor` checks "
            "every file of the workspace."
        )


def page(name: str, *, default: bool = False) -> st.Page:
    """Return the st.Page of a name. Its module is imported when the page is opened."""
    title, icon, about = PAGES[name]
    return st.Page(
        lambda: import_module(f"dashboard.views.{name}").page(),
        title=title,
        icon=icon,
        url_path=name,
        default=default,
        help=about,
    )


def link(name: str, *, label: str, icon: str | None = None, **address: str | Sequence[str]) -> None:
    """Show a link to a page with query parameters.

    label: markdown, so escape other people's text.
    """
    st.page_link(page(name), label=label, icon=icon, query_params=_values(address))


def url(name: str, **address: str | Sequence[str]) -> str:
    """Return the address of a page with query parameters, for a link in a table."""
    return f"{name}?{urlencode(_values(address), doseq=True)}"


def go(name: str, **address: str | Sequence[str]) -> None:
    """Open a page with query parameters."""
    st.switch_page(page(name), query_params=_values(address))


def _values(address: dict[str, str | Sequence[str]]) -> dict[str, str | list[str]]:
    return {key: value if isinstance(value, str) else list(value) for key, value in address.items()}
