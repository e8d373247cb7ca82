"""Sign-in: required wherever it is configured, and for a public dashboard."""

import os
from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError


def auth_section() -> Mapping[str, Any] | None:
    """Return the section [auth] of Streamlit's secrets, None if sign-in is not configured."""
    try:
        section: Mapping[str, Any] | None = st.secrets.get("auth")
    except StreamlitSecretNotFoundError:
        return None
    return section


def require_sign_in() -> None:
    """Stop the page unless the visitor is signed in, or sign-in is not configured.

    Without sign-in, `puma serve --public` does not start, and a public dashboard shows nothing.
    """
    auth = auth_section()
    if auth is None:
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
    names = [name for name, section in auth.items() if isinstance(section, Mapping)]
    for name in names or [""]:  # a provider without a section has no name
        st.button(
            f"Sign in with {name}" if name else "Sign in",
            on_click=st.login,
            args=[name] if name else [],
            type="primary",
            icon=":material/login:",
            key=f"sign-in-{name}",
        )
    st.stop()
