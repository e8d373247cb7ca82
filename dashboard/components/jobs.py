"""Launching a migration and watching jobs."""

from __future__ import annotations

import streamlit as st

from dashboard import engine


def launch_form() -> None:
    """A form that queues one migration."""
    sources, targets = engine.sources(), engine.backbones()
    if not sources or not targets:
        st.info("A migration needs source prompts and a target backbone in the workspace.")
        return
    with st.form("launch"):
        columns = st.columns(4)
        names = {run.id: run.name for run in [*sources, *targets]}
        source = columns[0].selectbox(
            "Source prompts", [r.id for r in sources], format_func=names.__getitem__
        )
        target = columns[1].selectbox(
            "Target model", [r.id for r in targets], format_func=names.__getitem__
        )
        strategy = columns[2].selectbox(
            "Users that train the adapter",
            list(engine.STRATEGIES),
            index=list(engine.STRATEGIES).index("kmeans-variance"),
            format_func=lambda key: f"{key}: {engine.STRATEGIES[key].about}",
        )
        percent = columns[3].slider(
            "Share of users (%)",
            1,
            100,
            10,
            help="Everyone is migrated; these users train the adapter.",
        )
        if st.form_submit_button("Start migration", type="primary"):
            try:
                job = engine.launch_migration(source, target, strategy, percent / 100)
                st.toast(f"Job {job.id} is queued.")
            except engine.PumaError as error:
                st.error("The migration was not started.")
                st.text(str(error))


@st.fragment(run_every=2.0)
def watch() -> None:
    """The latest jobs, refreshed every two seconds."""
    jobs = engine.jobs()
    if not jobs:
        st.caption("No jobs yet.")
    for job in jobs[:5]:
        _job(job)


def _job(job: engine.Job) -> None:
    progress = job.progress or {}
    with st.container(border=True):
        left, right = st.columns([5, 1])
        left.text(f"{job.title}: {job.status}")
        step, total = progress.get("step") or 0, progress.get("total") or 0
        if job.status == "running" and total:
            left.progress(min(1.0, step / total))
            left.text(
                f"{progress.get('stage')}: step {step} of {total}, loss {progress.get('loss') or 0:.4f}, "
                f"{progress.get('examples_per_second') or 0:,.0f} examples/s, "
                f"{progress.get('eta_seconds') or 0:.0f} s left"
            )
        if job.error:
            left.text(str(job.error))
        if job.status in ("queued", "running") and right.button("Cancel", key=f"cancel-{job.id}"):
            engine.cancel(job.id)
        if job.status in ("failed", "cancelled", "interrupted") and right.button(
            "Retry", key=f"retry-{job.id}"
        ):
            engine.retry(job.id)
        with left.expander("Log"):
            st.code(engine.job_log(job.id) or "The log is empty.", language=None)
