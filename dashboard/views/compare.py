"""Compare: is a migration as good as retraining, for whom, and at what cost."""

import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    compare_differences,
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
from dashboard.engine import Run, comparisons, summary

VIEWS = {"methods": "Methods and costs", "users": "Who gains, who loses"}


@page_states.guarded
def page() -> None:
    """Draw the page below its title."""
    run = comparison_picker.pick()
    if run is not None:
        with page_states.caught(
            "This comparison cannot be shown completely; choose another, or make it again."
        ):
            # Computed before the container is drawn, so that an error leaves no empty container.
            comparisons.verdict(engine.root(), run.id)
            _comparison(run)
    st.header("Jobs", divider="gray")
    pages.link("plan", label="Start a migration")
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
        with left, st.container(gap="xsmall"):
            verdicts.headline(verdict)
            compare_differences.show_sentences(run, summary.plans(run), verdict)
    compare_differences.show(run, margin)
    if verdict.evidence:
        with st.expander("Evidence and cautions", icon=":material/balance:"):
            verdicts.reasons(verdict)
    split = comparisons.split_of(run)
    measured = compare_experiments.available(split)
    view = query_params.segment("View", VIEWS | measured, "view", label_visibility="collapsed")
    compare_experiments.show_missing(measured)
    if view == "methods":
        compare_methods.show(run)
    elif view == "users":
        compare_users.show(run)
    elif split is not None:
        compare_experiments.show(view, split)
