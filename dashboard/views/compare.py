"""Compare: is a migration as good as retraining, for whom, and at what cost."""

import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    compare_experiments,
    compare_methods,
    compare_users,
    comparison_picker,
    job_cards,
    page_states,
    published,
    query_params,
    verdicts,
)
from dashboard.components.glossary import show_glossary
from dashboard.engine import Run, comparisons

VIEWS = {
    "methods": "Methods and costs",
    "users": "Who gains, who loses",
    "pairs": "Model pairs",
    "chains": "Chains",
    "aggregations": "Aggregation",
    "strategies": "Selection strategies",
}


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Trade-off")
    run = comparison_picker.pick()
    if run is not None:
        with page_states.caught(
            "This comparison cannot be shown completely; choose another, or make it again."
        ):
            # Computed before the container is drawn, so that an error leaves no empty container.
            comparisons.verdict(engine.root(), run.id)
            _comparison(run)
    st.header("Jobs", divider="gray")
    pages.link("plan", label="Plan a migration")
    job_cards.watch()
    show_glossary(
        "migrated", "retrained", "shuffled control", "random prompts", "baseline", "interval"
    )


def _comparison(run: Run) -> None:
    published.mark(run)
    with st.container(border=True):
        left, right = st.columns([5, 1])
        with right:
            margin = verdicts.margin()
            pages.link("reports", label="Make a report", comparison=run.id)
        verdict = comparisons.verdict(engine.root(), run.id, margin)
        with left:
            verdicts.headline(verdict)
        verdicts.reasons(verdict)
    view = query_params.segment("View", VIEWS, "view", label_visibility="collapsed")
    if view == "methods":
        compare_methods.show(run)
    elif view == "users":
        compare_users.show(run)
    elif split := comparisons.split_of(run):
        compare_experiments.show(view, split)
    else:
        page_states.failed("The data set of this comparison is gone.", "Choose another comparison.")
