"""The participation ratio of a prompt table."""

import numpy as np
import pytest

from puma_engine.prompts.table import PromptTable


def ratio(rows, tokens=1):
    vectors = np.asarray(rows, np.float32).reshape(len(rows), tokens, -1)
    return PromptTable(np.arange(len(rows)).astype(str), vectors).participation_ratio()


@pytest.mark.parametrize("users", [5, 400])
def test_it_counts_directions_of_equal_variance(users):
    rng = np.random.default_rng(0)
    line = rng.normal(size=(users, 1)) * rng.normal(size=(1, 12)) + 3
    assert ratio(line) == pytest.approx(1, abs=1e-3)
    rows = rng.normal(size=(users, 12))
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T))
    expected = eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()
    assert ratio(rows) == pytest.approx(expected, rel=1e-4)
    assert ratio(7 * rows + 2) == pytest.approx(expected, rel=1e-4)
    assert ratio(rows, tokens=3) == pytest.approx(expected, rel=1e-4)


def test_equal_prompts_have_no_direction():
    assert ratio(np.ones((4, 6))) == 0
