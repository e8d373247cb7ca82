"""The server of the dashboard: its script, behind a guard. `streamlit run dashboard/app.py` starts it."""

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dashboard import guard

app = st.App(Path(__file__).resolve().with_name("main.py"), middleware=guard.middleware())
