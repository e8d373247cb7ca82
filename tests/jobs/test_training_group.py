"""What the actor of a training group keeps: checkpoints whose files move between names."""

import hashlib
import logging

import pytest

from puma_engine.jobs.training_group import TrainingGroup
from puma_engine.store import scratch


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    # It is made for a process of its own, whose log it collects.
    logger = logging.getLogger("puma_engine")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "level", logger.level)
    group = TrainingGroup(2, 1, 0)
    group._run_id = "0" * 16
    return group


def keep(group, contents):
    """Hand over files by name and content, as the first process does; return how many were sent."""
    files = {name: hashlib.sha256(text).hexdigest() for name, text in contents.items()}
    by_hash = {files[name]: text for name, text in contents.items()}
    lacking = group.missing_files(list(by_hash))
    for name in lacking:
        group.write_block(name, 0, by_hash[name], len(by_hash[name]))
    group.save_checkpoint(files)
    return len(lacking)


def test_a_checkpoint_is_what_was_handed_over_last_and_known_files_are_not_sent_again(group):
    first = {"best": b"one", "checkpoint.json": b"1", "weights": b"two"}
    assert keep(group, first) == 3
    # Two files have changed their names, and one is gone.
    assert keep(group, {"best": b"two", "weights": b"one"}) == 0
    folder = group.ws.work(group._run_id)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "best": b"two",
        "weights": b"one",
    }
    offered = group.checkpoint()
    assert [name for name, *_ in offered] == ["best", "weights"]
    for (_, file, size), text in zip(offered, (b"two", b"one"), strict=True):
        assert group.file_sizes([file]) == {file: size}
        assert group.read_block(file, 0, size) == text
