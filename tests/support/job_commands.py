"""Commands for tests of jobs, and the processes that run them.

job_commands.py job <workspace> <id> <attempt>: the process of a job.
job_commands.py worker <workspace> <idle seconds> [device ...]: a worker that starts such jobs.
"""

import os
import signal
import sys
import time
from pathlib import Path

from puma_engine.errors import Cancelled, DataError
from puma_engine.jobs import runner, worker_loop


def count(
    ws,
    *,
    progress,
    should_cancel,
    steps=3,
    seconds=0,
    name="count",
    log=None,
    pause_at=None,
    release=None,
):
    """Count steps in a file of the run, so that they survive a kill; log each start and end.

    Before step `pause_at` it waits until the file `release` exists, or for a cancel.
    """
    run = ws.begin("dataset", name=name, config={"count": name}, inputs={})
    if run.status == "finished":
        return run
    note(log, "begin", name)
    checkpoint = ws.work(run.id) / "step"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    print(f"goes on from step {done}", flush=True)
    for step in range(done, steps):
        progress({"stage": "counting", "step": step, "total": steps, "eta_seconds": 1.0})
        while step == pause_at and not Path(release).exists() and not should_cancel():
            time.sleep(0.02)
        if should_cancel():
            ws.fail(run.id, "cancelled")
            raise Cancelled(f"Stopped at step {step}.")
        time.sleep(seconds)
        checkpoint.write_text(str(step + 1))
    progress({"stage": "counting", "step": steps, "total": steps})
    note(log, "end", name)
    return ws.finish(
        run.id, seconds=1.0, device="cpu", summary={"steps": steps, "resumed_at": done}
    )


def note(log, what, name):
    if log:
        with Path(log).open("a") as file:
            file.write(f"{what} {name} {os.environ['CUDA_VISIBLE_DEVICES']}\n")


def fail_once(ws, *, progress, should_cancel, marker):
    """Fail the first time, count the second."""
    if not Path(marker).exists():
        Path(marker).touch()
        raise DataError("The table has no column 'outcome'; name it.")
    return count(ws, progress=progress, should_cancel=should_cancel)


def crash(ws, *, progress, should_cancel):
    """Kill the process at every attempt."""
    os.kill(os.getpid(), signal.SIGKILL)


def paused_fit(ws, *, progress, should_cancel, pause_after, release, **settings):
    """Fit prompts; after so many steps wait until the file `release` exists."""
    from puma_engine import pipeline

    steps = 0

    def stop():
        nonlocal steps
        steps += 1
        while steps == pause_after and not Path(release).exists():
            time.sleep(0.02)
        return should_cancel()

    return pipeline.fit_prompts(ws, **settings, progress=progress, should_cancel=stop)


COMMANDS = {"count": count, "fail_once": fail_once, "crash": crash, "paused_fit": paused_fit}


def job_command(ws, job):
    return [sys.executable, "-u", __file__, "job", str(ws.root), job.id, str(job.attempt)]


if __name__ == "__main__":
    runner.POLL_SECONDS = worker_loop.POLL_SECONDS = 0.1
    role, *rest = sys.argv[1:]
    sys.exit(runner.main(rest, COMMANDS) if role == "job" else worker_loop.main(rest, job_command))
