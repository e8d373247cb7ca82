"""Cards of jobs that update by themselves: progress, log, result, cancel and retry."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, page_states
from dashboard.components.formatting import capitalised, escaped, percent, short
from dashboard.components.theme import STATUSES
from dashboard.engine import job_table

ACTIVE = ("queued", "running")
# The page that shows the result of a command, and the query parameter of its id.
RESULTS = {
    "import_dataset": ("data", "dataset"),
    "add_backbone": ("models", "target"),
    "compare": ("compare", "comparison"),
    "demo": ("overview", "comparison"),
    "run_plan": ("overview", "comparison"),
}
BUSY_SECONDS = 2.0
IDLE_SECONDS = 15.0


def watch(limit: int = 5, commands: Collection[str] | None = None) -> None:
    """Show the newest jobs, of some commands if given, and update them.

    When a job starts or ends, the whole page is drawn again, so that its result appears.
    """

    def chosen() -> list[engine.Job]:
        jobs = engine.jobs(200)
        return in_order([job for job in jobs if commands is None or job.command in commands])

    def draw() -> None:
        jobs = chosen()
        if redraw_is_due(jobs, f"watched-{'-'.join(sorted(commands or ['all']))}"):
            st.rerun()
        if not jobs and commands is None:
            st.caption("No jobs yet.")
        for job in jobs[:limit]:
            card(job)

    busy = any(job.status in ACTIVE for job in chosen())
    page_states.live(draw, BUSY_SECONDS if busy else IDLE_SECONDS)()


def watch_one(job: engine.Job) -> None:
    """Show one job and update it; when its status changes, the whole page is drawn again."""

    def draw() -> None:
        now = engine.job(job.id)
        if now.status != job.status:
            st.rerun()
        card(now)

    page_states.live(draw, BUSY_SECONDS)()


def redraw_is_due(jobs: Sequence[engine.Job], key: str) -> bool:
    """Say whether a job was queued or ended since the last call with this session key."""
    active = sorted(job.id for job in jobs if job.status in ACTIVE)
    before = st.session_state.get(key)
    st.session_state[key] = active
    return before is not None and before != active


def in_order(jobs: Sequence[engine.Job]) -> list[engine.Job]:
    """Return running jobs first, then queued ones, then the rest, otherwise in the given order."""
    ranks = {"running": 0, "queued": 1}
    return sorted(jobs, key=lambda job: ranks.get(job.status, 2))


def card(job: engine.Job, *, log_lines: int = 15) -> None:
    """Show one job: title, status, progress, buttons and the end of its log."""
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{escaped(capitalised(job.title), 100)}**", width="stretch")
            result_link(job)
            status(job)
            buttons(job)
        state(job)
        if job.status not in ("queued", "finished"):
            with st.expander("Log"):
                st.code(engine.job_log(job.id, log_lines) or "The log is empty.", language=None)


def state(job: engine.Job) -> None:
    """Show what a job does, waits for, or how it ended, with its stages and where it would go on."""
    ended = job.status in ("failed", "cancelled", "interrupted")
    if job.status == "running":
        progress(job)
        if job.cancel_asked:
            st.caption("It was asked to stop and will end at its next checkpoint.")
        elif job.attempt > 1 and job.error:
            st.caption(f"Attempt {job.attempt}. The one before: {escaped(job.error, 300)}")
    elif job.status == "queued":
        waiting(job)
    elif job.status == "failed":
        st.markdown(":material/error: **The job failed.**")
        st.text(short(job.error or "Its log may say why.", 500))
    elif job.status == "cancelled":
        by_whom = "" if engine.read_only() else " by you"
        st.markdown(f":material/cancel: **Cancelled{by_whom}.**")
        if job.error:
            st.text(short(job.error, 500))
    elif job.status == "interrupted":
        page_states.stale("Interrupted: its process is gone.")
        st.text(
            "A worker continues it by itself." if engine.has_worker() else "No worker is running."
        )
        if job.error:
            st.text(short(job.error, 500))
    if job.status != "queued":
        stages(job)
    if ended and not engine.read_only():
        st.text(short(resume_text(job), 300))


# A finished job with more stages shows them on demand.
MAX_OPEN_STAGES = 6
STAGES = {
    "finished": ":green[:material/check_circle:]",
    "reused": ":green[:material/check_circle:]",
    "running": ":blue[:material/play_circle:]",
    "stopped": ":orange[:material/pause_circle:]",
    "waiting": ":gray[:material/radio_button_unchecked:]",
}


def stages(job: engine.Job) -> None:
    """Show the stages of a job that has several, with how long each took."""
    lines = []
    for part in job.progress.get("parts") or ():
        status = str(part.get("status"))
        if status == "running" and job.status != "running":
            status = "finished" if job.status == "finished" else "stopped"
        text = escaped(job_table.step_title(str(part.get("title"))), 100)
        if status == "reused":
            text += " :gray[– was there already]"
        elif part.get("seconds") is not None:
            text += f" :gray[– {formatting.duration(part['seconds'])}]"
        elif status == "running":
            text = f"**{text}**"
        lines.append(f"{STAGES.get(status, STAGES['waiting'])} {text}")
    if not lines:
        return
    # Two spaces before a line's end break it.
    text = "  \n".join(lines)
    if job.status == "finished" and len(lines) > MAX_OPEN_STAGES:
        with st.expander(f"{len(lines)} steps"):
            st.markdown(text)
    else:
        st.markdown(text)


def resume_text(job: engine.Job) -> str:
    """Say where a stopped job goes on when it is tried again."""
    report = job.progress
    parts = report.get("parts") or []
    done = sum(part.get("status") in ("finished", "reused") for part in parts)
    stage = str(report.get("stage") or "")
    if report.get("saved_step"):
        position = f"step {report['saved_step']:,}"
        if report.get("total"):
            position += f" of {report['total']:,}"
        if report.get("saved_epoch"):
            position += f" (epoch {report['saved_epoch'] + 1})"
        return f"Resume goes on from {position} of: {stage}."
    if done:
        return f"Resume keeps {done} of {len(parts)} stages and begins again with: {stage}."
    return "Retry starts it from the beginning: it had saved nothing yet."


def can_resume(job: engine.Job) -> bool:
    """Say whether a stopped job keeps some of its work."""
    parts = job.progress.get("parts") or []
    done = any(part.get("status") in ("finished", "reused") for part in parts)
    return done or bool(job.progress.get("saved_step"))


def result_link(job: engine.Job) -> None:
    """Show a link to the result of a job if a page shows it."""
    if job.run_id is not None and job.command in RESULTS:
        name, key = RESULTS[job.command]
        pages.link(name, label="See the result", **{key: job.run_id})
        if job.command == "import_dataset" and not engine.read_only():
            label = "Next: migrate with these data"
            pages.link("plan", label=label, icon=":material/arrow_forward:", dataset=job.run_id)


def status(job: engine.Job) -> None:
    """Show the status of a job as a badge, "Stopping" for a running job that is to be cancelled."""
    shown = STATUSES[job.status]
    stopping = job.status == "running" and job.cancel_asked is not None
    label = "Stopping" if stopping else shown.label
    st.badge(label, icon=shown.icon, color="orange" if stopping else shown.colour)


def buttons(job: engine.Job) -> None:
    """Show the button that cancels an active job, or retries a stopped one."""
    if engine.read_only():
        return
    if job.status in ACTIVE:
        st.button(
            "Cancel",
            key=f"cancel-{job.id}",
            icon=":material/stop_circle:",
            disabled=job.cancel_asked is not None,
            help="The job stops at its next checkpoint and can be continued from there.",
            on_click=lambda: _act(engine.cancel, job.id),
        )
    elif job.status in ("failed", "cancelled", "interrupted"):
        st.button(
            "Resume" if can_resume(job) else "Retry",
            key=f"retry-{job.id}",
            icon=":material/replay:",
            help=escaped(resume_text(job), 300),
            on_click=lambda: _act(engine.retry, job.id),
        )


def waiting(job: engine.Job) -> None:
    """Show since when a job is queued and what it waits for; offer a worker if none is running."""
    if engine.has_worker():
        st.caption(f"Queued {formatting.ago(job.created)}; it waits for a free device.")
        return
    if engine.read_only():
        st.caption(f"Queued {formatting.ago(job.created)}; no worker is running.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"Queued {formatting.ago(job.created)}; no worker is running.", width="stretch")
        st.button(
            "Start a worker",
            key=f"work-{job.id}",
            icon=":material/play_arrow:",
            help="It runs all queued jobs and then ends. `puma worker` does the same.",
            on_click=lambda: _act(engine.start_worker),
        )


def _act(action: Callable[..., None], *args: str) -> None:
    try:
        action(*args)
    except engine.PumaError as error:
        st.toast(escaped(str(error), 300), icon=":material/error:")


def progress(job: engine.Job) -> None:
    """Show the progress of a running job: overall if it has several parts, else of its stage."""
    report = job.progress
    step, total = report.get("step") or 0, report.get("total") or 0
    share = job_table.share_done(report)
    stage = escaped(job_table.step_title(str(report.get("stage") or "starting")))
    if share is None:
        st.progress(0.0, text=f"{stage} · started {formatting.ago(job.started)}")
        return
    parts = [f"{percent(share)} done", time_left(report), stage]
    if total:
        parts.append(f"step {step:,} of {total:,}")
    if report.get("loss") is not None:
        parts.append(f"loss {report['loss']:.4f}")
    if report.get("examples_per_second"):
        parts.append(f"{report['examples_per_second']:,.0f} examples/s")
    st.progress(min(max(share, 0.0), 1.0), text=" · ".join(parts))


def time_left(report: Mapping[str, Any]) -> str:
    """Return the time left by a job's last report as text."""
    left = report.get("left")
    if not left:
        return "estimating the time left"
    return f"{formatting.duration_range(*left)} left"
