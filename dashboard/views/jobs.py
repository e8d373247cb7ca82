"""Jobs: status, progress, log and files of every job; cancel and retry."""

import pandas as pd
import streamlit as st
from streamlit.column_config import DatetimeColumn, NumberColumn, ProgressColumn, TextColumn

from dashboard import engine
from dashboard.components import (
    cluster_nodes,
    formatting,
    job_cards,
    page_states,
    query_params,
    tables,
)
from dashboard.components.formatting import capitalised, escaped, short
from dashboard.components.glossary import show_glossary
from dashboard.components.theme import STATUSES
from dashboard.engine import job_table

LOG_LINES = 200
# A log of fewer lines is shown whole.
SHORT_LOG, LOG_PIXELS = 8, 260


@page_states.guarded
def page() -> None:
    """Draw the page below its title."""
    cluster_nodes.show()
    if not engine.jobs(1):
        page_states.empty(
            "No jobs yet",
            "Imports, fits, migrations and evaluations run as jobs. Start one on another page, or with "
            "`--queue` on the command line.",
            icon=":material/work_history:",
        )
        return
    # page.css keeps the place of this row, which is lower while its widgets load.
    with st.container(horizontal=True, vertical_alignment="bottom", key="activity-filter"):
        statuses = query_params.choose_many(
            "Status",
            list(STATUSES),
            "status",
            labels={status: shown.label for status, shown in STATUSES.items()},
            draw=st.pills,
            selection_mode="multi",
            wrap=True,
        )
        text = st.text_input(
            "Find", key="find", bind="query-params", placeholder="Part of a title", max_chars=200
        )
    busy = any(job.status in job_cards.ACTIVE for job in engine.jobs())
    every = job_cards.BUSY_SECONDS if busy else job_cards.IDLE_SECONDS
    page_states.live(_live, every)(statuses, text[:200])
    show_glossary("job", "run")


def _live(statuses: list[str], text: str) -> None:
    if job_cards.redraw_is_due(engine.jobs(200), "jobs-page"):
        st.rerun()
    matches = job_cards.in_order(job_table.find(statuses, text))
    if not matches:
        st.info("No job matches.", icon=":material/search_off:")
        return
    count = "1 job." if len(matches) == 1 else f"{len(matches):,} jobs, running ones first."
    st.caption(f"{count} Select one to show its details.")
    shown = matches[: job_table.MAX_SHOWN]
    frame = job_table.frame(shown)
    selected = tables.select_row(
        frame.assign(status=[STATUSES[status].label for status in frame["status"]]),
        [job.id for job in shown],
        "job",
        height=tables.height(len(frame), 320),
        columns={
            "status": "Status",
            "title": TextColumn("Title", width=420),
            "share": ProgressColumn(
                "Done", format="%.0f %%", min_value=0, max_value=100, width=110
            ),
            "device": "Device",
            "created": DatetimeColumn("Queued (UTC)", format="YYYY-MM-DD HH:mm"),
            "seconds": NumberColumn("Time (s)", format="%.0f"),
            "id": "Id",
        },
        alt="All jobs with their status and progress",
    )
    _detail(next((job for job in shown if job.id == selected), shown[0]))


def _detail(job: engine.Job) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"## {escaped(capitalised(job.title), 120)}", width="stretch")
            job_cards.status(job)
            job_cards.buttons(job)
        job_cards.state(job)
        left, right = st.columns([3, 2])
        with left:
            facts = {
                "Job": job.id,
                "Kind": job_table.command(job.command),
                "Device": engine.device(job.device) if job.device else "none yet",
                "Attempt": str(job.attempt),
                "Queued (UTC)": job.created[:19].replace("T", " "),
                "Time": formatting.duration(job_table.seconds(job)),
            }
            if node := job.progress.get("node"):
                facts["Node"] = node
            facts |= job_table.arguments(job)
            rows = [(name, short(value, 300)) for name, value in facts.items()]
            frame = pd.DataFrame(rows, columns=["What", "Value"])
            columns = {"What": TextColumn(width=210), "Value": TextColumn(width=380)}
            tables.show(frame, columns, height="content", alt="Details of the selected job")
        with right:
            _result(job)
        log = engine.job_log(job.id, LOG_LINES)
        if not log:
            st.caption("The log is empty.")
            return
        st.caption(f"Log (the last {LOG_LINES} lines)")
        whole = log.count("\n") < SHORT_LOG
        st.code(log, language=None, height="content" if whole else LOG_PIXELS, wrap_lines=True)


def _result(job: engine.Job) -> None:
    run = job_table.result(job)
    if run is None:
        is_final = job.status not in (*job_cards.ACTIVE, "interrupted")
        missing = "It has no result." if is_final else "No result yet."
        st.caption(missing if job.run_id is None else "Its result was deleted.")
        return
    st.text(f"Result: {job_table.run_kind(run.kind)} {short(run.name)}")
    job_cards.result_link(job)
    with st.container(gap="xxsmall"):
        for file in engine.workspace().artifacts(run.id):
            rows = f", {file['rows']:,} rows" if file["rows"] is not None else ""
            st.download_button(
                f"{escaped(job_table.file_label(file['name']))} ({formatting.size(file['bytes'])}{rows})",
                lambda name=file["name"]: job_table.content(run.id, name),  # type: ignore[misc]
                f"{file['name']}.{file['format']}",
                key=f"file-{run.id}-{file['name']}",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
                disabled=file["bytes"] > job_table.MAX_DOWNLOAD,
            )
