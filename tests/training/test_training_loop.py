"""The training loop: exact resume after a kill, damaged checkpoints, and two processes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_script
from safetensors.numpy import load_file
from training_script import CONFIG, Small

from puma_engine.config import TrainingConfig
from puma_engine.errors import Cancelled, CheckpointError
from puma_engine.training import checkpoint
from puma_engine.training.loop import epoch_batches, train

SCRIPT = Path(training_script.__file__)


def command(out, folder, *options):
    return [sys.executable, str(SCRIPT), str(out), str(folder), *map(str, options)]


@pytest.mark.timeout(120)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    training_script.main(tmp_path / "whole.st", tmp_path / "a")
    # In the second epoch, so that at least the first one's checkpoint is there.
    killed = subprocess.run(command(tmp_path / "cut.st", tmp_path / "b", 0.3, 20), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "b" / checkpoint.RECORD).exists() and not (tmp_path / "cut.st").exists()
    training_script.main(tmp_path / "cut.st", tmp_path / "b")
    uninterrupted, resumed = load_file(tmp_path / "whole.st"), load_file(tmp_path / "cut.st")
    assert all(np.array_equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


@pytest.mark.timeout(180)
def test_two_processes_that_resume_within_an_epoch_train_like_one(tmp_path):
    training_script.main(tmp_path / "one.st", tmp_path / "a", 0)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    # An epoch has 14 steps.
    python, *line = command(tmp_path / "two.st", tmp_path / "b", 0, 0, 10)
    subprocess.run([python, *launch, *line], check=True)
    assert (tmp_path / "two.processes").read_text() == "2"
    single, double = load_file(tmp_path / "one.st"), load_file(tmp_path / "two.st")
    for name in single:
        np.testing.assert_allclose(single[name], double[name], atol=1e-5)
    losses = [json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_cancel_leaves_a_checkpoint_and_clear_removes_it(tmp_path):
    steps = iter(range(100))
    with pytest.raises(Cancelled):
        module = Small()
        train(module, 500, CONFIG, checkpoint_dir=tmp_path, should_cancel=lambda: next(steps) == 9)
    assert (tmp_path / checkpoint.RECORD).exists()
    checkpoint.clear(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncate", "flip", "settings", "order", "format"])
def test_damaged_or_foreign_checkpoints_are_refused(tmp_path, damage):
    train(Small(), 500, CONFIG, checkpoint_dir=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    config, module = CONFIG, Small()
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    elif damage == "format":
        record = tmp_path / checkpoint.RECORD
        record.write_text(record.read_text().replace('"format": 2', '"format": 1'))
    elif damage == "order":
        weight = module.net[0].weight
        del module.net[0].weight
        module.net[0].register_parameter("weight", weight)
    else:
        config = TrainingConfig(**{**CONFIG.to_dict(), "seed": 5})
    with pytest.raises(CheckpointError, match="start over"):
        train(module, 500, config, checkpoint_dir=tmp_path)


def test_the_best_epoch_is_returned_and_training_stops_early():
    module, values = Small(), iter([3.0, 1.0, 2.0, 2.0, 0.0])
    weights = []

    def validate():
        weights.append(module.net[0].weight.detach().clone())
        return next(values)

    config = TrainingConfig(**{**CONFIG.to_dict(), "epochs": 9, "patience": 2})
    result = train(module, 500, config, validate=validate)
    assert result.best_epoch == 1 and len(result.history) == 4
    assert torch.equal(module.net[0].weight, weights[1])


def test_initial_parameters_are_returned_if_no_epoch_is_better():
    for values, best in (([2.0, 3.0, 4.0], -1), ([2.0, 1.0, 4.0], 0)):
        module, validation = Small(), iter(values)
        start = module.net[0].weight.detach().clone()
        config = TrainingConfig(**{**CONFIG.to_dict(), "epochs": 2, "patience": 0})
        result = train(module, 500, config, validate=validation.__next__, include_start=True)
        assert (result.best_epoch, result.best_validation) == (best, min(values))
        assert torch.equal(module.net[0].weight, start) == (best == -1)


def test_batches_hold_each_row_once_and_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 90, 1001)
    batches = epoch_batches(1001, 16, seed=1, epoch=2, lengths=lengths)
    assert sorted(np.concatenate(batches)) == list(range(1001))
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    plain = epoch_batches(1001, 16, seed=1, epoch=2)
    assert spread < np.mean([np.ptp(lengths[batch]) for batch in plain]) / 5
    again = epoch_batches(1001, 16, seed=1, epoch=2, lengths=lengths)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert any(
        (a != b).any() for a, b in zip(plain, epoch_batches(1001, 16, seed=1, epoch=3), strict=True)
    )
