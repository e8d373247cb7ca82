"""Entry point: navigation and page settings only. Run with `streamlit run dashboard/app.py`."""

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dashboard.views import compare

st.set_page_config(page_title="PUMA Workbench", page_icon=":material/swap_horiz:", layout="wide")
page = st.navigation([st.Page(compare.page, title="Compare", icon=":material/compare_arrows:")])
page.run()
