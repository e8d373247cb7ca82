"""New migration: the import job of a step, which the address names."""

import streamlit as st

from dashboard import engine
from dashboard.components import job_cards, query_params

DATA, PROMPTS = "import", "import-prompts"


def job_of(key: str) -> engine.Job | None:
    """Return the job that the address names under a key; None without one, or where it is gone."""
    job_id = st.query_params.get(key)
    if job_id is None or not engine.has_workspace():
        return None
    try:
        return engine.job(job_id)
    except engine.PumaError:
        query_params.write(key, None)
        return None


def watch(job: engine.Job, key: str, another: str) -> None:
    """Show an import that is not finished; where it failed, a button leads back to the choice.

    another: the label of the button.
    """
    job_cards.watch_one(job)
    if job.status in ("failed", "cancelled"):
        st.button(another, icon=":material/undo:", on_click=query_params.write, args=[key, None])
