"""A checkpoint restores parameters, optimiser, best parameters and random numbers exactly."""

import dataclasses
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from puma_engine.errors import StoreError
from puma_engine.training import checkpoint
from puma_engine.training.checkpoint import TrainingState


class Parameters(nn.Module):
    """Parameters of given shapes, scalars among them, of which some are frozen."""

    def __init__(self, shapes, frozen, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for number, shape in enumerate(shapes):
            values = torch.randn(shape, generator=generator)
            self.register_parameter(f"p{number}", nn.Parameter(values, number not in frozen))


def trained(shapes, frozen, seed, steps):
    """Return a module and its optimiser (in reverse order of parameters) after some steps."""
    module = Parameters(shapes, frozen, seed)
    parameters = list(checkpoint.trainable_parameters(module).values())
    optimizer = torch.optim.AdamW(parameters[::-1], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
    return module, optimizer


@given(
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (2, 3)]), min_size=2, max_size=5),
    frozen=st.sets(st.integers(1, 4)),
    steps=st.integers(0, 3),
    has_best=st.booleans(),
    state=st.builds(
        TrainingState,
        epoch=st.integers(0, 9),
        step=st.integers(0, 99),
        loss_sum=st.floats(0, 1e6),
        best_validation=st.floats(0, 10) | st.just(float("inf")),
        finished=st.booleans(),
    ),
)
@settings(max_examples=25, deadline=None)
def test_a_restored_run_goes_on_like_the_saved_one(
    tmp_path_factory, shapes, frozen, steps, has_best, state
):
    folder = tmp_path_factory.mktemp("checkpoint")
    module, optimizer = trained(shapes, frozen, 0, steps)
    best = checkpoint.copy_parameters(trained(shapes, frozen, 2, 0)[0]) if has_best else None
    checkpoint.save(folder, "run", state, module, optimizer, best)
    random_numbers = torch.rand(3)

    other, other_optimizer = trained(shapes, frozen, 1, 0)
    loaded = checkpoint.load(folder, "run")
    assert dataclasses.asdict(loaded.state) == dataclasses.asdict(state)
    restored = loaded.restore(other, other_optimizer)
    torch.testing.assert_close(torch.rand(3), random_numbers, rtol=0, atol=0)
    assert restored.keys() == (best or {}).keys()
    for name, value in (best or {}).items():
        torch.testing.assert_close(restored[name], value, rtol=0, atol=0)
    for each in (optimizer, other_optimizer):
        for parameter in each.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        each.step()
    for name, parameter in checkpoint.trainable_parameters(module).items():
        torch.testing.assert_close(other.get_parameter(name), parameter, rtol=0, atol=0)


def test_a_failed_second_save_of_a_step_leaves_the_earlier_checkpoint_intact(tmp_path, monkeypatch):
    module, optimizer = trained([(3,)], set(), 0, 1)
    before = checkpoint.copy_parameters(module)
    state = TrainingState(step=4, batch=4)
    checkpoint.save(tmp_path, "run", state, module, optimizer, None)
    with torch.no_grad():
        module.p0.add_(1)

    def replace(source, target):
        if str(target).endswith(checkpoint.RECORD):
            raise OSError("the process ends here")
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StoreError, match="cannot be written"):
        checkpoint.save(tmp_path, "run", TrainingState(step=4, epoch=1), module, optimizer, before)
    monkeypatch.undo()
    loaded = checkpoint.load(tmp_path, "run")
    assert loaded.state == state
    assert torch.equal(torch.from_numpy(loaded.arrays["now/p0"]), before["p0"])
    checkpoint.save(tmp_path, "run", TrainingState(step=5), module, optimizer, None)
    assert len(list(tmp_path.iterdir())) == 2  # files of the failed attempt are removed, too
