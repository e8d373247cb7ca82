"""Verdicts as people read them: on a migration with its reasons, and on a claim as a badge."""

from __future__ import annotations

import streamlit as st

from dashboard.components.theme import Status
from dashboard.engine.comparisons import MARGIN, Verdict

LOOKS = {
    "migrate": ("Migrate", ":material/check_circle:", "green"),
    "refine": ("Migrate all, refine some", ":material/tune:", "blue"),
    "retrain": ("Retrain", ":material/replay:", "orange"),
    "undecided": ("Undecided", ":material/help:", "gray"),
    "incomplete": ("No verdict yet", ":material/pending:", "gray"),
}
CLAIM_STATUSES = {
    "reproduced": Status("Reproduced", ":material/check_circle:", "green"),
    "not reproduced": Status("Not reproduced", ":material/cancel:", "orange"),
    "undecided": Status("Undecided", ":material/help:", "gray"),
    "no evidence": Status("No evidence", ":material/block:", "gray"),
}


def badge(verdict: str, count: int | None = None) -> None:
    """The verdict on a claim, or how often it was reached."""
    shown = CLAIM_STATUSES[verdict]
    label = shown.label if count is None else f"{count} {shown.label.lower()}"
    st.badge(label, icon=shown.icon, color=shown.colour)


def margin() -> float:
    """Ask how much worse than retraining is still as good, and return it as a share."""
    percent = st.number_input(
        "Margin (%)",
        min_value=0.1,
        max_value=20.0,
        value=100 * MARGIN,
        step=0.5,
        format="%.1f",
        key="margin",
        bind="query-params",
        help="How much worse than full retraining is still as good, in percent of its value.",
    )
    return float(percent) / 100


def headline(verdict: Verdict) -> None:
    """The decision in large letters, and the sentence that says it whole."""
    label, icon, colour = LOOKS[verdict.decision]
    st.markdown(f"### :{colour}[{icon} {label}]")
    st.text(_after_decision(verdict.headline))


def reasons(verdict: Verdict) -> None:
    """Evidence and cautions side by side."""
    if not verdict.evidence:
        return
    if not verdict.cautions:
        _list("Evidence", verdict.evidence)
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        _list("Evidence", verdict.evidence)
    with right:
        _list("What to be careful about", verdict.cautions)


def _after_decision(text: str) -> str:
    """Return a headline without its first words, which stand above it in large letters."""
    rest = text.partition(": ")[2]
    return rest[:1].upper() + rest[1:]


def _list(title: str, sentences: tuple[str, ...]) -> None:
    # Sentences hold names that people gave to runs, so they are no markdown.
    with st.container(gap="xsmall"):
        st.markdown(f"**{title}**")
        for sentence in sentences:
            st.text(f"•  {sentence}")
