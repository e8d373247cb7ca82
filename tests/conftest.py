"""Settings of all tests: one thread, the folder of their files, the order of test files, and fast garbage
collections.
"""

import gc
import os
from pathlib import Path

# Sums of floats differ in their last digits with the number of threads, which follows from the load of the
# machine. Tests compare their results with those of other processes. Libraries read the variable when they are
# imported.
os.environ["OMP_NUM_THREADS"] = "1"

# The engine syncs what it writes. In memory this takes no time; a Docker container has too little of it.
MEMORY, MIN_BYTES = Path("/dev/shm"), 4 << 30
if MEMORY.is_dir():
    stats = os.statvfs(MEMORY)
    if stats.f_bavail * stats.f_frsize >= MIN_BYTES and not stats.f_flag & os.ST_NOEXEC:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Test files that take longest begin first, so that all processes of `pytest -n` end at about the same time.
FIRST = (
    "dashboard/test_browser_story.py",
    "test_types.py",
    "jobs/test_cluster.py",
    "serving/test_cluster_bulk.py",
    "jobs/test_cluster_nodes.py",
    "benchmarks/test_reliability.py",
)


def pytest_collection_modifyitems(items):
    """Move the tests of FIRST to the front, in its order."""
    tests = Path(__file__).parent
    order = {tests / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(FIRST)))


def pytest_collection_finish():
    """Exclude objects of imports from later garbage collections; tests make far fewer.

    The engine collects garbage before it loads another model.
    """
    gc.collect()
    gc.freeze()
