"""Task heads: their losses and predictions."""

import pytest
import torch

from puma_engine.backbone.tasks import RatingHead, get_task
from puma_engine.errors import ConfigError


def test_rating_head_ignores_a_common_offset_and_starts_at_the_mean():
    head = RatingHead(3.9, torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in head.parameters()][::2] == [(32, 5), (12, 32), (1, 12)]
    logits = torch.randn(7, 5)
    torch.testing.assert_close(head(logits), head(logits + 17.0))


def test_rating_loss_is_the_hybrid_of_squared_error_and_cross_entropy():
    task = get_task("rating")
    head = RatingHead(3.0)
    logits, outcome = torch.randn(6, 5), torch.tensor([1.0, 2, 3, 4, 5, 5])
    expected = 0.8 * (head(logits) - outcome) ** 2 + 0.2 * torch.nn.functional.cross_entropy(
        logits, outcome.long() - 1, reduction="none"
    )
    torch.testing.assert_close(task.loss(logits, outcome, head), expected)


def test_a_half_star_is_shared_between_its_neighbours():
    task = get_task("rating")
    head = RatingHead(3.0)
    logits = torch.randn(1, 5)
    low, half, high = (task.loss(logits, torch.tensor([y]), head) for y in (2.0, 2.5, 3.0))
    entropy = [
        loss - 0.8 * (head(logits) - y) ** 2 for loss, y in ((low, 2.0), (half, 2.5), (high, 3.0))
    ]
    torch.testing.assert_close(entropy[1], (entropy[0] + entropy[2]) / 2)


def test_predictions_of_another_model_are_learned_as_probabilities():
    rating, head = get_task("rating"), RatingHead(3.0)
    logits, outcome = torch.randn(6, 5), torch.tensor([1.0, 2, 3, 4, 5, 5])
    certain = torch.nn.functional.one_hot(outcome.long() - 1, 5).float()
    torch.testing.assert_close(
        rating.loss(logits, outcome, head, certain), rating.loss(logits, outcome, head)
    )
    # The cross entropy to a distribution is least at that distribution.
    answers = torch.softmax(torch.randn(6, 5), dim=-1)
    matched = answers.log().requires_grad_()
    loss = rating.loss(matched, head(matched).detach(), head, answers).sum()
    (gradient,) = torch.autograd.grad(loss, matched)
    torch.testing.assert_close(gradient, torch.zeros(6, 5))
    click = get_task("click")
    logits = torch.randn(4, 2, requires_grad=True)
    probability = torch.sigmoid(logits[:, 0] - logits[:, 1]).detach()
    loss = click.loss(logits, probability, click.head(0.5, torch.Generator())).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(4, 2))


def test_click_predictions_are_probabilities_of_yes_against_no():
    task = get_task("click")
    head = task.head(0.5, torch.Generator())
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(task.predict(logits, head), torch.sigmoid(torch.tensor([2.0, -2.0])))


def test_unknown_tasks_are_named():
    with pytest.raises(ConfigError, match="rating, click"):
        get_task("ranking")
