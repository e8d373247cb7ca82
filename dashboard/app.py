"""Entry point: navigation and page settings only. Started by `puma serve`."""

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dashboard import pages

st.set_page_config(page_title="PUMA Workbench", page_icon=":material/swap_horiz:", layout="wide")
pages.navigation().run()
