"""The campaign of kills, power losses and damaged inputs stays alive: a few of each, without harm."""

import json
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import kills
from benchmarks.reliability.forking import CommandResult
from benchmarks.reliability.mutations import READERS
from benchmarks.reliability.operations import AFTER, BEFORE, FUNCTIONS, watch_operations
from benchmarks.reliability.power_loss import EVERYTHING, Recorder
from benchmarks.reliability.workloads import Reference
from puma_engine import files

ROOT = Path(__file__).resolve().parents[2]


# One command, and all readers.
ONLY = "^(?!fit|migrate|evaluate|worker|implicit|compare)"


def in_full(figures):
    """The figures of a part without its description: totals, problems and broken processes."""
    return json.dumps({name: figures[name] for name in figures if name != "model"}, indent=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of a small campaign, which loads its libraries once."""
    folder = tmp_path_factory.mktemp("campaign")
    command = [sys.executable, "-m", "benchmarks.reliability", "--processes", "2", "--only", ONLY]
    command += ["--kills", "6", "--power-loss", "8", "--mutations", "72"]
    command += ["--work", str(folder), "--out", str(folder / "out.json")]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not result.returncode, result.stdout + result.stderr
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def test_killed_commands_end_well_when_they_are_run_again(results):
    assert [row["workload"] for row in results["kills"]["rows"]] == ["import"]
    for part, minimum in (("kills", 6), ("power_losses", 0)):
        figures = results[part]
        totals = dict(figures["totals"])
        assert totals.pop("tries") and totals.pop("kills") >= minimum, in_full(figures)
        assert not any(totals.values()) and not figures["broken_processes"], in_full(figures)


def test_the_requested_kills_are_reached_where_no_kill_at_a_random_moment_is():
    """As on a machine that was busy only while the duration of the command was measured."""
    result = CommandResult(0, "", "", seconds=1.0, cpu_seconds=1.0)
    reference = Reference(Path("place"), result, {"command": 40})
    planned = kills.plan({"import": reference}, 30, seed=0)
    at_operations = [moment for _, kind, _, moment in planned if kind == kills.AT_OPERATION]
    assert len(at_operations) == len(set(at_operations)) >= 30
    # Both kinds come first.
    assert {kind for _, kind, *_ in planned[:30]} == {kills.AT_OPERATION, kills.AT_RANDOM}


def test_complete_files_and_folders_survive_a_power_loss(tmp_path, monkeypatch):
    for name in FUNCTIONS:
        monkeypatch.setattr(os, name, getattr(os, name))  # so that monkeypatch restores them
    monkeypatch.setattr(sqlite3, "connect", sqlite3.connect)
    recorder = Recorder(tmp_path)
    recorder.begin()

    def watch(name, when, arguments):
        if (name, when) == ("fsync", AFTER):
            recorder.synced(str(Path(f"/proc/self/fd/{arguments[0]}").resolve()))
        elif name == "rename" and when == BEFORE:
            recorder.look()
        elif name == "rename":
            recorder.renamed(*map(str, arguments))

    watch_operations(watch)
    files.write_text(tmp_path / "new" / "folder" / "whole.txt", "whole")
    with files.new_folder(tmp_path / "made" / "at-once") as folder:
        (folder / "inside.txt").write_text("inside")
    (tmp_path / "not-synced.txt").write_text("lost")
    recorder.look()
    remaining = recorder.state(EVERYTHING, random.Random(0))
    assert {name: content for name, content in remaining.items() if content} == {
        "new/folder/whole.txt": b"whole",
        "made/at-once/inside.txt": b"inside",
    }
    assert "not-synced.txt" in recorder.names and "not-synced.txt" not in remaining


def test_damaged_inputs_are_refused_in_a_sentence_or_read_as_they_are(results):
    mutations = results["mutations"]
    totals = dict(mutations["totals"])
    assert len(mutations["rows"]) == len(READERS) and totals.pop("tries") >= 72
    assert totals.pop("refused") and totals.pop("accepted")
    assert not any(totals.values()) and not mutations["broken_processes"], in_full(mutations)
