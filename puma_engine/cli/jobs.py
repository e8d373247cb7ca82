"""puma jobs and puma worker: queued work in processes of its own."""

from typing import Annotated

import typer

from puma_engine.cli.session import session
from puma_engine.errors import ConfigError

app = typer.Typer(name="jobs", help="List, cancel and retry queued jobs.")
JobId = Annotated[str, typer.Argument(help="Job id.")]


@app.command("list")
def list_() -> None:
    """List jobs with their progress."""
    from puma_engine.jobs import jobs

    items = jobs(session.open())
    rows = []
    for job in items:
        progress = job.progress or {}
        done, total = progress.get("step"), progress.get("total")
        rows.append(
            {
                "id": job.id,
                "status": job.status,
                "title": job.title,
                "stage": progress.get("stage"),
                "done": f"{100 * done / total:.0f} %" if done is not None and total else None,
                "run": job.run_id,
                "error": job.error,
            }
        )
    session.table(rows, raw=items)


@app.command("show")
def show(job: JobId) -> None:
    """Show a job: arguments, progress, process, log file, error."""
    from puma_engine.jobs import job as get

    session.show(get(session.open(), job))


@app.command("log")
def log(
    job: JobId, lines: Annotated[int, typer.Option("--lines", help="Number of lines.")] = 50
) -> None:
    """Print the end of a job's log."""
    from puma_engine.jobs import read_log

    text = read_log(session.open(), job, lines)
    if session.as_json:
        session.json({"id": job, "lines": text.splitlines()})
        return
    print(text or "The log is empty.")


@app.command("cancel")
def cancel(job: JobId) -> None:
    """Ask a job to stop; a training stops at a checkpoint and can continue from there."""
    from puma_engine.jobs import cancel as ask

    session.show(ask(session.open(), job))


@app.command("retry")
def retry(job: JobId) -> None:
    """Queue a failed, cancelled or interrupted job again; it continues where it stopped."""
    from puma_engine.jobs import retry as again

    session.show(again(session.open(), job))


def worker(
    once: Annotated[bool, typer.Option("--once", help="Stop when the queue is empty.")] = False,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="Device to use, one job each; repeat it (default: all)."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", help="Ray cluster that computes the jobs: ray, ray://HOST:PORT or HOST:PORT."
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", help="Jobs on the cluster at the same time (default: 4).", min=1),
    ] = None,
) -> None:
    """Run queued jobs as detached processes, one for each device, until stopped."""
    import logging
    import os

    from puma_engine.jobs import dispatch, worker_loop
    from puma_engine.jobs import worker as work

    if on is not None and device:
        raise ConfigError("Give --device for this machine or --on for a cluster, not both.")
    if on is None and at_once is not None:
        raise ConfigError("--at-once counts jobs on a cluster; name it with --on.")
    if on is not None:
        # Jobs are separate processes, which inherit it.
        os.environ[dispatch.VARIABLE] = dispatch.checked_address(on)
        device = worker_loop.cluster_slots(at_once or worker_loop.CLUSTER_JOBS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work(session.open(), devices=device or None, once=once)
