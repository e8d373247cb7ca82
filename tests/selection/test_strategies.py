"""Every strategy: exact counts, seeds, ties, and users identified by id."""

import dataclasses

import numpy as np
import pytest

from puma_engine.errors import SelectionError
from puma_engine.selection import sampling
from puma_engine.selection.clustering import principal_components
from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import (
    STRATEGIES,
    coverage,
    draw_users,
    group_users,
    select_users,
)


def signals(n, seed=0):
    generator = np.random.default_rng(seed)
    ids = np.array([f"u{number}" for number in generator.permutation(n)])
    return Signals(
        ids,
        generator.normal(size=(n, 12)).astype(np.float32),
        np.round(generator.random(n), 1),
        generator.random(n),
        generator.random((n, 20)) > 0.5,
        activity=generator.integers(1, 9, n),
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("n", "budget"), [(300, 37), (300, 1), (300, 300), (7, 3)])
def test_count_is_exact_and_order_does_not_matter(strategy, n, budget):
    inputs = signals(n)
    budget = n if strategy == "all" else budget
    chosen = select_users(strategy, inputs, budget, seed=3)
    assert len(set(chosen.user_ids)) == budget
    assert set(chosen.user_ids) <= set(inputs.user_ids)
    order = np.random.default_rng(9).permutation(n)
    shuffled = Signals(
        **{
            field.name: np.asarray(getattr(inputs, field.name))[order]
            for field in dataclasses.fields(inputs)
            if getattr(inputs, field.name) is not None
        }
    )
    from_shuffled = select_users(strategy, shuffled, budget, seed=3)
    assert from_shuffled.user_ids.tolist() == chosen.user_ids.tolist()
    assert (from_shuffled.group["cluster"] == chosen.group["cluster"][order]).all()


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"all", "kmeans-farthest"}))
def test_different_seeds_select_different_users(strategy):
    inputs = signals(300)
    first, second = (select_users(strategy, inputs, 60, seed=s).user_ids.tolist() for s in (1, 2))
    assert first != second


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_identical_users_can_be_selected(strategy):
    n = 30
    inputs = Signals(
        np.arange(n).astype(str),
        np.zeros((n, 4)),
        np.zeros(n),
        np.zeros(n),
        np.zeros((n, 5)),
        activity=np.zeros(n),
    )
    budget = n if strategy == "all" else 10
    assert len(select_users(strategy, inputs, budget).user_ids) == budget


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_few_distinct_users_can_be_selected_without_a_librarys_warning(strategy, recwarn):
    generator = np.random.default_rng(0)
    # Components of equal rows differ by rounding.
    vectors = np.tile(generator.normal(size=(3, 128)), (4, 1)).astype(np.float32)
    inputs = dataclasses.replace(signals(12), embedding=vectors)
    budget = 12 if strategy == "all" else 4
    assert len(select_users(strategy, inputs, budget, seed=0).user_ids) == budget
    assert not recwarn.list


def test_groups_is_the_old_name_of_strata():
    inputs = signals(300)
    three = select_users("kmeans-variance", inputs, 60, strata=3)
    assert three.group["stratum"].max() == 2
    old = select_users("kmeans-variance", inputs, 60, groups=3)
    assert old.user_ids.tolist() == three.user_ids.tolist()


def test_every_cluster_gets_its_minimum():
    chosen = select_users("kmeans-variance", signals(2000), 900, clusters=10, min_cluster=40)
    sizes, selected = chosen.report["cluster_sizes"], chosen.report["cluster_chosen"]
    assert all(t >= min(40, s) for s, t in zip(sizes, selected, strict=True))


@pytest.mark.parametrize("budget", [0, 8])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(SelectionError, match="from 1 to the 7 users"):
        select_users("random", signals(7), budget)


def test_the_strategy_all_refuses_a_smaller_budget():
    with pytest.raises(SelectionError, match="takes all 7 users, not 4"):
        select_users("all", signals(7), 4)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", ["clusters", "strata", "min_cluster"])
def test_a_size_changes_the_groups_or_is_refused(strategy, size):
    inputs = signals(300)
    budget = 300 if strategy == "all" else 60
    plain = select_users(strategy, inputs, budget)
    try:
        other = select_users(strategy, inputs, budget, **{size: 3})
    except SelectionError as error:
        assert f"so {size} would change nothing" in str(error)
        named = str(error).rsplit("choose one of ")[1].rstrip(".").split(", ")
        assert strategy not in named and set(named) < set(STRATEGIES)
        return
    groups = "stratum" if size == "strata" else "cluster"
    assert STRATEGIES[strategy].clustered or size == "strata"
    if size == "min_cluster":
        assert other.report["cluster_sizes"] == plain.report["cluster_sizes"]
    else:
        assert other.group[groups].max() == 2 != plain.group[groups].max()


def test_missing_signals_and_unknown_strategies_are_named():
    inputs = Signals(np.array(["a", "b"]), np.zeros((2, 3)))
    with pytest.raises(SelectionError, match="needs the signal loss"):
        select_users("loss", inputs, 1)
    with pytest.raises(SelectionError, match="kmeans-variance"):
        select_users("best", inputs, 1)


@pytest.mark.parametrize("strategy", ["kmeans-variance", "kmeans-farthest", "loss"])
def test_groups_are_computed_once_for_all_budgets(strategy):
    inputs = signals(300)
    components = principal_components(
        inputs.embedding.astype(float)[np.argsort(inputs.user_ids)], 3
    )
    ranks = np.argsort(np.argsort(inputs.user_ids))
    known = Signals(inputs.user_ids, None, inputs.variance, inputs.loss, space=components[ranks])
    groups = group_users(strategy, known, seed=3)
    labels = groups.cluster[np.argsort(np.argsort(inputs.user_ids))]
    reused = group_users(strategy, known, seed=3, cluster_labels=labels)
    assert reused.cluster.tolist() == groups.cluster.tolist()
    for budget in (20, 150):
        expected = select_users(strategy, inputs, budget, seed=3)
        actual = draw_users(groups, budget, seed=3)
        assert actual.user_ids.tolist() == expected.user_ids.tolist()
        assert actual.report == expected.report


def test_facility_location_covers_every_user():
    points = np.random.default_rng(0).normal(size=(400, 5))
    inputs = Signals(np.arange(400).astype(str), points)

    def mean_distance(strategy, seed):
        rows = select_users(strategy, inputs, 20, seed=seed).user_ids.astype(int)
        distances = np.linalg.norm(points[:, None] - points[rows], axis=2)
        return distances.min(1).mean()

    by_chance = [mean_distance("random", seed) for seed in range(20)]
    assert max(mean_distance("facility", seed) for seed in range(5)) < min(by_chance)


def test_facility_location_on_a_sample_finds_the_best_point():
    points = np.zeros((2 * sampling.MAX_CLIENTS, 2))
    points[: sampling.MAX_CLIENTS, 0] = 10
    points[-1] = [5, 40]
    rows = sampling.facility_location(points, 2, np.random.default_rng(0))
    assert set(points[rows, 0]) == {0, 10}


def test_most_active_users_are_selected_and_ties_are_random():
    inputs = dataclasses.replace(signals(300), activity=np.repeat([1, 10, 20], 100))
    row_of = {user: row for row, user in enumerate(inputs.user_ids)}

    def rows(strategy, seed=0):
        chosen = select_users(strategy, inputs, 50, seed=seed).user_ids
        return inputs.activity[[row_of[user] for user in chosen]]

    assert (rows("most-active") == 20).all()
    selected = np.concatenate([rows("activity", seed) for seed in range(40)])
    assert 1.5 < (selected == 20).sum() / (selected == 10).sum() < 2.1
    assert rows("kmeans-activity").mean() > rows("kmeans-pca").mean() + 2


def test_users_without_rows_are_selected_last():
    weights = np.array([0.0, 3.0, 0.0, 1.0])
    for seed in range(20):
        order = sampling.weighted_sample(weights, 4, np.random.default_rng(seed)).tolist()
        assert set(order[:2]) == {1, 3} and set(order[2:]) == {0, 2}


def test_coverage_counts_every_user_once():
    cluster, stratum = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0])
    cells = coverage(cluster, stratum, np.array([True, False, False, True, True]))
    assert cells.to_dict("records") == [
        {"cluster": 0, "stratum": 0, "users": 2, "chosen": 1, "share": 0.5},
        {"cluster": 0, "stratum": 1, "users": 1, "chosen": 0, "share": 0.0},
        {"cluster": 1, "stratum": 0, "users": 2, "chosen": 2, "share": 1.0},
    ]
