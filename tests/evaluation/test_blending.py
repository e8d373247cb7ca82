"""Blends: they recover weights, ignore noise, and are no worse than the blended methods."""

import numpy as np
import pytest

from puma_engine.evaluation.blending import Blend


def two_views(task, seed=0, rows=4000):
    """A truth, two noisy predictions of it with independent errors, and its outcomes."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, rows)
    views = truth[:, None] + rng.normal(0, [0.6, 0.8], (rows, 2))
    if task == "click":
        odds = 1 / (1 + np.exp(-np.column_stack([truth, views])))
        return odds[:, 1:], (rng.random(rows) < odds[:, 0]).astype(float)
    return 3 + 0.5 * views, np.clip(3 + 0.5 * truth + rng.normal(0, 0.2, rows), 1, 5)


def error(task, predicted, outcome):
    if task == "click":
        return -np.mean(outcome * np.log(predicted) + (1 - outcome) * np.log(1 - predicted))
    return np.mean((predicted - outcome) ** 2)


@pytest.mark.parametrize("task", ["rating", "click"])
def test_blending_predictions_with_independent_errors_improves_other_rows(task):
    blend = Blend(task).fit(*two_views(task))
    views, outcome = two_views(task, seed=1)
    blended = error(task, blend.predict(views), outcome)
    assert blended < 0.99 * min(error(task, view, outcome) for view in views.T)
    # The view with the smaller errors counts more.
    assert blend.weights[0] > blend.weights[1] > 0


def test_weights_and_intercept_of_an_exact_sum_are_found():
    views, _ = two_views("rating")
    blend = Blend("rating").fit(views, 0.2 + 0.3 * views[:, 0] + 0.6 * views[:, 1])
    np.testing.assert_allclose(blend.weights, [0.3, 0.6], atol=1e-3)
    assert blend.intercept == pytest.approx(0.2, abs=5e-3)


@pytest.mark.parametrize("task", ["rating", "click"])
def test_an_uninformative_prediction_gets_hardly_any_weight(task):
    views, outcome = two_views(task)
    views[:, 1] = np.random.default_rng(5).permutation(views[:, 1])
    weights = Blend(task).fit(views, outcome).weights
    assert abs(weights[1]) < 0.1 * weights[0]


def test_blends_stay_within_the_range_of_outcomes():
    views, outcome = two_views("rating")
    blend = Blend("rating").fit(views, outcome)
    assert list(blend.predict(np.array([[50.0, 50.0], [-50.0, -50.0]]))) == [5.0, 1.0]
    views, outcome = two_views("click")
    extreme = Blend("click").fit(views, outcome).predict(np.array([[0.0, 0.0], [1.0, 1.0]]))
    assert 0 < extreme[0] < 0.01 and 0.99 < extreme[1] < 1
