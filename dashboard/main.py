"""Script of every page: settings, sign-in and navigation only. `app.py` serves it."""

from pathlib import Path

import streamlit as st

from dashboard import access, pages, shell

# A local file, because browsers load named icons from a host on the internet.
ICON = Path(__file__).with_name("icon.png")
SIDEBAR = 216  # pixels; page.css keeps as much free
st.set_page_config(
    page_title=shell.TITLE,
    page_icon=str(ICON),
    layout="wide",
    initial_sidebar_state=SIDEBAR,
)
page = pages.navigation()
pages.sidebar()
# Before any page is drawn, whatever the address.
access.require_sign_in()
pages.run(page)
