"""The campaign of kills and damaged inputs stays alive: a few of each, and none does harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(folder, *options):
    command = [sys.executable, "-m", "benchmarks.reliability", "--processes", "2", *options]
    command += ["--work", str(folder), "--out", str(folder / "out.json")]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not ended.returncode, ended.stderr
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def test_killed_commands_end_well_when_they_are_run_again(tmp_path):
    kills = run(tmp_path, "--kills", "10", "--only", "^(import|fit)$")["kills"]
    totals = dict(kills["totals"])
    assert totals.pop("tries") and totals.pop("kills") >= 10
    assert not any(totals.values()) and not kills["broken_processes"], kills["examples"]


def test_damaged_inputs_are_refused_in_a_sentence_or_read_as_they_are(tmp_path):
    mutations = run(tmp_path, "--mutations", "200")["mutations"]
    totals = dict(mutations["totals"])
    assert totals.pop("tries") >= 200 and totals.pop("refused") and totals.pop("accepted")
    assert not any(totals.values()) and not mutations["broken_processes"], mutations["examples"]
