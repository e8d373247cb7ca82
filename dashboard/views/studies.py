"""Studies: declared experiments over seeds, with what can be told from chance."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components import address, compare_figures, figures, states
from dashboard.components.terms import glossary
from dashboard.components.theme import rank
from dashboard.engine import studies

COLUMNS = {
    "method": st.column_config.TextColumn("Method", width=270),
    "seeds": st.column_config.NumberColumn("Seeds", help="Trainings that the mean is of."),
    "share": st.column_config.NumberColumn("Share of users", format="percent"),
    "users trained": st.column_config.NumberColumn("Users trained", format="localized"),
    "seconds": st.column_config.NumberColumn("Seconds (mean)", format="%.1f"),
}


@states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Studies")
    names = studies.names()
    if not names:
        states.empty(
            "No study was run here",
            "A study repeats an experiment over seeds and data sets, and says which differences "
            "are more than chance. `puma study` runs one from the command line.",
        )
        every = pd.DataFrame(studies.every(), columns=["Study", "What it asks"])
        st.dataframe(every, hide_index=True)
        return
    labels = {name: f"{name}: {studies.about(name)}" for name in names}
    left, right = st.columns([3, 2])
    with left:
        name = address.choose("Study", names, "study", labels=labels)
    found = studies.report(name)
    known = studies.datasets(found)
    if not known:
        states.empty("Nothing is finished yet", "Its first results will be shown here.")
        return
    with right:
        dataset = address.choose("Data set", known, "dataset")
    _facts(found)
    _results(found, dataset)
    _differences(found, dataset)
    glossary("run", "interval", "retrained", "shuffled control", "random prompts")


def _facts(found: dict[str, Any]) -> None:
    st.code(found["command"], language=None)
    missing, failed = len(found["missing"]), len(found["failed"])
    if missing or failed:
        states.stale(
            f"{missing} cells were not run and {failed} failed; the same command goes on with them."
        )


def _results(found: dict[str, Any], dataset: str) -> None:
    metric, rows = studies.summary(found, dataset)
    rows = _by_kind(rows)
    st.markdown(f"##### Every method: {studies.TITLES[metric]}")
    digits = st.column_config.NumberColumn(metric.upper(), format="%.4f")
    spread = st.column_config.NumberColumn("SD over seeds", format="%.4f")
    st.dataframe(
        rows,
        hide_index=True,
        height="content",
        column_order=[name for name in rows if name != "kind"],
        placeholder="–",
        column_config=COLUMNS | {metric: digits, "sd over seeds": spread},
    )
    figures.downloads(rows, f"study-{found['study']}-{dataset}")


def _by_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods in the order that kinds have everywhere."""
    return rows.sort_values("kind", key=lambda kinds: kinds.map(rank), kind="stable")


def _differences(found: dict[str, Any], dataset: str) -> None:
    rows = _by_kind(studies.differences(found, dataset))
    if rows.empty:
        return
    shares = sorted(rows["share"].dropna().unique())
    if shares:
        labels = {f"{share:g}": f"{share:.0%} of the users" for share in shares}
        chosen = address.segment("Budget", labels, "share")
        rows = rows[rows["share"] == float(chosen)]
    metric, _ = studies.summary(found, dataset)
    side = "right" if metric in studies.HIGHER else "left"
    against = studies.against(found)
    figures.show(
        compare_figures.intervals(rows, 0.0),
        rows,
        f"study-differences-{found['study']}",
        title=f"What differs from {against}: {side} of zero is better",
        x=f"Difference of {studies.TITLES[metric].split(' (')[0]}, 95 % interval over users",
        height=120 + 30 * len(rows),
    )
    chance = int((~rows["real"].astype(bool)).sum())
    st.caption(
        f"{len(rows) - chance} of {len(rows)} differences are more than chance after Holm's "
        "correction for their number; intervals resample users and pool the seeds."
    )
