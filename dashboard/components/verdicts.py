"""Verdicts on migrations, with their reasons, and on claims, as badges."""

import streamlit as st

from dashboard.components.formatting import unbroken
from dashboard.components.theme import Status
from dashboard.engine import DECISIONS
from dashboard.engine.comparisons import MARGIN, MAX_MARGIN, Verdict

LOOKS = {
    "migrate": (":material/check_circle:", "green"),
    "refine": (":material/tune:", "blue"),
    "reuse": (":material/tune:", "blue"),
    "retrain": (":material/replay:", "orange"),
    "undecided": (":material/help:", "gray"),
    "incomplete": (":material/pending:", "gray"),
}
CLAIM_STATUSES = {
    "reproduced": Status("Reproduced", ":material/check_circle:", "green"),
    "not reproduced": Status("Not reproduced", ":material/cancel:", "orange"),
    "undecided": Status("Not settled yet", ":material/help:", "gray"),
    "no evidence": Status("No evidence", ":material/block:", "gray"),
}


def badge(verdict: str, count: int | None = None) -> None:
    """Show the verdict on a claim as a badge, or the number of claims with it."""
    shown = CLAIM_STATUSES[verdict]
    label = shown.label if count is None else f"{count} {shown.label.lower()}"
    # The words alone, as in the cells of the matrix.
    st.badge(label, color=shown.colour)


def margin() -> float:
    """Draw the widget for the margin of non-inferiority; return it as a share."""
    percent = st.number_input(
        "Error I accept (%)",
        min_value=0.1,
        max_value=100 * MAX_MARGIN,
        value=100 * MARGIN,
        step=0.5,
        format="%.1f",
        key="margin",
        bind="query-params",
        help="Margin of non-inferiority: the largest loss against full retraining that still counts as "
        "good, in percent of its value.",
    )
    return float(percent) / 100


def headline(verdict: Verdict) -> None:
    """Show the decision as a heading, and its sentence."""
    icon, colour = LOOKS[verdict.decision]
    st.markdown(f"## :{colour}[{icon} {DECISIONS[verdict.decision]}]")
    # The sentence begins with the decision, which is the heading.
    sentence = verdict.headline.partition(": ")[2]
    st.text(unbroken(sentence[:1].upper() + sentence[1:]))


def reasons(verdict: Verdict) -> None:
    """Show evidence and cautions side by side."""
    if not verdict.evidence:
        return
    parts = {"Evidence": verdict.evidence, "Cautions": verdict.cautions}
    parts = {title: sentences for title, sentences in parts.items() if sentences}
    columns = st.columns([3, 2][: len(parts)], gap="large")
    for column, (title, sentences) in zip(columns, parts.items(), strict=True):
        with column, st.container(gap="xsmall"):
            st.markdown(f"**{title}**")
            # Sentences contain names of runs, so they are shown as plain text.
            for sentence in sentences:
                st.text(f"•  {sentence}")
