"""Watching jobs: how far they are, cancel, retry, logs and results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, page_states
from dashboard.components.formatting import escaped, short
from dashboard.components.theme import STATUSES

ACTIVE = ("queued", "running")
# Where the result of a command is shown: the page, and the name of its id in the address.
RESULTS = {
    "import_dataset": ("data", "dataset"),
    "add_backbone": ("models", "target"),
    "compare": ("compare", "comparison"),
    "demo": ("compare", "comparison"),
}
BUSY_SECONDS = 2.0
IDLE_SECONDS = 15.0


def watch(most: int = 5, commands: Collection[str] | None = None) -> None:
    """The newest jobs, live: quickly while one works, slowly otherwise.

    commands: only jobs of these commands. When a job ends, the whole page is drawn again, so
    that its result appears.
    """
    busy = any(job.status in ACTIVE for job in _chosen(commands))
    page_states.live(_watched, BUSY_SECONDS if busy else IDLE_SECONDS)(most, commands)


def _watched(most: int, commands: Collection[str] | None) -> None:
    found = _chosen(commands)
    if redraw_is_due(found, f"watched-{'-'.join(sorted(commands or ['all']))}"):
        st.rerun()
    if not found:
        st.caption("No jobs yet.")
    for job in found[:most]:
        card(job)


def watch_one(job: engine.Job) -> None:
    """One job, live; when it begins to work or ends, the whole page is drawn again."""
    page_states.live(_one, BUSY_SECONDS)(job.id, job.status)


def _one(job_id: str, drawn_as: str) -> None:
    job = engine.job(job_id)
    if job.status != drawn_as:
        st.rerun()
    card(job)


def redraw_is_due(found: Sequence[engine.Job], key: str) -> bool:
    """Say whether a job began to work or ended since the page was drawn; keeps what it saw."""
    active = sorted(job.id for job in found if job.status in ACTIVE)
    before = st.session_state.get(key)
    st.session_state[key] = active
    return before is not None and before != active


def _chosen(commands: Collection[str] | None) -> list[engine.Job]:
    found = [job for job in engine.jobs(200) if commands is None or job.command in commands]
    return in_order(found)


def in_order(found: Sequence[engine.Job]) -> list[engine.Job]:
    """Return jobs that run first, then those that wait, then the ended; else as they came."""
    places = {"running": 0, "queued": 1}
    return sorted(found, key=lambda job: places.get(job.status, 2))


def card(job: engine.Job, *, log_lines: int = 15) -> None:
    """One job: what it is, how far it is, its buttons and the end of its log."""
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
    """A link to what came out of a job, where a page shows that."""
    if job.run_id is not None and job.command in RESULTS:
        name, key = RESULTS[job.command]
        pages.link(name, label="See the result", **{key: job.run_id})


def status(job: engine.Job) -> None:
    """The state of a job as a badge; a running one that was asked to stop says so."""
    shown = STATUSES[job.status]
    stopping = job.status == "running" and job.cancel_asked is not None
    label = "Stopping" if stopping else shown.label
    st.badge(label, icon=shown.icon, color="orange" if stopping else shown.colour)


def buttons(job: engine.Job) -> None:
    """What can be done with a job: cancel one that waits or runs, retry one that stopped."""
    if job.status in ACTIVE:
        st.button(
            "Cancel",
            key=f"cancel-{job.id}",
            icon=":material/stop_circle:",
            disabled=job.cancel_asked is not None,
            help="It stops at its next checkpoint and can be retried from there.",
            on_click=lambda: _act(engine.cancel, job.id),
        )
    elif job.status in ("failed", "cancelled", "interrupted"):
        st.button(
            "Retry",
            key=f"retry-{job.id}",
            icon=":material/replay:",
            help="It goes on from its last checkpoint.",
            on_click=lambda: _act(engine.retry, job.id),
        )


def waiting(job: engine.Job) -> None:
    """Since when a job waits, and for what: a device, or somebody to start a worker."""
    if engine.has_worker():
        st.caption(f"Asked {formatting.ago(job.created)}; it waits for a free device.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"Asked {formatting.ago(job.created)}; no worker is running, so nothing happens.",
            width="stretch",
        )
        st.button(
            "Start a worker",
            key=f"work-{job.id}",
            icon=":material/play_arrow:",
            help="It works off all that waits, and ends then. `puma worker` does the same.",
            on_click=lambda: _act(lambda _id: engine.start_worker(), job.id),
        )


def _act(action: Callable[[str], None], job_id: str) -> None:
    try:
        action(job_id)
    except engine.PumaError as error:
        st.toast(escaped(str(error), 300), icon=":material/error:")


def progress(job: engine.Job) -> None:
    """How far a running job is: of the whole where it has parts, else of its stage."""
    said = job.progress
    step, total = said.get("step") or 0, said.get("total") or 0
    overall = said.get("overall")
    share = overall if overall is not None else (step / total if total else None)
    stage = escaped(str(said.get("stage") or "starting"))
    if share is None:
        st.progress(0.0, text=f"{stage} (began {formatting.ago(job.started)})")
        return
    left = said.get("overall_eta") if overall is not None else said.get("eta_seconds")
    parts = [f"{share:.0%} done", stage]
    if total:
        parts.append(f"step {step:,} of {total:,}")
    if said.get("loss") is not None:
        parts.append(f"loss {said['loss']:.4f}")
    if said.get("examples_per_second"):
        parts.append(f"{said['examples_per_second']:,.0f} examples/s")
    if left is not None:
        parts.append(f"about {formatting.duration(left)} left")
    st.progress(min(max(share, 0.0), 1.0), text=" · ".join(parts))
