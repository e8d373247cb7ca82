"""What the operating guide gives to copy is well-formed: shell lines, the script for Slurm, values for Kubernetes."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

GUIDE = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", GUIDE, re.M | re.S)


def blocks(mark):
    actual = [block for block in BLOCKS if re.search(mark, block, re.M)]
    assert actual
    return actual


@pytest.mark.parametrize("mark", [r"^#!/bin/bash", r"^ray start", r"^puma "])
def test_the_shell_reads_its_lines(mark):
    for block in blocks(mark):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr


def test_the_values_for_kubernetes_are_yaml_with_what_the_chart_takes():
    (block,) = blocks(r"^worker:")
    values = yaml.safe_load(block)
    assert set(values) == {"image", "head", "worker"}
    assert values["head"]["rayStartParams"] == {"num-cpus": "0"}
    for part in ("head", "worker"):
        resources = values[part]["resources"]
        assert resources["limits"] == resources["requests"]
    mounts = {mount["name"] for mount in values["worker"]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in values["worker"]["volumes"]}
