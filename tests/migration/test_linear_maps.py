"""Closed-form maps: exact on noiseless data, regularised on noise, joined by user id."""

import numpy as np
import pytest

from puma_engine.errors import ConfigError, MigrationError
from puma_engine.migration.linear_maps import STRENGTHS, map_prompts, procrustes, ridge
from puma_engine.prompts.table import PromptTable


def rows(n, width, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


def test_ridge_recovers_a_linear_map_and_shrinks_noise():
    x, weight = rows(200, 6), rows(6, 9, 1)
    linear = ridge(x, x @ weight + 3)
    np.testing.assert_allclose(linear(rows(5, 6, 2)), rows(5, 6, 2) @ weight + 3, atol=0.02)
    noise = ridge(x, rows(200, 9, 3))
    assert noise.strength > linear.strength
    assert np.abs(noise.weight).max() < 0.1


def test_ridge_strength_equals_that_of_leave_one_out():
    x = rows(12, 5)
    y = x @ rows(5, 4, 1) + rows(12, 4, 2)

    def left_out(strength):
        total = 0.0
        for out in range(len(x)):
            train = np.arange(len(x)) != out
            centre, middle = x[train].mean(0), y[train].mean(0)
            a, b = x[train] - centre, y[train] - middle
            weight = np.linalg.solve(a.T @ a + strength * np.eye(5), a.T @ b)
            total += (((x[out] - centre) @ weight + middle - y[out]) ** 2).sum()
        return total

    centred = x - x.mean(0)
    strengths = STRENGTHS * (centred**2).sum() / 5
    errors = [left_out(strength) for strength in strengths]
    assert ridge(x, y).strength == pytest.approx(strengths[int(np.argmin(errors))])


@pytest.mark.parametrize("width", [6, 9])
def test_procrustes_recovers_a_rotated_and_scaled_copy(width):
    x, basis = rows(50, 6), np.linalg.qr(rows(width, width, 1))[0][:6]
    linear = procrustes(x, 2.5 * x @ basis + 1)
    np.testing.assert_allclose(linear(x), 2.5 * x @ basis + 1, atol=1e-9)


def test_procrustes_only_rotates_and_scales():
    x, y = rows(50, 6), rows(50, 4, 1)
    linear = procrustes(x, y)
    gram = linear.weight.T @ linear.weight
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(4), atol=1e-12)
    worse = [
        np.linalg.norm(y - y.mean(0) - c * (x - x.mean(0)) @ linear.weight) for c in (0.9, 1.1)
    ]
    assert np.linalg.norm(y - linear(x)) < min(worse)


def test_linear_maps_pair_users_by_id():
    ids = np.array([f"u{i}" for i in range(40)])
    x = rows(40, 5).astype(np.float32)
    source = PromptTable(ids, x[:, None], {"w": np.ones(1)})
    target = (x @ rows(5, 8, 1)).astype(np.float32)
    order = np.random.default_rng(5).permutation(40)[:30]
    examples = PromptTable(
        ids[order], target[order][:, None], {"w": np.zeros(1)}, {"backbone": "b"}
    )
    moved = map_prompts(source, examples)
    np.testing.assert_allclose(moved.take(ids)[:, 0], target, atol=0.05)
    assert moved.head == examples.head and moved.meta["pairs"] == 30
    assert moved.meta["backbone"] == "b" and moved.vectors.dtype == np.float32


def test_too_few_pairs_and_unknown_methods_are_refused():
    source = PromptTable(np.array(["a", "b", "c"]), rows(3, 4)[:, None].astype(np.float32))
    other = PromptTable(np.array(["c", "d"]), rows(2, 4)[:, None].astype(np.float32))
    with pytest.raises(MigrationError, match="1 users have prompts on both"):
        map_prompts(source, other)
    with pytest.raises(ConfigError, match="ridge or procrustes"):
        map_prompts(source, source, method="magic")
