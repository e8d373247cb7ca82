"""Baselines: they recover the structure that they model, by id and not by position."""

import numpy as np
import pandas as pd
import pytest

from puma_engine.datasets import load_shipped
from puma_engine.evaluation.baselines import (
    BASELINES,
    GlobalMean,
    ItemMean,
    MatrixFactorisation,
    UserItemBias,
)


@pytest.fixture(scope="module")
def goodbooks():
    return load_shipped("goodbooks", users=600)


def rmse(model, dataset):
    model.fit(dataset.rows("train"), dataset.rows("validation"))
    test = dataset.rows("test")
    return float(np.sqrt(np.mean((model.predict(test) - test["outcome"].to_numpy()) ** 2)))


def test_each_baseline_beats_the_simpler_one_on_real_ratings(goodbooks):
    errors = [rmse(model(), goodbooks) for model in (GlobalMean, ItemMean, UserItemBias)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", BASELINES)
def test_predictions_follow_ids(goodbooks, name):
    model = BASELINES[name]().fit(goodbooks.rows("train"), goodbooks.rows("validation"))
    test = goodbooks.rows("test").head(200)
    shuffled = test.sample(frac=1, random_state=1)
    frame = pd.Series(model.predict(shuffled), index=shuffled.index).loc[test.index]
    np.testing.assert_allclose(frame, model.predict(test))


def test_unknown_users_get_the_mean():
    train = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "outcome": [2.0, 4.0]})
    new = pd.DataFrame({"user_id": ["c"], "item_id": ["z"]})
    assert UserItemBias().fit(train).predict(new)[0] == pytest.approx(3.0)


def tastes(click, seed=0):
    """Rows of 300 users and 120 items with two tastes that biases cannot express."""
    generator = np.random.default_rng(seed)
    user, item = generator.integers(0, 300, 12_000), generator.integers(0, 120, 12_000)
    liked = (user % 2) == (item % 2)
    outcome = np.where(liked, 4.0, 2.0) + generator.normal(0, 0.5, len(user))
    if click:
        outcome = (generator.random(len(user)) < np.where(liked, 0.8, 0.2)).astype(float)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "outcome": outcome}).astype(
        {"user_id": str, "item_id": str}
    )
    return frame[:8000], frame[8000:10_000], frame[10_000:]


@pytest.mark.parametrize(("click", "limit"), [(False, 0.56), (True, 0.43)])
def test_factorisation_beats_biases_where_tastes_interact(click, limit):
    train, validation, test = tastes(click)

    def error(model):
        predicted = model.fit(train, validation).predict(test)
        assert not click or ((predicted > 0).all() and (predicted < 1).all())
        return float(np.sqrt(np.mean((predicted - test["outcome"]) ** 2)))

    # The noise alone is 0.5 in ratings and 0.4 in clicks.
    assert error(MatrixFactorisation()) < limit < error(UserItemBias())


def test_factors_do_not_depend_on_the_order_of_rows_or_on_position(goodbooks):
    train, validation = goodbooks.rows("train"), goodbooks.rows("validation")
    test = goodbooks.rows("test")
    shuffled = train.sample(frac=1, random_state=2)
    first = MatrixFactorisation().fit(train, validation).predict(test)
    np.testing.assert_allclose(
        MatrixFactorisation().fit(shuffled, validation).predict(test), first, atol=1e-3
    )


def test_without_validation_rows_factorisation_equals_biases():
    train, _, test = tastes(click=False)
    factorisation = MatrixFactorisation().fit(train).predict(test)
    np.testing.assert_allclose(factorisation, UserItemBias().fit(train).predict(test), atol=1e-5)
    new = pd.DataFrame({"user_id": ["nobody"], "item_id": ["nothing"]})
    known = MatrixFactorisation().fit(train, test).predict(new)
    assert known[0] == pytest.approx(train["outcome"].mean())
