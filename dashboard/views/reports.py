"""Reports: a comparison as one page for people, tables and prompts for other programs."""

from __future__ import annotations

import re

import streamlit as st

from dashboard import engine, pages
from dashboard.components import figures, page_states, query_params, verdicts
from dashboard.components.formatting import short
from dashboard.components.glossary import show_glossary
from dashboard.engine import Run, comparisons, reports

PREVIEW = 200
PARTS = {"report": "Report of a comparison", "table": "Tables of a run", "prompts": "Prompts"}


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Reports")
    part = query_params.segment("What to take", PARTS, "part", label_visibility="collapsed")
    if part == "report":
        _report()
    elif part == "table":
        _tables()
    else:
        _prompts()
    show_glossary("run", "interval", "soft prompt", "lineage")


def _report() -> None:
    st.markdown(
        "One HTML file with the verdict, what was measured, every method with intervals and costs, "
        "figures, who regresses, lineage, seeds and versions. It opens without a network."
    )
    found = engine.runs("comparison")
    if not found:
        page_states.empty(
            "No comparison is finished", "Compare methods first; a report tells of them."
        )
        pages.link("compare", label="Compare methods")
        return
    left, right = st.columns([4, 1])
    with left:
        run = _choose("Comparison", found, "comparison")
    with right:
        margin = verdicts.margin()
    with st.container(border=True):
        verdicts.headline(comparisons.verdict(engine.root(), run.id, margin))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Report as HTML",
            lambda: reports.report(engine.root(), run.id, run.name, margin).encode(),
            f"{file_name(run)}.html",
            "text/html",
            key="report-html",
            on_click="ignore",
            type="primary",
            icon=":material/description:",
        )
        pages.link("compare", label="Look at it here", comparison=run.id)


def _tables() -> None:
    st.markdown("Any table of any run, as CSV for spreadsheets or Parquet for programs.")
    found = reports.runs_with_tables()
    if not found:
        page_states.empty(
            "No tables yet", "Imports, selections, evaluations and comparisons make them."
        )
        return
    left, right = st.columns([3, 1])
    with left:
        run = _choose("Run", found, "run")
    names = reports.names(run)
    with right:
        name = query_params.choose("Table", names, "table")
    count = reports.rows(run, name)
    if count is not None and count > reports.MOST_ROWS:
        st.info(
            f"This table has {count:,} rows, too many for a browser; the command line writes it.",
            icon=":material/terminal:",
        )
        st.code(f"puma export table {run.id} {name} --out {name}.parquet", language=None)
        return
    table = reports.table(engine.root(), run.id, name)
    st.dataframe(table.head(PREVIEW), hide_index=True, height=420)
    st.caption(f"{len(table):,} rows, the first {min(PREVIEW, len(table)):,} are shown.")
    figures.downloads(table, f"{file_name(run)}-{name}")


def _prompts() -> None:
    st.markdown(
        "All prompts of a run in one safetensors file keyed by user id, with the prediction head and "
        "what they were fitted on; `puma prompts import` reads it."
    )
    found = reports.prompt_runs()
    if not found:
        page_states.empty("No prompts yet", "Fit or import source prompts first.")
        return
    run = _choose("Prompts", found, "prompts")
    size = reports.prompt_bytes(run)
    if size > reports.MOST_BYTES:
        st.info(
            f"These prompts take {size / 1e6:,.0f} MB, too much for a browser; the command line "
            "writes them.",
            icon=":material/terminal:",
        )
        st.code(f"puma prompts export {run.id} --out prompts.safetensors", language=None)
        return
    users = run.summary.get("users")
    st.caption(f"{users:,} users, {size / 1e6:,.2f} MB" if users else f"{size / 1e6:,.2f} MB")
    if not st.button("Make the file", icon=":material/deployed_code:", key=f"make-{run.id}"):
        return
    try:
        with st.spinner("Writing the prompts…"):
            data = reports.prompts(engine.root(), run.id)
    except engine.StoreError as error:
        page_states.failed("The prompts were not written.", error)
        return
    st.download_button(
        "Prompts as safetensors",
        data,
        f"{file_name(run)}.safetensors",
        "application/octet-stream",
        key="prompts-file",
        on_click="ignore",
        type="primary",
        icon=":material/download:",
    )


def _choose(label: str, runs: list[Run], name: str) -> Run:
    mixed = len({run.kind for run in runs}) > 1
    labels = {
        run.id: f"{f'{run.kind}: ' if mixed else ''}{short(run.name, 90)} ({run.id[:6]})"
        for run in runs
    }
    chosen = query_params.choose(label, list(labels), name, labels=labels)
    return next(run for run in runs if run.id == chosen)


def file_name(run: Run) -> str:
    """Return a run's name as a file name that every system takes."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-.")
    return (plain or run.kind)[:80]
