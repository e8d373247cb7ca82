"""Export: download a comparison as one page or as a report, tables as CSV or Parquet, prompts as safetensors."""

import re
from urllib.parse import urljoin

import streamlit as st

from dashboard import engine, pages
from dashboard.components import figures, page_states, published, query_params, tables, verdicts
from dashboard.components.glossary import show_glossary
from dashboard.engine import Run, comparisons, reports

PREVIEW_ROWS = 200
PARTS = {"report": "Report of a comparison", "table": "Tables of a run", "prompts": "Prompts"}


@page_states.guarded
def page() -> None:
    """Draw the page below its title."""
    part = query_params.segment("What to download", PARTS, "part", label_visibility="collapsed")
    {"report": _report, "table": _tables, "prompts": _prompts}[part]()
    show_glossary("run", "interval", "soft prompt", "lineage")


def _report() -> None:
    st.markdown(
        "The decision on one page that prints on a sheet of A4, or a full report with the evidence, "
        "every method with intervals and costs, users who regress, lineage, seeds and versions. Both are "
        "HTML files that open without a network."
    )
    compared = comparisons.own_first(engine.runs("comparison"))
    if not compared:
        page_states.empty("No comparison is finished", "Compare methods first.")
        pages.link("compare", label="Compare methods")
        return
    left, right = st.columns([4, 1])
    with left:
        run = query_params.choose_run("Comparison", compared, "comparison")
    with right:
        margin = verdicts.margin()
    published.mark(run)
    with st.container(border=True):
        verdicts.headline(comparisons.verdict(engine.root(), run.id, margin))
    percent = f"{100 * margin:.1f}"
    address = page_address(st.context.url, pages.url("overview", comparison=run.id, margin=percent))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "One page to print",
            lambda: reports.one_page(
                engine.root(), run.id, run.name, margin, address, len(engine.runs("anchors"))
            ).encode(),
            f"{file_name(run)}-one-page.html",
            "text/html",
            key="one-page-html",
            on_click="ignore",
            type="primary",
            icon=":material/print:",
        )
        st.download_button(
            "Full report",
            lambda: reports.report(engine.root(), run.id, run.name, margin).encode(),
            f"{file_name(run)}.html",
            "text/html",
            key="report-html",
            on_click="ignore",
            icon=":material/description:",
        )
        pages.link("overview", label="Back to the Summary", comparison=run.id, margin=percent)
        pages.link("compare", label="Open on Trade-off", comparison=run.id, margin=percent)


def _tables() -> None:
    st.markdown("Any table of any run, as CSV for spreadsheets or Parquet for programs.")
    runs = reports.runs_with_tables()
    if not runs:
        text = "Imports, selections, evaluations and comparisons have tables."
        page_states.empty("No tables yet", text)
        return
    left, right = st.columns([3, 1])
    with left:
        run = query_params.choose_run("Run", runs, "run")
    names = reports.table_names(engine.workspace(), run)
    with right:
        name = query_params.choose("Table", names, "table")
    count = reports.rows(run, name)
    if count is not None and count > reports.MAX_ROWS:
        st.info(
            f"This table has {count:,} rows, too many for a browser. Use the command line:",
            icon=":material/terminal:",
        )
        st.code(f"puma export table {run.id} {name} --out {name}.parquet", language=None)
        return
    table = reports.table(engine.root(), run.id, name)
    tables.show(table.head(PREVIEW_ROWS), height=420)
    st.caption(f"{len(table):,} rows, the first {min(PREVIEW_ROWS, len(table)):,} are shown.")
    figures.downloads(table, f"{file_name(run)}-{name}")


def _prompts() -> None:
    st.markdown(
        "All prompts of a run in one safetensors file by user id, with the prediction head and the "
        "data they were fitted on. `puma prompts import` reads it."
    )
    runs = reports.prompt_runs()
    if not runs:
        page_states.empty("No prompts yet", "Fit or import source prompts first.")
        return
    run = query_params.choose_run("Prompts", runs, "prompts")
    size = reports.prompt_bytes(run)
    if size > reports.MAX_BYTES:
        st.info(
            f"These prompts take {size / 1e6:,.0f} MB, too much for a browser. Use the command "
            "line:",
            icon=":material/terminal:",
        )
        st.code(f"puma prompts export {run.id} --out prompts.safetensors", language=None)
        return
    users = run.summary.get("users")
    st.caption(f"{users:,} users, {size / 1e6:,.2f} MB" if users else f"{size / 1e6:,.2f} MB")
    if not st.button("Prepare the file", icon=":material/deployed_code:", key=f"make-{run.id}"):
        return
    with page_states.caught("The prompts were not written."):
        with st.spinner("Writing the prompts…"):
            data = reports.prompts(engine.root(), run.id)
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


def page_address(current: str | None, page: str) -> str | None:
    """Return the full address of a page beside the current one; None where that is not known."""
    return urljoin(current, page) if current else None


def file_name(run: Run) -> str:
    """Return a run's name as a portable file name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-.")
    return (plain or run.kind)[:80]
