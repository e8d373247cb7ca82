"""Behaviour of users, and principal components, against plain computations."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from puma_engine.evaluation.user_effects import CERTAINTIES, certainties
from puma_engine.maps.behaviour import AGREEMENT_USERS, behaviour, order_agreement
from puma_engine.maps.projection import principal_map, principal_plane, project


def predictions(seed):
    rng = np.random.default_rng(seed)
    rows = [(f"u{user}", f"i{item}") for user in range(9) for item in range(user + 1)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    outcome = np.arange(len(frame)) % 5 + 1.0
    return frame.assign(outcome=outcome, prediction=rng.uniform(1, 5, len(frame)).astype("f4"))


@pytest.mark.parametrize("equal", [True, False])
def test_mean_and_spread_are_over_the_records_that_all_methods_predicted(equal):
    first, second = predictions(0), predictions(1)
    if not equal:  # other records, in another order
        second = second[second["item_id"] != "i0"].sample(frac=1, random_state=0)
    table = behaviour([first, second]).set_index("user_id")
    joined = first.merge(second, on=["user_id", "item_id"])
    expected = joined.groupby("user_id").filter(lambda rows: len(rows) > 1).groupby("user_id")
    assert table.index.tolist() == list(expected.groups) and len(table) == (8 if equal else 7)
    assert table["rows"].tolist() == expected.size().tolist()
    np.testing.assert_allclose(table["outcome"], expected["outcome_x"].mean())
    for number, column in enumerate(("prediction_x", "prediction_y")):
        np.testing.assert_allclose(table[f"mean_{number}"], expected[column].mean(), rtol=1e-6)
        np.testing.assert_allclose(table[f"spread_{number}"], expected[column].std(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 6), (12, 30), (5, 1)])
def test_the_principal_plane_is_that_of_the_singular_value_decomposition(shape):
    values = np.random.default_rng(2).normal(size=shape) * np.arange(1, shape[1] + 1)
    points, shares = principal_plane(values)
    left, singular, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    count = min(2, len(singular))
    np.testing.assert_allclose(np.abs(points[:, :count]), np.abs(left * singular)[:, :count])
    np.testing.assert_allclose(shares[:count], (singular**2 / (singular**2).sum())[:count])
    assert points.shape == (shape[0], 2) and shares.shape == (2,)
    assert principal_plane(np.ones(shape))[1].tolist() == [0, 0]


def test_both_computations_of_the_components_of_two_tables_agree():
    rng = np.random.default_rng(3)
    source = rng.normal(size=(60, 5)) * [9, 5, 2, 1, 1]
    migrated = source @ rng.normal(size=(5, 7))
    ids = np.array([f"u{number:02}" for number in range(60)])
    from_parts, from_project = (
        principal_map(source, migrated),
        project(ids, source, migrated, method="pca"),
    )
    assert from_parts.misfit == pytest.approx(from_project.measures["misfit"], abs=1e-6)
    for name in ("source", "migrated"):
        shares = getattr(from_parts, f"{name}_shares")
        assert shares[0] == pytest.approx(from_project.measures[f"variance_{name}"], rel=1e-6)
        one, other = getattr(from_parts, name), getattr(from_project, name)
        np.testing.assert_allclose(np.abs(one), np.abs(other), rtol=1e-3, atol=1e-3)


def test_each_probability_to_regress_has_one_certainty():
    names = list(CERTAINTIES)
    inputs = np.array([1.0, 0.9, 0.8999, 0.75, 0.7499, 0.25, 0.2499, 0.0])
    assert [names[code] for code in certainties(inputs)] == [
        name for name in ("surely", "likely", "unknown", "unlikely") for _ in range(2)
    ]


def test_order_agreement_is_the_mean_rank_correlation_of_pairs_of_users():
    rng = np.random.default_rng(4)
    values = rng.integers(1, 6, (25, 12)) + rng.normal(size=12)  # with ties
    values[3] = 2.0  # no order
    expected = [
        spearmanr(values[first], values[second]).statistic
        for first, second in itertools.combinations([n for n in range(25) if n != 3], 2)
    ]
    assert order_agreement(values) == pytest.approx(np.mean(expected))
    assert order_agreement(
        np.tile(np.arange(5.0), (9, 1)) * rng.uniform(1, 2, (9, 1))
    ) == pytest.approx(1)
    assert np.isnan(order_agreement(values[3:4]))
    many = rng.normal(size=(3 * AGREEMENT_USERS, 8))
    assert abs(order_agreement(many)) < 0.01
