"""Terms beside a task's loss: errors within users, and the spread of prompts."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Ratings differ by one star or more, so differences of predictions are scaled before the logistic.
SCALE = 4.0


@dataclass(frozen=True)
class LossTerms:
    """Weights of the terms that are added to the task's loss; 0 leaves a term out."""

    ranking: float = 0.0
    within_user: float = 0.0
    decorrelate: float = 0.0


NO_TERMS = LossTerms()


def ranking_loss(scores: Tensor, outcome: Tensor, user: Tensor) -> Tensor:
    """Return the summed pairwise logistic loss within users (BPR, Rendle et al. 2009).

    scores, outcome, user: [B]. Each row is compared with the rows of its user in the batch that
    have another outcome: log(1 + exp(-SCALE * d)) / SCALE, where d is how far the score of the row
    with the higher outcome is above the other. A row's loss is the mean over its pairs, 0 without
    any.
    """
    higher, gap = _differences(outcome).sign(), _differences(scores)
    pairs = _same(user) & (higher != 0)
    return _sum_of_means(F.softplus(-SCALE * higher * gap) / SCALE, pairs)


def within_user_loss(scores: Tensor, outcome: Tensor, user: Tensor) -> Tensor:
    """Return the summed squared error of differences between rows of one user, halved.

    scores, outcome, user: [B]. A row's loss is the mean over the rows of its user in the batch. An
    error that all rows of a user share costs nothing: only what is wrong within users does.
    """
    errors = (_differences(outcome) - _differences(scores)) ** 2 / 2
    return _sum_of_means(errors, _same(user))


def decorrelation_loss(prompts: Tensor) -> Tensor:
    """Return -log of the participation ratio of prompts [B, l, d], times B.

    It has the aim of the variance and covariance terms of VICReg (Bardes et al. 2022), and no scale.
    """
    rows = prompts.float().flatten(1)
    centred = rows - rows.mean(0)
    product = centred @ centred.T
    ratio = product.trace() ** 2 / product.square().sum().clamp(min=1e-30)
    return -len(rows) * torch.log(ratio.clamp(min=1e-30))


def _differences(values: Tensor) -> Tensor:
    return values.unsqueeze(1) - values.unsqueeze(0)


def _same(user: Tensor) -> Tensor:
    return user.unsqueeze(1) == user.unsqueeze(0)


def _sum_of_means(losses: Tensor, pairs: Tensor) -> Tensor:
    return ((losses * pairs).sum(1) / pairs.sum(1).clamp(min=1)).sum()
