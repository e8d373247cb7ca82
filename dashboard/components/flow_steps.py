"""Steps of a guided flow on one page: the open one, answered ones on one line, and those to come.

Which step is open is in the address; so are the answers, as everywhere (see `query_params`).
"""

from collections.abc import Mapping

import streamlit as st

from dashboard.components import query_params
from dashboard.components.formatting import escaped

STEP = "step"


def open_step(steps: Mapping[str, str], default: str) -> str:
    """Return the id of the open step: that of the address, or the default. steps: titles by id."""
    return str(query_params.read(STEP, steps, default))


def answered(number: int, title: str, answer: str, step: str, *, editable: bool = True) -> None:
    """Show an answered step on one line, with a button that opens it again.

    answer: plain text.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f":green[:material/check_circle:] **{number}. {title}** · {escaped(answer, 200)}",
            width="stretch",
        )
        if editable:
            st.button(
                "Change",
                key=f"change-{step}",
                type="tertiary",
                icon=":material/edit:",
                help=f"Change: {title}",
                on_click=go_to,
                args=[step],
            )


def heading(number: int, title: str) -> None:
    """Show the heading of the open step."""
    st.header(f"{number}. {title}", divider="gray")


def upcoming(number: int, title: str, text: str) -> None:
    """Show a step that is not open yet."""
    st.markdown(f":gray[:material/radio_button_unchecked: {number}. {title} · {text}]")


def proceed(step: str, *, disabled: bool = False) -> None:
    """Show the button that ends the open step and opens another."""
    st.button(
        "Continue",
        key=f"continue-to-{step}",
        type="primary",
        icon=":material/arrow_forward:",
        disabled=disabled,
        on_click=go_to,
        args=[step],
    )


def go_to(step: str) -> None:
    """Open a step."""
    query_params.write(STEP, step)
