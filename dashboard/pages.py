"""The pages: adding one is a line in PAGES and SECTIONS, and `views/<name>.py` with a `page()`."""

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st
from streamlit.errors import FragmentHandledException

from dashboard import turns

# By name, which is also its module: title, icon and description.
PAGES = {
    "overview": ("Summary", ":material/space_dashboard:", "The decision, and what to do next."),
    "compare": ("Trade-off", ":material/compare_arrows:", "Is a migration as good as retraining?"),
    "users": ("People", ":material/scatter_plot:", "Who gains and who loses: maps and people."),
    "plan": (
        "New migration",
        ":material/route:",
        "From a file or prompts to a verdict, in four steps.",
    ),
    "jobs": ("Activity", ":material/work_history:", "Status, progress and logs of all jobs."),
    "data": ("Data", ":material/database:", "Contents of the data sets, and importing more."),
    "models": ("Models", ":material/neurology:", "The old and the new model, and adding one."),
    "studies": ("Evidence", ":material/science:", "Which claims of the paper are reproduced?"),
    "reports": ("Export", ":material/description:", "Download comparisons, tables and prompts."),
}
# The navigation: names of pages by section.
SECTIONS = {
    "Decide": ("overview", "compare", "users"),
    "Do": ("plan", "jobs"),
    "Workspace": ("data", "models", "studies", "reports"),
}
# Addresses of pages that are part of another one now, and the new names of what they say.
MERGED = {"user": ("users", {"method": "methods"}), "person": ("users", {"method": "methods"})}
LOGO = Path(__file__).with_name("logo.svg")


def address(name: str) -> str:
    """Return the path of a page: its title in lower case, with hyphens."""
    return PAGES[name][0].lower().replace(" ", "-")


def navigation(first: str | None = None) -> st.Page:
    """Set up the navigation and return the page of the address.

    Addresses of earlier versions, which were the names of pages, lead to today's.

    first: the page shown for an address without a page, instead of the summary.
    """
    st.logo(str(LOGO), size="large")
    sections = {
        title: [page(name, default=name == first) for name in names]
        for title, names in SECTIONS.items()
    }
    hidden = [_moved(name, name, {}) for name in PAGES if address(name) != name]
    hidden += [_moved(old, *target) for old, target in MERGED.items()]
    if first is None:
        # Streamlit's default page has no address of its own, so it leads to one that has.
        home = st.Page(lambda: go("overview"), title="PUMA", default=True, visibility="hidden")
        hidden.append(home)
    # Streamlit's own list of pages is not a valid list for screen readers once it has sections.
    return st.navigation(sections | {"": hidden}, position="hidden")


def sidebar() -> None:
    """Draw the links to all pages, by section."""
    with st.sidebar:
        for title, names in SECTIONS.items():
            with st.container(gap="xsmall"):
                st.caption(title)
                for name in names:
                    st.page_link(page(name))


def _moved(old: str, name: str, renamed: dict[str, str]) -> st.Page:
    """Return a hidden page at an old address, which leads to the page of today.

    renamed: what query parameters are called there.
    """

    def lead() -> None:
        parameters = {renamed.get(k, k): st.query_params.get_all(k) for k in st.query_params}
        go(name, **parameters)

    return st.Page(lead, title=PAGES[name][0], url_path=old, visibility="hidden")


def run(page: st.Page) -> None:
    """Draw a page. Log unexpected errors and show one sentence."""
    try:
        with turns.PAGES.turn():
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
    """Return the st.Page of a name. Its module is imported when the page is opened, if app.py has not."""
    title, icon, description = PAGES[name]
    return st.Page(
        lambda: import_module(f"dashboard.views.{name}").page(),
        title=title,
        icon=icon,
        url_path=address(name),
        default=default,
        help=description,
    )


def link(name: str, *, label: str, icon: str | None = None, **query: str | Sequence[str]) -> None:
    """Show a link to a page with query parameters.

    label: markdown, so escape other people's text.
    """
    st.page_link(page(name), label=label, icon=icon, query_params=_values(query))


def url(name: str, **query: str | Sequence[str]) -> str:
    """Return the address of a page with query parameters, for a link in a table."""
    return f"{address(name)}?{urlencode(_values(query), doseq=True)}"


def go(name: str, **query: str | Sequence[str]) -> None:
    """Open a page with query parameters."""
    st.switch_page(page(name), query_params=_values(query))


def _values(query: dict[str, str | Sequence[str]]) -> dict[str, str | list[str]]:
    return {key: value if isinstance(value, str) else list(value) for key, value in query.items()}
