"""Properties of splits, caps and seeded sampling."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_engine.datasets.importers.clicks import sample_negatives
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    latest_of_each_pair,
)
from puma_engine.datasets.splits import SPLITS, assign_splits, cap_rows, latest_share

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**32)


def columns(rows: list[tuple[int, int]], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return groups, times and distinct random keys of rows (group, time)."""
    group, time = np.array(rows).T
    return group, time, np.random.default_rng(seed).permutation(len(rows)).astype(np.uint64)


@settings(max_examples=60, deadline=None)
@given(ROWS, SEEDS, st.booleans())
def test_splits_have_the_documented_sizes_and_depend_on_no_other_row(
    rows: list[tuple[int, int]], seed: int, timed: bool
) -> None:
    group, time, key = columns(rows, seed)
    times = time if timed else None
    split = assign_splits(group, key, times)
    for number in np.unique(group):
        of_group = split[group == number]
        size = len(of_group)
        held = size >= 5
        assert (of_group == "test").sum() == (max(1, round(size * 0.2)) if held else 0)
        assert (of_group == "validation").sum() == (max(1, round(size * 0.1)) if held else 0)
        group_times = time[group == number] if timed else None
        again = assign_splits(np.zeros(size, np.int64), key[group == number], group_times)
        assert (again == of_group).all()
        if group_times is not None and held:
            stages = [group_times[of_group == part] for part in SPLITS]
            assert stages[0].max() <= stages[1].min() and stages[1].max() <= stages[2].min()
    shuffled = np.random.default_rng(seed + 1).permutation(len(rows))
    again = assign_splits(
        group[shuffled], key[shuffled], times if times is None else time[shuffled]
    )
    assert (again == split[shuffled]).all()


@settings(max_examples=60, deadline=None)
@given(ROWS, SEEDS, st.integers(1, 8), st.booleans())
def test_caps_select_the_latest_rows_and_no_more(
    rows: list[tuple[int, int]], seed: int, max_rows: int, timed: bool
) -> None:
    group, time, key = columns(rows, seed)
    selected = cap_rows(group, max_rows, key, time if timed else None)
    for number in np.unique(group):
        chosen, rest = (time[(group == number) & mask] for mask in (selected, ~selected))
        assert len(chosen) == min(max_rows, len(chosen) + len(rest))
        assert not timed or not len(rest) or chosen.min() >= rest.max()
    smaller = cap_rows(group, max(1, max_rows - 1), key, time if timed else None)
    assert not (smaller & ~selected).any()


@settings(max_examples=60, deadline=None)
@given(ROWS, SEEDS, st.floats(0.05, 0.5))
def test_the_latest_share_is_later_than_the_rest(
    rows: list[tuple[int, int]], seed: int, share: float
) -> None:
    group, time, key = columns(rows, seed)
    late = latest_share(group, key, time, share)
    for number in np.unique(group):
        of_group = group == number
        size = int(of_group.sum())
        assert late[of_group].sum() == (max(1, np.rint(size * share)) if size >= 5 else 0)
        if late[of_group].any() and not late[of_group].all():
            assert time[of_group & late].min() >= time[of_group & ~late].max()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30), st.booleans())
def test_the_latest_row_of_a_repeated_pair_is_used(
    rows: list[tuple[int, int, int]], timed: bool
) -> None:
    user, item, time = np.array(rows).T
    ids = np.array(["a", "b", "c"])
    encoded = EncodedInteractions(ids, ids, user, item, time, time if timed else None)
    expected: dict[tuple[int, int], int] = {}
    for row, (user_, item_, time_) in enumerate(rows):
        before = expected.get((user_, item_))
        if before is None or not timed or time_ >= rows[before][2]:
            expected[user_, item_] = row
    assert np.flatnonzero(latest_of_each_pair(encoded)).tolist() == sorted(expected.values())


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 29)), min_size=1, max_size=40), SEEDS)
def test_sampled_negatives_are_new_distinct_and_depend_on_the_user_alone(
    pairs: set[tuple[int, int]], seed: int
) -> None:
    user, item = np.array(sorted(pairs)).T
    ids = [np.array([f"{number:02}" for number in range(count)]) for count in (5, 30)]
    marks = EncodedInteractions(*ids, user, item, np.ones(len(user), np.float32))
    popularity = np.ones(30)
    marked_pairs = np.sort(marks.pairs())
    negatives = sample_negatives(marks, popularity, marked_pairs, seed)
    codes = negatives.pairs()
    assert not np.isin(codes, marked_pairs).any() and len(np.unique(codes)) == len(codes)
    marked, sampled = (np.bincount(users, minlength=5) for users in (user, negatives.user))
    assert (sampled == np.minimum(marked, 30 - marked)).all()
