"""Who may see the dashboard: everybody on this machine, or those who signed in."""

from __future__ import annotations

import os
from collections.abc import Mapping

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError


def providers() -> list[str] | None:
    """Return the sign-in providers by name, [] for one without a name, None without sign-in."""
    try:
        auth = st.secrets.get("auth")
    except StreamlitSecretNotFoundError:
        return None
    if auth is None:
        return None
    return [name for name, one in auth.items() if isinstance(one, Mapping)]


def require_sign_in() -> None:
    """Stop unless whoever asks may see the pages.

    Sign-in is asked for wherever it is configured; `puma serve --public` starts only then.
    """
    found = providers()
    if found is None:
        if os.environ.get("PUMA_PUBLIC"):
            st.error("Sign-in is not configured, so this public dashboard shows nothing.")
            st.stop()
        return
    if st.user.get("is_logged_in"):
        with st.sidebar:
            st.text(f"Signed in as {st.user.get('email') or st.user.get('name') or 'somebody'}")
            st.button("Sign out", on_click=st.logout, icon=":material/logout:")
        return
    st.title("PUMA Workbench")
    st.text("Sign in to see the workspace.")
    for name in found or [""]:
        st.button(
            f"Sign in with {name}" if name else "Sign in",
            on_click=st.login,
            args=[name] if name else [],
            type="primary",
            icon=":material/login:",
            key=f"sign-in-{name}",
        )
    st.stop()
