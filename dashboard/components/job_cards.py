"""Cards of jobs that update by themselves: progress, log, result, cancel and retry."""

from collections.abc import Callable, Collection, Sequence

import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, page_states
from dashboard.components.formatting import escaped, short
from dashboard.components.theme import STATUSES

ACTIVE = ("queued", "running")
# The page that shows the result of a command, and the query parameter of its id.
RESULTS = {
    "import_dataset": ("data", "dataset"),
    "add_backbone": ("models", "target"),
    "compare": ("compare", "comparison"),
    "demo": ("compare", "comparison"),
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
        if not jobs:
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
            st.markdown(f"**{escaped(job.title, 100)}**", width="stretch")
            result_link(job)
            status(job)
            buttons(job)
        if job.status == "running":
            progress(job)
        elif job.status == "queued":
            waiting(job)
        if job.error:
            st.text(short(job.error, 500))
        if job.status not in ("queued", "finished"):
            with st.expander("Log"):
                st.code(engine.job_log(job.id, log_lines) or "The log is empty.", language=None)


def result_link(job: engine.Job) -> None:
    """Show a link to the result of a job if a page shows it."""
    if job.run_id is not None and job.command in RESULTS:
        name, key = RESULTS[job.command]
        pages.link(name, label="See the result", **{key: job.run_id})


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
            "Retry",
            key=f"retry-{job.id}",
            icon=":material/replay:",
            help="The job continues from its last checkpoint.",
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
    overall = report.get("overall")
    share = overall if overall is not None else (step / total if total else None)
    stage = escaped(str(report.get("stage") or "starting"))
    if share is None:
        st.progress(0.0, text=f"{stage} (started {formatting.ago(job.started)})")
        return
    left = report.get("overall_eta") if overall is not None else report.get("eta_seconds")
    parts = [f"{share:.0%} done", stage]
    if total:
        parts.append(f"step {step:,} of {total:,}")
    if report.get("loss") is not None:
        parts.append(f"loss {report['loss']:.4f}")
    if report.get("examples_per_second"):
        parts.append(f"{report['examples_per_second']:,.0f} examples/s")
    if left is not None:
        parts.append(f"about {formatting.duration(left)} left")
    st.progress(min(max(share, 0.0), 1.0), text=" · ".join(parts))
