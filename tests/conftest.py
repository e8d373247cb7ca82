"""What holds for all tests: one thread, where their files are, and the order of test files."""

import os
from pathlib import Path

# Sums of floats differ in their last digits with the number of threads, which would follow from the load
# of the machine; tests compare what they compute with what other processes do. Libraries read it when they
# are imported.
os.environ["OMP_NUM_THREADS"] = "1"

# The engine syncs what it writes. In memory this takes no time; a Docker container has too little of it.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30
if MEMORY.is_dir():
    about = os.statvfs(MEMORY)
    if about.f_bavail * about.f_frsize >= ROOM and not about.f_flag & os.ST_NOEXEC:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Test files that take longest begin first, so that all processes of `pytest -n` end at about the same time.
FIRST = (
    "dashboard/test_browser_story.py",
    "test_types.py",
    "jobs/test_cluster.py",
    "serving/test_cluster_bulk.py",
    "jobs/test_cluster_training.py",
    "jobs/test_cluster_nodes.py",
    "benchmarks/test_reliability.py",
)


def pytest_collection_modifyitems(items):
    """Move the tests of FIRST to the front, in its order."""
    here = Path(__file__).parent
    places = {here / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(FIRST)))
