"""Entry point: page settings, sign-in and navigation only. Started by `puma serve`."""

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dashboard import access, pages

# A file of our own: for icons by name a browser would ask a host on the internet.
ICON = Path(__file__).with_name("icon.png")
SIDEBAR = 200  # pixels; names of runs need the rest
st.set_page_config(
    page_title="PUMA Workbench",
    page_icon=str(ICON),
    layout="wide",
    initial_sidebar_state=SIDEBAR,
)
# First, so that no address leads past it.
page = pages.navigation()
access.require_sign_in()
pages.run(page)
