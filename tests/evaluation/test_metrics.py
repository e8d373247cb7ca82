"""Metrics equal those of scikit-learn, and intervals equal those of explicit resampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_absolute_error, ndcg_score, roc_auc_score

from puma_engine.errors import DataError
from puma_engine.evaluation import metrics

# Few distinct predictions, so that ties, single rows and users with one outcome are common.
RATINGS = st.tuples(
    st.integers(1, 5), st.sampled_from([1.0, 2.25, 2.5, 3.5, 4.75]), st.integers(0, 3)
)
CLICKS = st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.integers(0, 3))


def columns(examples):
    y, p, user = (np.array(column) for column in zip(*examples, strict=True))
    return y.astype(float), p.astype(float), user


@given(st.lists(RATINGS, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_ratings_agree_with_scikit_learn(examples):
    y, p, user = columns(examples)
    pooled = metrics.pooled("rating", y, p, user)
    assert pooled["rmse"] == pytest.approx(np.sqrt(np.mean((y - p) ** 2)))
    assert pooled["mae"] == pytest.approx(mean_absolute_error(y, p))
    assert pooled["accuracy"] == pytest.approx(np.mean(np.floor(p + 0.5) == y))
    # scikit-learn refuses a ranking of one row, which is perfect.
    masks = [user == value for value in np.unique(user)]
    each = [
        ndcg_score([y[rows_of_user]], [p[rows_of_user]]) if rows_of_user.sum() > 1 else 1.0
        for rows_of_user in masks
    ]
    assert pooled["ndcg"] == pytest.approx(np.mean(each))
    table = metrics.per_user("rating", y, p, user)
    assert table["ndcg"].tolist() == pytest.approx(each)
    assert table["n"].tolist() == [rows_of_user.sum() for rows_of_user in masks]
    assert table["rmse"].tolist() == pytest.approx(
        [np.sqrt(np.mean((y[rows_of_user] - p[rows_of_user]) ** 2)) for rows_of_user in masks]
    )


@given(st.lists(CLICKS, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_clicks_agree_with_scikit_learn(examples):
    y, p, user = columns(examples)
    pooled = metrics.pooled("click", y, p, user)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    assert pooled["log_loss"] == pytest.approx(log_loss(y, clipped, labels=[0, 1]))
    each = [
        roc_auc_score(y[rows_of_user], p[rows_of_user]) if np.ptp(y[rows_of_user]) else np.nan
        for rows_of_user in (user == value for value in np.unique(user))
    ]
    table = metrics.per_user("click", y, p, user)
    assert table["auc"].tolist() == pytest.approx(each, nan_ok=True)
    if np.ptp(y):
        assert pooled["auc"] == pytest.approx(roc_auc_score(y, p))
    else:
        assert np.isnan(pooled["auc"])
    defined = [value for value in each if np.isfinite(value)]
    expected = np.mean(defined) if defined else np.nan
    assert pooled["uauc"] == pytest.approx(expected, nan_ok=True)


def share_in_order(y, p):
    """Pair accuracy of one user by its definition; NaN without a pair of different outcomes."""
    pairs = [(a, b) for a in range(len(y)) for b in range(len(y)) if y[a] < y[b]]
    points = [(p[a] < p[b]) + 0.5 * (p[a] == p[b]) for a, b in pairs]
    return np.mean(points) if pairs else np.nan


@given(st.lists(RATINGS, min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_pair_accuracy_counts_the_pairs_of_each_user(examples):
    y, p, user = columns(examples)
    each = [share_in_order(y[user == value], p[user == value]) for value in np.unique(user)]
    table = metrics.per_user("rating", y, p, user)
    assert table["pair_accuracy"].tolist() == pytest.approx(each, nan_ok=True)
    estimate = metrics.bootstrap_metric("rating", "pair_accuracy", y, p, user, draws=20)
    defined = [value for value in each if np.isfinite(value)]
    expected = np.mean(defined) if defined else np.nan
    assert estimate.value == pytest.approx(expected, nan_ok=True)
    assert estimate.n_users == len(defined)
    pooled = metrics.pooled("rating", y, p, user)["pair_accuracy"]
    assert pooled == pytest.approx(expected, nan_ok=True)


@given(st.lists(RATINGS, min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_pair_accuracy_depends_only_on_the_order_of_predictions(examples):
    y, p, user = columns(examples)

    def accuracy(p):
        return metrics.per_user("rating", y, p, user)["pair_accuracy"].to_numpy()

    np.testing.assert_array_equal(accuracy(np.exp(p) + 7), accuracy(p))
    # An offset of each user, such as generosity, changes nothing either.
    np.testing.assert_array_equal(accuracy(p + 8.0 * user), accuracy(p))
    np.testing.assert_allclose(accuracy(-p), 1 - accuracy(p))
    defined = accuracy(p)[np.isfinite(accuracy(p))]
    constant = accuracy(np.zeros(len(p)))
    assert (constant[np.isfinite(constant)] == 0.5).all() and np.isfinite(constant).sum() == len(
        defined
    )


@given(st.lists(CLICKS, min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_uauc_is_the_pair_accuracy_of_clicks(examples):
    y, p, user = columns(examples)
    names = ["uauc", "pair_accuracy"]
    estimates = metrics.bootstrap("click", y, [p], user, names=names, draws=20)[0]
    first, second = (vars(estimates[name].interval) for name in names)
    assert first == pytest.approx(second, nan_ok=True, abs=0)
    clicks = metrics.per_user("click", y, p, user)["auc"]
    ratings = metrics.per_user("rating", y, p, user)["pair_accuracy"]
    np.testing.assert_array_equal(clicks, ratings)


def test_pair_accuracy_of_fractional_outcomes_and_many_users():
    generator = np.random.default_rng(0)
    user = generator.integers(0, 200, 8000)
    y = generator.uniform(1, 5, 8000).round(1)
    p = (y + generator.normal(size=8000)).round(1)
    table = metrics.per_user("rating", y, p, user).set_index("user_id")["pair_accuracy"]
    for value in (0, 17, 199):
        expected = share_in_order(y[user == value], p[user == value])
        assert table[str(value)] == pytest.approx(expected)


@given(st.lists(st.tuples(CLICKS, st.sampled_from([0.1, 0.5, 0.9])), min_size=2, max_size=30))
@settings(max_examples=25, deadline=None)
def test_bootstrap_difference_equals_the_difference_per_draw(examples):
    y, p, user = columns([click for click, _ in examples])
    other = np.array([q for _, q in examples])
    code = np.unique(user, return_inverse=True)[1]
    users = code.max() + 1
    shares = np.full(users, 1 / users)
    draws = np.random.default_rng(7).multinomial(users, shares, size=40)[:, code]

    def loss(p, weights):
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return np.average(-(y * np.log(p) + (1 - y) * np.log(1 - p)), weights=weights)

    by_hand = [loss(p, weights) - loss(other, weights) for weights in draws]
    interval = metrics.bootstrap_difference(
        "click", "log_loss", y, [p], [other], user, seed=7, draws=40
    )
    assert interval.value == pytest.approx(loss(p, None) - loss(other, None))
    assert [interval.low, interval.high] == pytest.approx(
        np.percentile(by_hand, [2.5, 97.5]), abs=1e-9
    )
    both = metrics.bootstrap("click", y, [p, other], user, reference=1, seed=7, draws=40)
    assert vars(both[0]["log_loss"].difference) == pytest.approx(vars(interval), abs=1e-12)


@pytest.fixture
def rows():
    generator = np.random.default_rng(5)
    user = generator.integers(0, 40, 600)
    y = generator.integers(1, 6, 600).astype(float)
    return y, np.clip(y + generator.normal(size=600), 1, 5).round(1), user


@pytest.mark.parametrize("task", ["rating", "click"])
def test_row_order_does_not_change_metrics(rows, task):
    y, p, user = rows
    if task == "click":
        y, p = (y > 3).astype(float), p / 6
    order = np.random.default_rng(1).permutation(len(y))
    first = metrics.pooled(task, y, p, user)
    second = metrics.pooled(task, y[order], p[order], user[order])
    assert first == pytest.approx(second)
    shuffled = metrics.per_user(task, y[order], p[order], user[order]).set_index("user_id")
    chosen = user == 7
    name = "mae" if task == "rating" else "log_loss"
    single_user = metrics.pooled(task, y[chosen], p[chosen], user[chosen])
    assert shuffled.loc["7", name] == pytest.approx(single_user[name])


def test_intervals_contain_the_value_and_paired_ones_are_narrower(rows):
    y, p, user = rows
    interval = metrics.bootstrap_metric("rating", "rmse", y, p, user)
    assert interval.low < interval.value < interval.high and interval.n_users == 40
    gap = metrics.bootstrap_difference("rating", "rmse", y, [p + 0.01], [p], user)
    assert gap.high - gap.low < (interval.high - interval.low) / 5
    same = metrics.bootstrap_difference("rating", "rmse", y, [p], [p], user)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_nan_predictions_are_refused(rows):
    y, p, user = rows
    with pytest.raises(DataError, match="NaN"):
        metrics.pooled("rating", y, p * np.nan, user)


@pytest.mark.parametrize("task", ["rating", "click"])
def test_joint_and_blockwise_bootstrap_equal_single_bootstraps(rows, task, monkeypatch):
    y, p, user = rows
    if task == "click":
        y, p = (y > 3).astype(float), p / 6
    methods = [p, p * 0.9, p[::-1]]
    joint = metrics.bootstrap(task, y, methods, user, reference=1, seed=3, draws=150)
    monkeypatch.setattr(metrics, "BLOCK", 7 * 40)
    for method, estimates in zip(methods, joint, strict=True):
        for name, estimate in estimates.items():
            single = metrics.bootstrap_metric(task, name, y, method, user, seed=3, draws=150)
            assert vars(estimate.interval) == pytest.approx(vars(single), abs=1e-12)
    gap = metrics.bootstrap_difference(
        task, name, y, methods[:1], methods[1:2], user, seed=3, draws=150
    )
    assert vars(joint[0][name].difference) == pytest.approx(vars(gap), abs=1e-12)
    assert joint[1][name].difference is None


def test_both_ways_to_resample_users_have_the_same_distribution(rows, monkeypatch):
    y, p, user = rows
    intervals = []
    for threshold in (1, 10**9):
        monkeypatch.setattr(metrics, "MANY_USERS", threshold)
        weights = metrics._resampled(np.random.default_rng(0), 40, 4000)
        assert weights.shape == (4000, 40) and (weights.sum(1) == 40).all()
        assert weights.mean(0) == pytest.approx(np.ones(40), abs=0.08)
        assert weights.var() == pytest.approx(1 - 1 / 40, rel=0.02)
        intervals.append(metrics.bootstrap_metric("rating", "rmse", y, p, user, draws=4000))
    by_draws, by_counts = intervals
    assert by_draws.value == by_counts.value
    width = by_counts.high - by_counts.low
    assert (by_draws.low, by_draws.high) == pytest.approx(
        (by_counts.low, by_counts.high), abs=width / 15
    )


def test_difference_of_several_trainings_is_the_mean_over_trainings(rows):
    y, p, user = rows
    clicked, other_predictions = (y > 3).astype(float), [p / 6, p[::-1] / 60 + 0.5]
    pairs = [
        metrics.pooled("click", clicked, prediction, user)["uauc"]
        for prediction in other_predictions
    ]
    base = metrics.pooled("click", clicked, p * 0 + 0.5, user)["uauc"]
    interval = metrics.bootstrap_difference(
        "click", "uauc", clicked, other_predictions, [p * 0 + 0.5] * 2, user, draws=50
    )
    assert interval.value == pytest.approx(np.mean(pairs) - base)
    assert interval.low < interval.value < interval.high


def test_interval_equals_that_of_resampling_users_by_hand(rows):
    y, p, user = rows
    weights = np.random.default_rng(2).multinomial(40, np.full(40, 1 / 40), size=60)[:, user]
    by_hand = [np.sqrt(np.average((y - p) ** 2, weights=draw)) for draw in weights]
    interval = metrics.bootstrap_metric("rating", "rmse", y, p, user, seed=2, draws=60)
    assert [interval.low, interval.high] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]))
    clicked = (y > 3).astype(float)
    by_hand = [roc_auc_score(clicked, p, sample_weight=draw) for draw in weights]
    interval = metrics.bootstrap_metric("click", "auc", clicked, p / 6, user, seed=2, draws=60)
    assert [interval.low, interval.high] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]))


def test_interval_reports_its_number_of_draws(rows):
    y, p, user = rows
    clicked, p = (y > 3).astype(float), p / 6
    estimates = metrics.bootstrap("click", clicked, [p, p[::-1]], user, reference=0, draws=1000)
    used = {name: estimate.interval.draws for name, estimate in estimates[1].items()}
    assert used == {"auc": 200, "uauc": 1000, "log_loss": 1000}
    assert {name: estimate.difference.draws for name, estimate in estimates[1].items()} == used
    assert used == {name: metrics.draws_used(name, 1000) for name in used}
    assert metrics.bootstrap_metric("click", "auc", clicked, p, user, draws=50).draws == 50


@pytest.mark.parametrize(
    ("task", "names"), [("rating", ["rmse", "pair_accuracy"]), ("click", ["log_loss", "uauc"])]
)
def test_shares_kept_are_ratios_of_gains_of_the_same_bootstrap_draws(rows, task, names):
    y, p, user = rows
    noise = np.random.default_rng(1).normal(size=len(y))
    methods = {
        "retrained": [p],
        "random": [noise / 9 + 3],
        "migrated": [0.5 * p + noise / 4 + 1.5, p + noise],
        "worse": [noise[::-1] + 3],
    }
    if task == "click":
        y = (y > 3).astype(float)
        methods = {name: [1 / (1 + np.exp(3 - p)) for p in ps] for name, ps in methods.items()}

    def values(ps):
        pooled = [metrics.pooled(task, y, p, user) for p in ps]
        return {name: np.mean([scores[name] for scores in pooled]) for name in names}

    expected = {name: values(ps) for name, ps in methods.items()}
    sampled = metrics.sample_metrics(
        task, y, [p for ps in methods.values() for p in ps], user, names, draws=200
    )
    trainings = [len(ps) for ps in methods.values()]
    more = {"retrained": 0, "references": [1, 3], "names": names}
    measured = metrics.shares_kept(sampled, trainings, **more)
    for kept_of, reference in zip(measured, ("random", "worse"), strict=True):
        for share_estimates, method in zip(kept_of, methods, strict=True):
            for name in names:
                gain = expected[reference][name] - expected["retrained"][name]
                method_gain = expected[reference][name] - expected[method][name]
                share = share_estimates[name].share
                assert abs(share_estimates[name].gain.value) == pytest.approx(abs(gain))
                assert share.value == pytest.approx(method_gain / gain)
                if method == "retrained":
                    assert (share.value, share.low, share.high) == pytest.approx((1, 1, 1))
                elif method == reference:
                    assert (share.value, share.low, share.high) == pytest.approx((0, 0, 0))
                else:
                    assert share.low < share.value < share.high


def test_no_share_is_given_of_an_uncertain_gain(rows):
    y, p, user = rows
    noisy = p + np.random.default_rng(3).normal(0, 1e-3, len(p))
    for reference in (noisy, y):  # no gain at all, and a loss
        methods, names = [p * 0.9, p, reference], ["rmse"]
        sampled = metrics.sample_metrics("rating", y, methods, user, names, draws=100)
        ((kept, *_),) = metrics.shares_kept(
            sampled, [1, 1, 1], retrained=1, references=[2], names=names
        )
        share = kept["rmse"].share
        assert np.isnan([share.value, share.low, share.high]).all()
        assert kept["rmse"].gain.low <= 0
