"""The operating guide: what it gives to copy is well-formed, and its plan follows from measured rates."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", GUIDE, re.M | re.S)


# Of the values of the chart kuberay/ray-cluster 1.1.0, those that the guide sets; Helm ignores others.
CHART = {
    "image": {"repository", "tag"},
    "head": {"rayStartParams", "resources"},
    "worker": {"groupName", "replicas", "resources", "volumes", "volumeMounts"},
}


def blocks(mark):
    actual = [block for block in BLOCKS if re.search(mark, block, re.M)]
    assert actual
    return actual


@pytest.mark.parametrize("mark", [r"^#!/bin/bash", r"^ray start", r"^puma "])
def test_code_blocks_of_the_guide_are_valid_shell(mark):
    for block in blocks(mark):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr


def test_the_values_for_kubernetes_are_yaml_with_keys_of_the_chart():
    (block,) = blocks(r"^worker:")
    values = yaml.safe_load(block)
    assert {part: set(value) for part, value in values.items()} == CHART
    assert values["head"]["rayStartParams"] == {"num-cpus": "0"}
    for part in ("head", "worker"):
        resources = values[part]["resources"]
        assert resources["limits"] == resources["requests"]
    mounts = {mount["name"] for mount in values["worker"]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in values["worker"]["volumes"]}


def rate(file, key, **measurement):
    """Return the rate of the one measurement that is wanted."""
    rows = json.loads((ROOT / "benchmarks" / "results" / file).read_text(encoding="utf-8"))["rows"]
    (value,) = (row[key] for row in rows if measurement.items() <= row.items())
    return value


def test_the_plan_follows_from_measured_rates():
    million = {"users": 1_000_000}
    model = {"backbone": "llama-3.2-3b", "way": "item_first", "batch": 256, "precision": "bf16"}
    model |= {"device": "NVIDIA H200"}
    mapping, choosing = (
        rate("scale.json", "users_per_s", stage=stage, **million) for stage in ("migrate", "select")
    )
    training, fitting, predicting = (
        rate("throughput.json", "examples_per_s", stage=stage, **model)
        for stage in ("adapter", "prompts", "evaluation")
    )
    users, models, examples = 100e6, 50, 10 * 10
    read, written = users * 8192, users * 12288
    core_hours = 2 * users / mapping / 3600
    trained, evaluated = (
        n / per_s / 3600 for n, per_s in ((1e5 * examples, training), (3e6, predicting))
    )
    fitted = users * examples / fitting / 3600
    minutes, text = core_hours / 64 * 60, " ".join(GUIDE.split())
    for sentence in (
        f"mapping {mapping:,.0f} users/s, choosing {choosing:,.0f} users/s",
        f"training an adapter {training:,.0f}, fitting prompts {fitting:,.0f}, predicting {predicting:,.0f} ex",
        f"x 8 KiB | {read / 1e12:.2f} TB |",
        f"x 12 KiB | {written / 1e12:.1f} TB | {models * written / 1e12:.0f} TB |",
        f"50 GB of memory) | {users / choosing / 60:.0f} minutes |",
        f"| {60 * trained:.0f} minutes of a GPU | {models * trained:.0f} GPU hours |",
        f"| {core_hours:.1f} core hours | {models * core_hours:.0f} core hours |",
        f"| {60 * evaluated:.1f} minutes of a GPU | {models * evaluated:.1f} GPU hours |",
        f"| {fitted:,.0f} GPU hours | {models * fitted:,.0f} GPU hours |",
        f"cost {models * (trained + evaluated):.0f} GPU hours and {models * core_hours:.0f} core hours",
        f"takes {minutes:.1f} minutes if storage reads {read / minutes / 60e9:.1f} GB/s and writes "
        f"{written / minutes / 60e9:.1f} GB/s",
        f"the time: {(read + written) / 60e9:.0f} minutes a model",
        f"one shard, {2e6 / mapping / 60:.1f} minutes of a core",
        f"take {3 * users / predicting / 3600:.1f} GPU hours a model",
    ):
        assert sentence in text, sentence
