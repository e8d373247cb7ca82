"""Sources are joined by user id, never by position."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from puma_engine.errors import MigrationError
from puma_engine.migration.adapter_training import join_sources
from puma_engine.prompts.table import PromptTable

USERS = [f"u{number}" for number in range(8)]
user_lists = st.lists(st.sampled_from(USERS), min_size=1, unique=True)


def table(users, width, seed):
    """Users in the given order, each with a vector determined by its id and the seed."""
    vectors = [
        np.random.default_rng([seed, USERS.index(user)]).normal(size=(2, width)) for user in users
    ]
    return PromptTable(np.array(users), np.array(vectors, dtype=np.float32))


@given(st.lists(st.tuples(user_lists, st.integers(1, 3)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_sources_are_joined_by_user_id(sources):
    tables = [table(users, width, seed) for seed, (users, width) in enumerate(sources)]
    common = set.intersection(*(set(users) for users, _ in sources))
    assume(common)
    ids, vectors, complete = join_sources(tables)
    assert ids.tolist() == sorted(set().union(*(users for users, _ in sources)))
    assert set(ids[complete]) == common
    start = 0
    for source in tables:
        part = vectors[:, :, start : start + source.width]
        start += source.width
        rows = source.rows_of(ids)
        np.testing.assert_array_equal(part[rows >= 0], source.take(ids[rows >= 0]))
        mean = np.broadcast_to(source.vectors.mean(axis=0), part[rows < 0].shape)
        np.testing.assert_array_equal(part[rows < 0], mean)
    assert start == vectors.shape[2]
    dropped = join_sources(tables, missing="drop")
    np.testing.assert_array_equal(dropped[0], ids[complete])
    np.testing.assert_array_equal(dropped[1], vectors[complete])
    assert dropped[2].all()


def test_sources_that_cannot_be_joined_are_refused():
    with pytest.raises(MigrationError, match="at least one source"):
        join_sources([])
    with pytest.raises(MigrationError, match="No user is in every source"):
        join_sources([table(["u1"], 2, 0), table(["u2"], 2, 0)])
    short = PromptTable(np.array(["u1"]), np.ones((1, 1, 2), np.float32))
    with pytest.raises(MigrationError, match=r"\[1, 2\] tokens"):
        join_sources([short, table(["u1"], 2, 0)])
