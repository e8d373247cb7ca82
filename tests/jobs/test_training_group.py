"""What the actor of a training group keeps: checkpoints whose files move between names."""

import hashlib
import logging

import pytest

from puma_engine.jobs import node_worker
from puma_engine.jobs.training_group import TrainingGroup
from puma_engine.store import scratch


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    # A group runs in its own process, whose log it collects.
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
    record = {"checkpoint.json": b"1"}
    first = record | {"best": b"one", "former": b"zero", "weights": b"two"}
    assert keep(group, first) == 4
    # Two files have changed their names, and one is gone.
    second = record | {"best": b"two", "weights": b"one"}
    assert keep(group, second) == 0
    folder = group.ws.work(group._run_id)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == second
    offered = group.checkpoint()
    assert {name for name, *_ in offered} == set(second)
    for name, file, size in offered:
        assert group.file_sizes([file]) == {file: size}
        assert group.read_block(file, 0, size) == second[name]


def facts(**software):
    versions = node_worker.software() | software
    return {"software": versions, "name": "one", "id": "1", "pid": 1, "reserved": None}


def test_an_error_names_its_process_and_a_cancelled_process_waits_for_the_first(
    group,
):
    for rank in (0, 1):
        group.register(rank, facts())
    group.finish(1, {"error": "Cancelled.", "type": "Cancelled"})
    assert group._failed is None and not group.add_lines([])
    group.finish(1, {"error": "The disk is full.", "type": "StoreError"})
    group.finish(1, {"error": "Later.", "type": "StoreError"})
    expected = {"error": "The disk is full. (process 2 of 2, on one)", "type": "StoreError"}
    assert group._failed[1] == expected
    # The outcome of the first process decides.
    group.finish(0, {"files": []})
    assert group._outcome == {"files": []} and group.receive(None, [])["over"]


def test_a_process_with_other_versions_ends_the_run(group):
    assert group.register(0, facts()) is not None
    assert group.register(1, facts(torch="1.0")) is None
    assert "other versions" in group._outcome["error"]
    assert group.receive(None, [])["over"]
