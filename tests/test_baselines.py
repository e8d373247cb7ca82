"""Baselines recover what they model, by id and not by position."""

import numpy as np
import pandas as pd
import pytest

from puma_engine.baselines import BASELINES, GlobalMean, ItemMean, UserItemBias
from puma_engine.datasets import load_shipped


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
    mixed = test.sample(frac=1, random_state=1)
    frame = pd.Series(model.predict(mixed), index=mixed.index).loc[test.index]
    np.testing.assert_allclose(frame, model.predict(test))


def test_strangers_get_the_mean():
    train = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "outcome": [2.0, 4.0]})
    new = pd.DataFrame({"user_id": ["c"], "item_id": ["z"]})
    assert UserItemBias().fit(train).predict(new)[0] == pytest.approx(3.0)
