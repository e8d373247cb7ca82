"""Provenance of benchmark results: the complete command without local paths."""

import shlex
import sys

import pytest
from provenance import provenance


@pytest.mark.parametrize(
    ("command", "recorded"),
    [
        ("HERE/benchmarks/scale.py --users 10 300", "benchmarks/scale.py --users 10 300"),
        ("scale.py --folder /a/large/disk --out HERE/a/b.json", "scale.py --folder disk --out a/b.json"),
        ("scale.py --folder=/a/large/disk --out=HERE/b.json", "scale.py --folder=disk --out=b.json"),
        ("scale.py --out b.json --second '' '/a/two words'", "scale.py --out b.json --second '' 'two words'"),
    ],
)  # fmt: skip
def test_a_command_is_recorded_without_local_folders(tmp_path, monkeypatch, command, recorded):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command.replace("HERE", str(tmp_path)))
    monkeypatch.setattr(sys, "argv", arguments)
    assert provenance()["command"] == f"python {recorded}"
