"""States that every page shows alike: empty, loading, outdated, failed, no workspace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import streamlit as st

from dashboard import engine


def empty(title: str, text: str, *, icon: str = ":material/inbox:") -> None:
    """Show that nothing is here yet, and how to get it."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.markdown(f"## {icon} {title}", text_alignment="center")
        st.markdown(text, text_alignment="center")


def failed(title: str, reason: object) -> None:
    """Show an error: title is markdown, reason is shown as plain text."""
    st.error(title, icon=":material/error:")
    st.text(str(reason))


def stale(text: str) -> None:
    """Warn that the page shows something outdated or incomplete."""
    st.warning(text, icon=":material/update:")


def loading(text: str, height: int = 240) -> None:
    """Show a placeholder for the result of a running job."""
    st.caption(f":material/hourglass_top: {text}")
    st.skeleton(height)


def action(label: str, **options: Any) -> bool:
    """Show a button that changes the workspace, and say whether it was clicked.

    Nothing is shown in a workspace that may only be viewed. options: those of `st.button`.
    """
    return not engine.read_only() and st.button(label, **options)


def viewing() -> bool:
    """Say whether the workspace may only be viewed, and tell the visitor if so."""
    if not engine.read_only():
        return False
    st.caption(
        ":material/visibility: This workspace may only be viewed here, so nothing can be started, "
        "imported or changed."
    )
    return True


@contextmanager
def caught(title: str) -> Iterator[None]:
    """Show an engine error raised inside instead of ending the page."""
    try:
        yield
    except engine.PumaError as error:
        failed(title, error)


def live(draw: Callable[..., None], every: float | None) -> Callable[..., None]:
    """Return a fragment that is drawn again every `every` seconds and shows its own errors."""

    @wraps(draw)
    def shown(*args: object) -> None:
        with caught("This part cannot be shown."):
            draw(*args)

    return st.fragment(shown, run_every=every)


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """Wrap a page: show its title, how to start without a workspace, and engine errors as text."""

    @wraps(page)
    def wrapped() -> None:
        from dashboard import pages

        st.title(pages.PAGES[page.__module__.rpartition(".")[2]][0])
        if engine.has_workspace():
            with caught("This page cannot be shown."):
                viewing()
                page()
            return
        empty(
            "No workspace yet",
            "A workspace is the folder of data, prompts and results. The summary creates one, with "
            "a worked example; `puma demo` does the same.",
            icon=":material/folder_off:",
        )
        pages.link("overview", label="Open the summary")

    return wrapped
