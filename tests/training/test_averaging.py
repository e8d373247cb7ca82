"""Moving averages of weights: their values, what is validated and kept, and exact resume."""

import numpy as np
import pytest
import torch
from training_script import CONFIG, Small

from puma_engine.config import TrainingConfig
from puma_engine.errors import Cancelled
from puma_engine.training.averaging import MovingAverage
from puma_engine.training.loop import train

AVERAGED = TrainingConfig(**{**CONFIG.to_dict(), "ema_decay": 0.9, "checkpoint_seconds": 1e9})


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_the_average_of_constant_weights_is_the_weights():
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    average = MovingAverage({"p": parameter}, 0.99)
    before = parameter.detach().clone()
    for step in range(1, 50):
        average.update(step)
    torch.testing.assert_close(average.averages["p"], before)
    with average.applied():
        torch.testing.assert_close(parameter.detach(), before)
    assert torch.equal(parameter, before)


def test_averages_follow_their_definition_and_leave_the_weights_alone():
    parameter = torch.nn.Parameter(torch.zeros(()))
    average, expected = MovingAverage({"p": parameter}, 0.9), 0.0
    for step in range(1, 200):
        with torch.no_grad():
            parameter.fill_(float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.averages["p"]) == pytest.approx(expected, rel=1e-4)
    # The weights of an average that has forgotten its start lag by decay / (1 - decay) steps.
    assert expected == pytest.approx(199 - 9, rel=1e-3)
    assert parameter.item() == 199


def test_the_average_is_validated_and_kept_while_training_goes_on_without_it():
    plain, seen = Small(), []  # The constructor seeds dropout.
    train(plain, 500, CONFIG)
    averaged = Small()
    train(averaged, 500, AVERAGED, validate=lambda: seen.append(weights(averaged)) or -len(seen))
    assert all(torch.equal(p, seen[-1][name]) for name, p in weights(averaged).items())
    plain_weights, averaged_weights = weights(plain), weights(averaged)
    assert any(
        not torch.equal(plain_weights[name], averaged_weights[name]) for name in plain_weights
    )
    # Without validation the average of the last step is returned.
    again = Small()
    train(again, 500, AVERAGED)
    assert all(torch.equal(p, averaged_weights[name]) for name, p in weights(again).items())


def test_a_decay_of_0_changes_nothing():
    plain = Small()
    train(plain, 500, CONFIG, validate=lambda: 0.0)
    off, settings = Small(), {**CONFIG.to_dict(), "ema_decay": 0.0}
    train(off, 500, TrainingConfig(**settings), validate=lambda: 0.0)
    assert TrainingConfig(**settings).to_dict() == CONFIG.to_dict()
    assert all(torch.equal(p, weights(off)[name]) for name, p in weights(plain).items())


def test_an_interrupted_training_goes_on_with_the_same_average(tmp_path):
    uninterrupted, steps = Small(), iter(range(100))
    train(uninterrupted, 500, AVERAGED)
    cut, stop = Small(), lambda: next(steps) == 20
    with pytest.raises(Cancelled):
        train(cut, 500, AVERAGED, checkpoint_dir=tmp_path, should_cancel=stop)
    resumed = Small()
    train(resumed, 500, AVERAGED, checkpoint_dir=tmp_path)
    for name, parameter in weights(uninterrupted).items():
        np.testing.assert_array_equal(parameter, weights(resumed)[name])
