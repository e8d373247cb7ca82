"""Jobs: all of them, how far each is, its log and files; cancel and retry."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import formatting, job_cards, page_states, row_selection
from dashboard.components.formatting import escaped, short
from dashboard.components.glossary import show_glossary
from dashboard.components.theme import STATUSES
from dashboard.engine import job_table

LOG_LINES = 200


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Jobs")
    if not engine.jobs(1):
        page_states.empty(
            "No jobs yet",
            "Whatever takes long is a job: imports, fits, migrations, evaluations. Start one on "
            "another page, or with `--queue` on the command line; it appears here.",
            icon=":material/work_history:",
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        statuses = st.pills(
            "Status",
            list(STATUSES),
            selection_mode="multi",
            key="status",
            bind="query-params",
        )
        text = st.text_input(
            "Find", key="find", bind="query-params", placeholder="Part of a title", max_chars=200
        )
    busy = any(job.status in job_cards.ACTIVE for job in engine.jobs())
    every = job_cards.BUSY_SECONDS if busy else job_cards.IDLE_SECONDS
    page_states.live(_live, every)(list(statuses), text[:200])
    show_glossary("job", "run")


def _live(statuses: list[str], text: str) -> None:
    if job_cards.redraw_is_due(engine.jobs(200), "jobs-page"):
        st.rerun()
    found = job_cards.in_order(job_table.find(statuses, text))
    if not found:
        st.info("No job matches.", icon=":material/search_off:")
        return
    many = "1 job." if len(found) == 1 else f"{len(found):,} jobs, those at work first."
    st.caption(f"{many} Pick one to see more.")
    shown = found[: job_table.SHOWN]
    ids = [job.id for job in shown]
    frame = job_table.frame(shown)
    frame["status"] = [STATUSES[status].label for status in frame["status"]]
    one = row_selection.pick(
        frame,
        ids,
        "job",
        height=row_selection.height(len(frame), 320),
        columns={
            "status": st.column_config.TextColumn("Status"),
            "title": st.column_config.TextColumn("Title", width=330),
            "share": st.column_config.ProgressColumn(
                "Done", format="%.0f%%", min_value=0, max_value=100, width=110
            ),
            "device": st.column_config.TextColumn("Device"),
            "created": st.column_config.DatetimeColumn("Asked (UTC)", format="YYYY-MM-DD HH:mm"),
            "seconds": st.column_config.NumberColumn("Time (s)", format="%.0f"),
            "id": st.column_config.TextColumn("Id"),
        },
        alt="All jobs with their status and progress",
    )
    job = next((job for job in shown if job.id == one), shown[0])
    _detail(job)


def _detail(job: engine.Job) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"##### {escaped(job.title, 120)}", width="stretch")
            job_cards.status(job)
            job_cards.buttons(job)
        _state(job)
        facts, made = st.columns(2)
        with facts:
            _facts(job)
        with made:
            _result(job)
        log = engine.job_log(job.id, LOG_LINES)
        if not log:
            st.caption("The log is empty.")
            return
        st.caption(f"Log (the last {LOG_LINES} lines)")
        st.code(log, language=None, height=260, wrap_lines=True)


def _state(job: engine.Job) -> None:
    if job.status == "running":
        job_cards.progress(job)
        if job.cancel_asked:
            st.caption("It was asked to stop and ends at its next checkpoint.")
    elif job.status == "queued":
        job_cards.waiting(job)
    elif job.status == "interrupted":
        page_states.stale("Its process is gone. A worker goes on with it; Retry does so at once.")
    if job.error:
        page_states.failed("It ended with an error.", job.error)


def _facts(job: engine.Job) -> None:
    facts = {
        "Job": job.id,
        "Command": job.command,
        "Device": job.device or "none yet",
        "Attempt": str(job.attempt),
        "Asked (UTC)": job.created[:19].replace("T", " "),
        "Time": formatting.duration(job_table.seconds(job)),
    }
    rows = {**facts, **job_table.arguments(job)}
    frame = pd.DataFrame({"What": list(rows), "Value": [short(one, 300) for one in rows.values()]})
    st.dataframe(frame, hide_index=True, height="content", alt="Facts of the chosen job")


def _result(job: engine.Job) -> None:
    run = job_table.result(job)
    if run is None:
        ended = job.status not in (*job_cards.ACTIVE, "interrupted")
        none = "It left no result." if ended else "No result yet."
        st.caption(none if job.run_id is None else "Its result was deleted.")
        return
    st.text(f"Result: {run.kind} {short(run.name)}")
    job_cards.result_link(job)
    for artifact in job_table.artifacts(run):
        rows = f", {artifact.rows:,} rows" if artifact.rows is not None else ""
        st.download_button(
            f"{escaped(artifact.name)} ({formatting.size(artifact.bytes)}{rows})",
            lambda name=artifact.name: job_table.content(run.id, name),  # type: ignore[misc]
            f"{artifact.name}.{artifact.format}",
            key=f"file-{run.id}-{artifact.name}",
            on_click="ignore",
            type="tertiary",
            icon=":material/download:",
            disabled=artifact.bytes > job_table.MOST_DOWNLOAD,
        )
