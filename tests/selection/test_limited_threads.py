"""Selections and threads of BLAS and OpenMP: few, never more than are set, and unchanged afterwards."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from puma_engine.selection.clustering import LARGE, kmeans, limited_threads


def threads():
    return {library["num_threads"] for library in threadpool_info()}


@pytest.fixture(autouse=True, scope="module")
def libraries():
    """Load the libraries: numpy's and scipy's BLAS, and the OpenMP of scikit-learn."""
    kmeans(np.random.default_rng(0).random((20, 3)), 2, 0)


@pytest.mark.parametrize(
    ("available", "limit", "used"), [(1, 4, 1), (2, 4, 2), (3, 1, 1), (6, 4, 4), (4, 4, 4)]
)
def test_a_limit_never_adds_threads_and_is_over_afterwards(available, limit, used):
    with threadpool_limits(available):
        with limited_threads(100, limit):
            assert threads() == {used}
        assert threads() == {available}


def test_large_tables_use_all_threads_that_are_set():
    with threadpool_limits(3), limited_threads(LARGE):
        assert threads() == {3}


def test_selections_at_the_same_time_leave_the_setting_as_it_was():
    def select(_):
        with limited_threads(100, 1):
            time.sleep(0.02)

    with threadpool_limits(2, "blas"):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(select, range(8)))
        assert {
            library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
        } == {2}
