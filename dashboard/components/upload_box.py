"""A box for a file from a browser, which is copied and checked once."""

import streamlit as st

from dashboard import engine
from dashboard.components import page_states
from dashboard.engine import uploads
from dashboard.engine.uploads import Upload, UploadKind


def show(label: str, key: str, kind: UploadKind) -> Upload | None:
    """Draw the box; return its file, None without one or where it is refused."""
    uploaded = st.file_uploader(
        label,
        type=list(dict.fromkeys(ending.rpartition(".")[2] for ending in kind.endings)),
        key=key,
        max_upload_size=uploads.MAX_BYTES >> 20,
    )
    key = stored_key(key)
    if uploaded is None:
        st.session_state.pop(key, None)
        return None
    stored = st.session_state.get(key)
    if stored is None or stored[0] != uploaded.file_id:
        try:
            upload = Upload(uploaded.name, uploaded, uploaded.size, kind)
        except engine.PumaError as error:
            page_states.failed("This file is refused.", error)
            return None
        stored = st.session_state[key] = (uploaded.file_id, upload)
    upload = stored[1]
    return upload if isinstance(upload, Upload) else None


def forget(*keys: str) -> None:
    """Forget the files of boxes, since they were moved."""
    for key in keys:
        st.session_state.pop(stored_key(key), None)


def stored_key(key: str) -> str:
    """Return where the session keeps the file of a box."""
    return f"{key}-stored"
