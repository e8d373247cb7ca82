"""Nodes whose long runs cannot end before a test has seen their checkpoint.

waiting_nodes.py <workspace> <id> <attempt>: the process of a job that computes on such nodes.
waiting_nodes.py <workspace> <address> <requests as JSON>: a command that computes several runs at the same time
there; requests: the arguments of each command by its name. It makes a file `reached-COMMAND` in the workspace when
the node of a run waits.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from puma_engine.jobs import cluster, runner
from puma_engine.jobs.node_worker import NodeWorker
from puma_engine.store import Workspace

# Steps at the checkpoint: a run that restarted would first report fewer.
MANY = 100
# An evaluation has no steps and no checkpoint.
EVALUATING = "evaluating"


class WaitingWorker(NodeWorker):
    """Computes as any node does, and stops behind a checkpoint of MANY steps until the run is cancelled.

    A run that goes on from a checkpoint does not stop.
    """

    def start(self, task):
        self._anew = not task["checkpoint"]
        super().start(task)

    def _take_report(self, progress):
        super()._take_report(progress)
        if self._anew and self.is_in_the_middle(progress):
            self._cancelled.wait()

    @staticmethod
    def is_in_the_middle(progress):
        return progress.saved_step >= MANY


class WaitingEvaluator(WaitingWorker):
    """A node that also stops when an evaluation begins."""

    @staticmethod
    def is_in_the_middle(progress):
        return progress.saved_step >= MANY or progress.stage.startswith(EVALUATING)


def job_command(ws, job):
    return [sys.executable, "-u", __file__, str(ws.root), job.id, str(job.attempt)]


def compute(root, address, requests):
    ws = Workspace.open(root)

    def run(command, arguments):
        def progress(report):
            if WaitingEvaluator.is_in_the_middle(report):
                (Path(root) / f"reached-{command}").touch()

        return on.run(ws, command, arguments, progress=progress)

    with cluster.Cluster(address) as on, ThreadPoolExecutor(len(requests)) as pool:
        list(pool.map(run, requests, requests.values()))


if __name__ == "__main__":
    # Nodes know the classes by the name of this module.
    import waiting_nodes

    cluster.POLL_SECONDS, cluster.CHECKPOINT_SHARE, runner.POLL_SECONDS = 0.05, 1e6, 0.1
    if sys.argv[3].isdecimal():
        cluster.NodeWorker = waiting_nodes.WaitingWorker
        sys.exit(runner.main())
    cluster.NodeWorker = waiting_nodes.WaitingEvaluator
    compute(*sys.argv[1:3], json.loads(sys.argv[3]))
