"""Quotas: exact total, at most the group's size, proportional to weights."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from puma_engine.selection.quotas import apportion, apportion_with_minimum, stratum_weights


@st.composite
def splits(draw):
    """Weights and capacities of groups, and a total that the capacities allow."""
    capacity = np.array(draw(st.lists(st.integers(0, 30), min_size=1, max_size=12)))
    weights = st.floats(-1, 1e6, allow_nan=False)
    weights = np.array([draw(weights) for _ in capacity])
    return weights, capacity, draw(st.integers(0, int(capacity.sum())))


@given(splits())
def test_quotas_have_the_exact_total_and_respect_capacities(split):
    weights, capacity, total = split
    quota = apportion(weights, capacity, total)
    assert quota.sum() == total and (quota >= 0).all() and (quota <= capacity).all()


@given(splits())
def test_with_capacity_every_quota_is_within_one_of_its_share(split):
    weights, capacity, total = split
    weights = np.maximum(weights, 0)
    if weights.sum() == 0:
        weights = np.ones(len(weights))
    quota = apportion(weights, capacity + total, total)
    assert (np.abs(quota - total * weights / weights.sum()) < 1 + 1e-6).all()


@given(splits(), st.integers(0, 40))
def test_every_group_gets_the_minimum_that_size_and_total_allow(split, minimum):
    _, size, total = split
    quota = apportion_with_minimum(size, total, minimum)
    assert quota.sum() == total and (quota <= size).all() and (quota >= 0).all()
    allowed = minimum
    if np.minimum(size, minimum).sum() > total:
        allowed = total // len(size)
    assert (quota >= np.minimum(size, allowed)).all()


def test_the_middle_strata_have_the_largest_weights():
    weights = stratum_weights(5)
    np.testing.assert_allclose(weights, np.exp(-np.array([4, 1, 0, 1, 4]) / 2) + 0.1)
    assert stratum_weights(1).tolist() == [1.1]
