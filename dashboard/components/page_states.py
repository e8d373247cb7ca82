"""What a page shows when there is nothing, nothing yet, something old, or an error: one look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import streamlit as st

from dashboard import engine


def empty(title: str, text: str, *, icon: str = ":material/inbox:") -> None:
    """There is nothing here yet: say what belongs here and how it comes to be."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.markdown(f"### {icon} {title}", text_alignment="center")
        st.markdown(text, text_alignment="center")


def failed(title: str, reason: object) -> None:
    """Something went wrong: what (our words), and the reason as plain text."""
    st.error(title, icon=":material/error:")
    st.text(str(reason))


def stale(text: str) -> None:
    """What is shown is older than what it was made from."""
    st.warning(text, icon=":material/update:")


def loading(text: str, height: int = 240) -> None:
    """Something is being made by a job; its place is kept, so that nothing jumps."""
    st.caption(f":material/hourglass_top: {text}")
    st.skeleton(height)


@contextmanager
def caught(title: str) -> Iterator[None]:
    """Show an engine error of what is drawn inside in one look, and go on after it."""
    try:
        yield
    except engine.PumaError as error:
        failed(title, error)


def live(draw: Callable[..., None], every: float | None) -> Callable[..., None]:
    """Wrap a part that is drawn again every so many seconds: errors then are met in it alone."""

    @wraps(draw)
    def shown(*args: object) -> None:
        with caught("This part cannot be shown now."):
            draw(*args)

    return st.fragment(shown, run_every=every)


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """Wrap a page: without a workspace it says how to begin, an engine error is shown in one look."""

    @wraps(page)
    def wrapped() -> None:
        if not engine.has_workspace():
            no_workspace(page.__module__.rpartition(".")[2])
            return
        # Part of the page may stand above by then.
        with caught("This cannot be shown."):
            page()

    return wrapped


def no_workspace(name: str) -> None:
    """There is no workspace for the page of this name: the overview makes one."""
    from dashboard import pages

    st.title(pages.PAGES[name][0])
    empty(
        "No workspace yet",
        "A workspace is the folder that keeps data, prompts and results. The overview makes one, "
        "with a worked example in it if you like; `make demo` or `puma demo` do the same.",
        icon=":material/folder_off:",
    )
    pages.link("overview", label="Begin on the overview")
