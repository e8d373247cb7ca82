"""Nodes whose long runs cannot end before a test has seen their checkpoint.

waiting_nodes.py <workspace> <id> <attempt>: the process of a job that computes on such nodes.
"""

import sys

from puma_engine.jobs import cluster, runner
from puma_engine.jobs.node_worker import NodeWorker

# A run that began anew would report fewer steps first.
MANY = 100


class WaitingWorker(NodeWorker):
    """Computes as any node does, and stops behind a checkpoint of MANY steps until the run is cancelled.

    A run that goes on from a checkpoint does not stop.
    """

    def start(self, task):
        self._anew = not task["checkpoint"]
        super().start(task)

    def _take_report(self, progress):
        super()._take_report(progress)
        if self._anew and progress.saved_step >= MANY:
            self._cancelled.wait()


def job_command(ws, job):
    return [sys.executable, "-u", __file__, str(ws.root), job.id, str(job.attempt)]


if __name__ == "__main__":
    # Nodes know the class by the name of this module.
    from waiting_nodes import WaitingWorker

    cluster.NodeWorker = WaitingWorker
    sys.exit(runner.main())
