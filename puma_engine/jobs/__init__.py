"""Queued work in processes of its own, which outlive the process that asked for it."""

from puma_engine.jobs.queue import JOB_STATUSES, Job, cancel, enqueue, job, jobs, read_log, retry
from puma_engine.jobs.worker_loop import ensure_worker, find_devices, worker, workers

__all__ = [
    "JOB_STATUSES",
    "Job",
    "cancel",
    "enqueue",
    "ensure_worker",
    "find_devices",
    "job",
    "jobs",
    "read_log",
    "retry",
    "worker",
    "workers",
]
