"""A workspace of version 0.1.0 opens, returns the same runs, and resumes interrupted ones.

The fixture holds ratings and clicks of 24 users each, with a fit that was killed half-way and a
job that nobody has run yet. The expected prompts are those that version 0.1.0 ends with.

Later versions ship other weights in the zoo. Then the copy of the workspace is made to name those as
the models that were added, so that its checkpoint and its job still run; what they compute differs.
"""

import shutil
import sqlite3
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command_line import puma
from typer.testing import CliRunner

from puma_engine import jobs, pipeline
from puma_engine.cli import app
from puma_engine.datasets.registry import data_root
from puma_engine.pipeline.backbones import fingerprint
from puma_engine.store import Workspace

FIXTURES = Path(__file__).parents[1] / "fixtures"
SOURCE = ["--dataset", "goodbooks-24", "--device", "cpu"]
RETRAINED = [*SOURCE, "--backbone", "llama-medium", "--role", "retrained"]
# Defaults of version 0.1.0 that later versions changed, so requests must name them.
DEFAULTS = ["--template", "rating-item-first", "--learning-rate", "0.015", "--start", "shared"]
# Ids of runs of version 0.1.0, and the commands that made them, with its names of options.
FINISHED = {
    "b69b58aa5caeaaf9": ["data", "import", "goodbooks", "--users", "24"],
    "be0ad27dea06b934": [
        *("prompts", "fit", *SOURCE, "--backbone", "llama-small", "--epochs", "2", *DEFAULTS)
    ],
    "ff84c7edafc415e2": [
        *("migrate", "old", "llama-medium", "--strategy", "facility", "--share", "0.5"),
        *("--epochs", "2", "--hidden", "16", "--norm-limit", "1", "--balance", "2"),
        *("--output-start", "random"),
    ],
    "05c42476de29843b": ["prompts", "fit", *RETRAINED, "--epochs", "2", *DEFAULTS],
    "3bd2aaeadf695390": ["evaluate", "moved"],
    "e3ee48100833793b": ["evaluate", "retrained"],
    "c92fc39d5c6511ad": ["compare", "eval-moved", "eval-retrained"],
}
INTERRUPTED = "44dd1ea145507dc2"
# The zoo's models as version 0.1.0 shipped them.
MODELS = {"llama-small": "02438c8db9837f81", "llama-medium": "24385381f5b0b59b"}
GO_ON = [
    *("prompts", "fit", *RETRAINED, "--epochs", "6", "--seed", "3", "--batch-size", "16"),
    *("--patience", "0", *DEFAULTS),
]


def fingerprints_of_today(ws):
    return {name: fingerprint(ws, name) for name in MODELS}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURES / "workspace-0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    root = folder / "workspace"
    today = fingerprints_of_today(Workspace.open(folder / "other", create=True))
    with sqlite3.connect(root / "puma.db") as db:
        for name, old in MODELS.items():
            db.execute(
                "UPDATE runs SET config = replace(config, ?, ?) WHERE kind = 'backbone'",
                [old, today[name]],
            )
    return root


def test_every_file_of_an_old_workspace_verifies(root):
    assert Workspace.open(root).verify() == []


def test_the_same_requests_return_the_stored_runs(root):
    before = {run.id: run.finished for run in Workspace.open(root).runs()}
    for run_id, arguments in FINISHED.items():
        answer = puma(Workspace.open(root), *arguments)
        assert (answer.get("id") or answer["run"]["id"]) == run_id, arguments
        assert Workspace.open(root).run(run_id).finished == before[run_id], "it was done again"


def test_comparisons_of_an_old_workspace_have_verdicts(root):
    ws = Workspace.open(root)
    verdict = pipeline.judge_comparison(ws, "ratings")
    assert verdict.decision == "retrain"
    assert pipeline.judge_comparison(ws, "clicks").decision == "incomplete"


def test_an_adapter_is_read_and_maps_to_the_stored_prompts(root):
    from puma_engine.migration.adapter import apply_adapter, load_adapter

    ws = Workspace.open(root)
    network = load_adapter(*pipeline.load_adapter(ws, "moved"))
    source, moved = (pipeline.load_prompts(ws, name) for name in ("old", "moved"))
    rows = moved.rows_of(source.user_ids)
    np.testing.assert_allclose(
        apply_adapter(network, source.vectors), moved.vectors[rows], rtol=1e-4, atol=1e-5
    )


def test_an_interrupted_fit_resumes_from_its_checkpoint(root):
    ws = Workspace.open(root)
    assert ws.run(INTERRUPTED).status == "interrupted"
    assert puma(ws, *GO_ON)["id"] == INTERRUPTED
    assert ws.run(INTERRUPTED).status == "finished"
    table = pipeline.load_prompts(ws, INTERRUPTED)
    history = ws.run(INTERRUPTED).summary["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(6))
    if fingerprints_of_today(ws) != MODELS:
        return
    with np.load(FIXTURES / "workspace-0.1.0-expected.npz") as expected:
        rows = table.rows_of(expected["ids"])
        np.testing.assert_allclose(table.vectors[rows], expected["vectors"], rtol=1e-3, atol=1e-5)


def test_going_on_with_a_model_whose_files_changed_is_refused(tmp_path, monkeypatch):
    with tarfile.open(FIXTURES / "workspace-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    data = tmp_path / "data"
    data.mkdir()
    for folder in data_root().iterdir():
        (data / folder.name).symlink_to(folder)
    (data / "zoo").unlink()
    shutil.copytree(data_root() / "zoo" / "llama-medium", data / "zoo" / "llama-medium")
    with (data / "zoo" / "llama-medium" / "config.json").open("a") as file:
        file.write("\n")
    monkeypatch.setenv("PUMA_DATA", str(data))
    result = CliRunner().invoke(app, ["-w", str(tmp_path / "workspace"), *GO_ON])
    assert result.exit_code == 1 and "changed since it was added" in result.output
    assert list((tmp_path / "workspace" / "work" / INTERRUPTED).glob("checkpoint*"))


def test_a_job_of_the_old_version_runs(root):
    ws = Workspace.open(root)
    (job,) = jobs.jobs(ws)
    assert job.command == "carry_out" and job.status == "queued"
    jobs.worker(ws, devices=["cpu"], once=True)
    job = jobs.job(ws, job.id)
    assert job.status == "finished", jobs.read_log(ws, job.id)
    assert ws.run(job.run_id).kind == "comparison"
