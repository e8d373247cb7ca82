"""Loss terms within users: what their gradients do to a pair, and what they ignore."""

import numpy as np
import pytest
import torch

from puma_engine.prompts.ranking import decorrelation_loss, ranking_loss, within_user_loss
from puma_engine.training.loop import GROUP_ROWS, epoch_batches

OUTCOME = torch.tensor([5.0, 3.0, 4.0, 1.0])
USER = torch.tensor([0, 0, 1, 2])


def gradient(loss, scores):
    scores = scores.clone().requires_grad_()
    loss(scores, OUTCOME, USER).backward()
    return scores.grad


@pytest.mark.parametrize("loss", [ranking_loss, within_user_loss])
def test_a_step_moves_the_rows_of_a_user_apart_in_their_order(loss):
    """Rows whose user has no other row in the batch get no gradient."""
    step = -gradient(loss, torch.tensor([3.0, 3.5, 2.0, 1.0]))
    assert step[0] > 0 > step[1]
    assert step[0] == pytest.approx(-step[1])
    assert not step[2:].any()


@pytest.mark.parametrize("loss", [ranking_loss, within_user_loss])
def test_a_users_common_error_costs_nothing(loss):
    scores = torch.tensor([3.0, 3.5, 2.0, 1.0])
    moved = scores + torch.tensor([0.7, 0.7, -2.0, 5.0])
    torch.testing.assert_close(loss(moved, OUTCOME, USER), loss(scores, OUTCOME, USER))


def test_exact_differences_have_no_error_and_reversed_pairs_cost_most():
    assert within_user_loss(OUTCOME + USER, OUTCOME, USER) == 0
    right, wrong = ranking_loss(OUTCOME, OUTCOME, USER), ranking_loss(-OUTCOME, OUTCOME, USER)
    assert 0 < right < 0.01 < wrong
    ties = torch.ones(4)
    assert ranking_loss(OUTCOME, ties, USER) == 0


def test_decorrelation_measures_the_participation_ratio():
    rows = torch.randn(50, 1, 6, generator=torch.Generator().manual_seed(0))
    eigenvalues = torch.linalg.eigvalsh(torch.cov(rows[:, 0].T))
    ratio = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    torch.testing.assert_close(decorrelation_loss(rows), -50 * ratio.log())
    line = torch.linspace(0, 1, 50)[:, None, None] * torch.ones(1, 1, 6)
    assert decorrelation_loss(line) == pytest.approx(0, abs=1e-3)


def test_grouped_batches_hold_each_row_once_and_runs_of_a_users_rows():
    users = np.random.default_rng(0).integers(0, 40, 1001)
    batches = epoch_batches(1001, 64, seed=1, epoch=2, groups=users)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(1001)) and max(map(len, batches)) == 64
    runs = np.diff(np.flatnonzero(np.r_[True, np.diff(users[order]) != 0, True]))
    assert runs.mean() > GROUP_ROWS / 2
    other = np.concatenate(epoch_batches(1001, 64, seed=1, epoch=3, groups=users))
    assert (order != other).any()
