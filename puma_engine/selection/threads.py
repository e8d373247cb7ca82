"""How many threads numerical libraries may use: more than a few slow small problems down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

FEW = 4
# Numbers in a table from which more threads pay.
LARGE = 100_000_000


@contextmanager
def few_threads(size: int, few: int = FEW) -> Iterator[None]:
    """Let BLAS and OpenMP use at most a few threads within, unless `size` numbers are many."""
    from threadpoolctl import threadpool_limits

    limit = few if size < LARGE else os.cpu_count()
    with threadpool_limits(limit):
        yield
