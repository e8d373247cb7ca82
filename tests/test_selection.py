"""Every strategy: exact counts, seeds, ties, and users told apart by id."""

import numpy as np
import pytest

from puma_engine.errors import SelectionError
from puma_engine.selection import (
    STRATEGIES,
    Signals,
    coverage,
    draw_users,
    group_users,
    select_users,
)
from puma_engine.selection.quotas import shares, with_minimum
from puma_engine.selection.signals import reduced


def signals(n, seed=0):
    generator = np.random.default_rng(seed)
    ids = np.array([f"u{number}" for number in generator.permutation(n)])
    return Signals(
        ids,
        generator.normal(size=(n, 12)).astype(np.float32),
        np.round(generator.random(n), 1),
        generator.random(n),
        generator.random((n, 20)) > 0.5,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("n", "budget"), [(300, 37), (300, 1), (300, 300), (7, 3)])
def test_count_is_exact_and_order_does_not_matter(strategy, n, budget):
    given = signals(n)
    chosen = select_users(strategy, given, budget, seed=3)
    assert len(set(chosen.user_ids)) == (n if strategy == "all" else budget)
    assert set(chosen.user_ids) <= set(given.user_ids)
    order = np.random.default_rng(9).permutation(n)
    mixed = Signals(
        *(
            np.asarray(getattr(given, name))[order]
            for name in ("user_ids", "embedding", "variance", "loss", "activations")
        )
    )
    again = select_users(strategy, mixed, budget, seed=3)
    assert again.user_ids.tolist() == chosen.user_ids.tolist()
    assert (again.group["cluster"] == chosen.group["cluster"][order]).all()


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"all", "kmeans-farthest"}))
def test_seeds_differ(strategy):
    given = signals(300)
    first, second = (select_users(strategy, given, 60, seed=s).user_ids.tolist() for s in (1, 2))
    assert first != second


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_users_who_are_all_alike_can_be_selected(strategy):
    n = 30
    alike = Signals(
        np.arange(n).astype(str), np.zeros((n, 4)), np.zeros(n), np.zeros(n), np.zeros((n, 5))
    )
    assert len(select_users(strategy, alike, 10).user_ids) in (10, n)


def test_every_cluster_gets_its_minimum():
    chosen = select_users("kmeans-variance", signals(2000), 900, clusters=10, min_cluster=40)
    sizes, taken = chosen.report["cluster_sizes"], chosen.report["cluster_chosen"]
    assert all(t >= min(40, s) for s, t in zip(sizes, taken, strict=True))


@pytest.mark.parametrize("budget", [0, 8])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(SelectionError, match="from 1 to the 7 users"):
        select_users("random", signals(7), budget)


def test_missing_signals_and_unknown_strategies_are_named():
    bare = Signals(np.array(["a", "b"]), np.zeros((2, 3)))
    with pytest.raises(SelectionError, match="needs the signal loss"):
        select_users("loss", bare, 1)
    with pytest.raises(SelectionError, match="kmeans-variance"):
        select_users("best", bare, 1)


def test_quotas_are_exact_and_never_above_capacity():
    generator = np.random.default_rng(0)
    for _ in range(200):
        capacity = generator.integers(0, 20, 9)
        total = int(generator.integers(0, capacity.sum() + 1))
        for quota in (
            shares(generator.random(9), capacity, total),
            with_minimum(capacity, total, 3),
        ):
            assert quota.sum() == total and (quota <= capacity).all() and (quota >= 0).all()


@pytest.mark.parametrize("strategy", ["kmeans-variance", "kmeans-farthest", "loss"])
def test_groups_are_found_once_and_drawn_from_for_any_budget(strategy):
    given = signals(300)
    components = reduced(given.embedding.astype(float)[np.argsort(given.user_ids)], 3)
    back = np.argsort(np.argsort(given.user_ids))
    known = Signals(given.user_ids, None, given.variance, given.loss, space=components[back])
    groups = group_users(strategy, known, seed=3)
    labels = groups.cluster[np.argsort(np.argsort(given.user_ids))]
    reused = group_users(strategy, known, seed=3, known=labels)
    assert reused.cluster.tolist() == groups.cluster.tolist()
    for budget in (20, 150):
        whole = select_users(strategy, given, budget, seed=3)
        again = draw_users(groups, budget, seed=3)
        assert again.user_ids.tolist() == whole.user_ids.tolist()
        assert again.report == whole.report


def test_coverage_counts_every_user_once():
    cluster, stratum = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0])
    cells = coverage(cluster, stratum, np.array([True, False, False, True, True]))
    assert cells.to_dict("records") == [
        {"cluster": 0, "stratum": 0, "users": 2, "chosen": 1, "share": 0.5},
        {"cluster": 0, "stratum": 1, "users": 1, "chosen": 0, "share": 0.0},
        {"cluster": 1, "stratum": 0, "users": 2, "chosen": 2, "share": 1.0},
    ]
