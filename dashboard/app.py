"""The server of the dashboard: its script, behind a guard. `streamlit run dashboard/app.py` starts it."""

import gc
import logging
import sys
from importlib import import_module
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dashboard import guard, pages

# Caches warn that no server runs yet, and work with it later.
caches = logging.getLogger("streamlit.runtime.caching.cache_data_api")
caches.disabled = True
for name in pages.PAGES:
    import_module(f"dashboard.views.{name}")
caches.disabled = False
# Streamlit collects garbage twice in each run of a page: leave out what was imported, which is nearly all.
gc.collect()
gc.freeze()
app = st.App(Path(__file__).resolve().with_name("main.py"), middleware=guard.middleware())
