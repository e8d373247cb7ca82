"""Settings of an earlier report in a study, and GPUs assigned to processes in turn."""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.store import Workspace
from puma_engine.studies import Options, get_study, reuse_settings, run_cells
from puma_engine.studies.builder import Builder
from puma_engine.studies.cells import TUNED_SETTINGS, Cell
from puma_engine.studies.running import _gpus, _start_worker, run_cell

CHOSEN = {
    "training": {"epochs": 3, "batch_size": 64},
    "prompt": {"tokens": 2},
    "adapter": None,
}


def test_reused_settings_replace_candidates_and_their_choice():
    cells = [
        Cell("one", "fit_prompts", {"training": {"epochs": 1}}),
        Cell("two", "fit_prompts", {"training": {"epochs": 2}}),
        Cell("best", "best", {}, {"candidates": ["one", "two"]}),
        Cell("again", "fit_prompts", {"seed": 4, "prompt": {"tokens": 1}}, settings_from="best"),
        Cell("other", "fit_prompts", {"seed": 4}),
    ]
    again, other = reuse_settings(cells, {"best": CHOSEN})
    assert again.settings_from is None and again.dependencies == []
    expected = {"seed": 4, "training": CHOSEN["training"], "prompt": {"tokens": 1}}
    assert again.settings == expected and other == cells[-1]
    assert reuse_settings(cells, {}) == reuse_settings(cells, {"another": CHOSEN}) == cells


def test_reused_settings_remove_cells_that_only_served_the_choice():
    cells = [
        Cell("data", "import_dataset"),
        Cell("one", "fit_prompts", {}, {"dataset": "data"}),
        Cell("two", "fit_prompts", {}, {"dataset": "data"}),
        Cell("moved one", "migrate", {}, {"sources": "one"}),
        Cell("moved two", "migrate", {}, {"sources": "two"}),
        Cell("best", "best", {"of": "source_0"}, {"candidates": ["moved one", "moved two"]}),
        Cell("again", "fit_prompts", {}, {"dataset": "data"}, settings_from="best"),
        Cell("score", "evaluate", {}, {"subject": "two"}, labels={"method": "two"}),
    ]
    names = [cell.name for cell in reuse_settings(cells, {"best": CHOSEN})]
    assert names == ["data", "two", "again", "score"]


def test_settings_of_the_best_source_over_two_seeds_are_reused(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    source = str(tiny_backbone_folder(tmp_path))
    options = Options(
        datasets=("movietweetings",),
        seeds=(0, 1, 2),
        users=12,
        quick=True,
        source=source,
        target="llama-small",
    )
    build = Builder(options, "movietweetings")
    short = {"training": {"epochs": 1, "batch_size": 64}}
    build.grids = replace(build.grids, source_migration=short)
    best = build.tune_source()
    tried = len(build.cells)
    build.sources(best)
    assert tried == 2 * 2 * 2 + 2
    outcome = run_cells(ws, build.cells, device="cpu")
    assert not outcome.failed and not outcome.missing
    moved = {
        (number, seed): ws.run(
            outcome.runs[f"movietweetings/all from source candidate {number} {seed}"]
        )
        for number in (0, 1)
        for seed in (0, 1)
    }
    value = {key: run.summary["best_validation"] for key, run in moved.items()}
    assert value[0, 0] != value[0, 1]
    won = min((0, 1), key=lambda number: value[number, 0] + value[number, 1])
    chosen = outcome.runs[f"movietweetings/source 0 candidate {won}"]
    assert outcome.runs[best] == chosen == moved[won, 0].inputs["source_0"]
    again = ws.run(outcome.runs[f"movietweetings/source {source} 2"])
    assert again.config["training"] == ws.run(chosen).config["training"] | {"seed": 2}


def test_candidates_are_ranked_by_the_mean_over_their_runs(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    runs = []
    for value in (0.1, 0.9, 0.4, 0.4):
        run = ws.begin(
            "prompts",
            name=f"run {value}",
            config={"value": value, "n": len(runs)},
            inputs={},
            seed=0,
        )
        ws.finish(run.id, seconds=1.0, device="cpu", summary={"best_validation": value})
        runs.append(run.id)
    assert run_cell(ws.root, "best", {"candidates": runs}, None) == runs[0]
    assert run_cell(ws.root, "best", {"candidates": runs, "runs_per_candidate": 2}, None) == runs[2]


@pytest.mark.parametrize("name", ["table2", "templates"])
def test_a_study_with_reused_settings_is_complete_and_has_the_same_methods(name):
    options = Options(datasets=("goodbooks",), seeds=(0, 1))
    cells = get_study(name).cells(options)
    best = [cell.name for cell in cells if cell.stage == "best"]
    reused = reuse_settings(cells, dict.fromkeys(best, CHOSEN))
    names = {cell.name for cell in reused}
    assert best and not names & set(best)
    assert {needed for cell in reused for needed in cell.dependencies} <= names
    assert [cell.labels for cell in reused if cell.labels] == [
        cell.labels for cell in cells if cell.labels
    ]
    was = {cell.name: cell for cell in cells}
    for cell in reused:
        if was[cell.name].settings_from is not None:
            assert all(part in cell.settings for part in TUNED_SETTINGS if CHOSEN[part] is not None)


REPORT = {"study": "table2", "command": "", "date": "", "settings": {}}
REPORT |= {"rows": [], "summary": [], "differences": [], "failed": {}, "missing": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read (No such file"),
        ("{", "give the NAME.json that `puma study table2` wrote"),
        ("[]", "it is not a JSON object"),
        (json.dumps({"study": "table2", "settings": {}}), "it has no command"),
        (json.dumps(REPORT | {"study": "table3"}), "is not a report of the study table2"),
        (json.dumps(REPORT | {"settings": []}), "is not a report of the study table2"),
        (json.dumps(REPORT | {"settings": {"best": 3}}), "is not a report of the study table2"),
    ],
)
def test_settings_from_other_files_are_refused(tmp_path, text, said):
    file = tmp_path / "report.json"
    if text is not None:
        file.write_text(text)
    inputs = ["--workspace", str(tmp_path / "ws"), "study", "table2", "--settings", str(file)]
    result = CliRunner().invoke(app, inputs)
    assert result.exit_code == 1 and said in result.output.replace("\n", " ")
    assert not (tmp_path / "ws").exists()


def test_processes_are_assigned_gpus_in_turn():
    assert _gpus("cpu") == [] and _gpus("cuda:1") == []
    context = multiprocessing.get_context("spawn")
    inputs = (os.getpid(), context.Event(), context.Value("i", 0), ["0", "3"])
    seen = []
    for _ in range(3):
        with ProcessPoolExecutor(
            1, mp_context=context, initializer=_start_worker, initargs=inputs
        ) as pool:
            seen.append(pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result())
    assert seen == ["0", "3", "0"]
