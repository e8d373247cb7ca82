"""Several processes through the real command line: all train, rank 0 writes, results are the same."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_runs import write_ratings
from tiny import tiny_backbone_folder

from puma_engine import Workbench
from puma_engine.training import distributed

TRAINING = {"epochs": 2, "batch_size": 32}
ADAPTER = {"hidden": 16, "dropout": 0.0, "noise": 0.0}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def launched(folder, *words):
    line = [*LAUNCH, "-m", "puma_engine.cli", *map(str, words), "-w", str(folder)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.timeout(280)
def test_two_processes_migrate_like_one(tmp_path):
    single = Workbench(tmp_path / "one", create=True)
    path = write_ratings(tmp_path / "ratings.csv")
    single.import_dataset("table", path=path, task="rating", name="data")
    small = tiny_backbone_folder(tmp_path, "llama")
    large = tiny_backbone_folder(tmp_path, "qwen2", width=48)
    single.fit_prompts("data", small, training=TRAINING, name="source")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    chosen = {"strategy": "random", "budget": 10}
    single_run = single.migrate("source", large, training=TRAINING, adapter=ADAPTER, **chosen)
    words = ["migrate", "source", large, "--strategy", "random", "--budget", 10, "--json"]
    words += ["--epochs", 2, "--batch-size", 32, "--hidden", 16, "--dropout", 0, "--noise", 0]
    done = launched(tmp_path / "two", *words)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)  # only rank 0 prints
    double = Workbench(tmp_path / "two")
    assert run["id"] == single_run.id
    assert len(double.runs("migration")) == len(double.runs("selection")) == 1
    first, second = (
        [epoch["train_loss"] for epoch in history]
        for history in (single_run.summary["history"], run["summary"]["history"])
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)
    np.testing.assert_allclose(
        single.prompts(single_run).vectors, double.prompts(single_run.id).vectors, atol=1e-4
    )
    assert double.workspace.verify() == [] and not list((tmp_path / "two" / "work").glob("*"))


def test_only_distributed_commands_accept_several_processes(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from puma_engine.cli import app

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(app, ["runs", "list", "-w", str(tmp_path)])
    assert result.exit_code == 1 and "works in one process, and 2 were started" in result.stderr
    monkeypatch.setenv("RANK", "1")
    silent = CliRunner().invoke(app, ["runs", "list", "-w", str(tmp_path)])
    assert silent.exit_code == 1 and silent.stderr == ""


def test_each_process_gets_a_different_gpu(monkeypatch):
    assert distributed.local_device("cuda") == "cuda" and distributed.is_main_process()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.local_device("cuda") == "cuda:3" and distributed.local_device("cpu") == "cpu"
    assert distributed.world_size() == 4 and not distributed.is_main_process()
