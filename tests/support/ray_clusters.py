"""Ray clusters of several nodes on this machine, for tests."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0f6e3a5b" * 8
# What the clusters inherit: no statistics are sent, and each node computes with one thread. A node is
# lost when it answers no connection five times, and neither a full memory nor a slow answer ends one.
# Nodes compete with other tests on equal terms, and start no process before one is needed. Ray Train looks for
# lost processes often, does not wait long for the others, and watches no cloud that announces the end of a node.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AUTH_MODE": "disabled",
    # No test needs a token; it must appear neither in stored data nor in logs.
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_period_ms": "200",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1",
    "RAY_memory_monitor_refresh_ms": "0",
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def ray_cluster(nodes=2, cpus=1, **head):
    """Yield a cluster: a head node that computes nothing, and nodes of so many CPUs each."""
    from ray.cluster_utils import Cluster

    # Nodes import the same modules as this process, including test modules.
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = ENVIRONMENT | {"PYTHONPATH": paths}
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **head},
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=cpus)
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
