"""Cells of the studies of the paper's tables."""

import os
from dataclasses import replace
from typing import Any

import pytest

from puma_engine.cli.study import default_processes
from puma_engine.defaults import PAIRS_PER_USER
from puma_engine.errors import ConfigError
from puma_engine.jobs.dispatch import VARIABLE
from puma_engine.studies import Options, get_study
from puma_engine.studies.builder import ALL_USERS, BLENDED, WITHOUT_RECORDS, few_users
from puma_engine.studies.grids import CLICKS, OTHER_MODELS, RATINGS
from puma_engine.studies.paper import FAMILIES, FROM_FACTORS, FROM_ITEMS_TOO


@pytest.mark.parametrize(
    "dataset, grid", [("goodbooks", RATINGS.refining), ("goodbooks-to-read", CLICKS.refining)]
)
def test_refining_is_tuned_on_the_first_seed_for_every_seed(dataset, grid):
    options = Options(datasets=(dataset,), seeds=(3, 4))
    cells = {cell.name: cell for cell in get_study("table2").cells(options)}
    for which in ("all", "few"):
        rows = [cells[f"{dataset}/{which} {seed} refined"] for seed in options.seeds]
        assert len({row.inputs["start"] for row in rows}) == 2
        (best,) = {row.settings_from for row in rows}
        candidates = [cells[name] for name in cells[best].inputs["candidates"]]
        assert [candidate.settings for candidate in candidates] == [
            {"seed": 3} | candidate for candidate in grid
        ]
        assert {candidate.inputs["start"] for candidate in candidates} == {rows[0].inputs["start"]}


def test_without_candidates_refining_uses_the_defaults():
    cells = get_study("table2").cells(Options(datasets=("goodbooks",), seeds=(0,), fixed=True))
    refined = [cell for cell in cells if cell.stage == "refine"]
    assert len(refined) == 3
    assert all(cell.settings_from is None and "training" not in cell.settings for cell in refined)


def test_table2_has_a_migration_from_predictions_for_every_seed():
    options = Options(datasets=("goodbooks",), seeds=(0, 3))
    cells = {cell.name: cell for cell in get_study("table2").cells(options)}
    rows = [cell for cell in cells.values() if cell.labels.get("method") == WITHOUT_RECORDS]
    assert [row.labels["seed"] for row in rows] == [0, 3]
    for row in rows:
        migrated = cells[row.inputs["subject"]]
        assert migrated.settings["from_predictions"] == PAIRS_PER_USER
        assert migrated.settings_from is None and "selection" not in migrated.inputs
        assert row.labels["kind"] == "migrated"
    # They follow the other migrations of their seed.
    order = [cell.labels["method"] for cell in cells.values() if cell.labels.get("seed") == 3]
    migrations = [few_users("random"), WITHOUT_RECORDS, "shuffled control"]
    assert [method for method in order if method in migrations] == migrations


@pytest.mark.parametrize("dataset, grids", [("goodbooks", RATINGS), ("goodbooks-to-read", CLICKS)])
def test_table2_migrates_factors_of_every_seed_with_settings_of_the_first(dataset, grids):
    options = Options(datasets=(dataset,), seeds=(2, 5))
    cells = {cell.name: cell for cell in get_study("table2").cells(options)}
    for method, grid in (
        (f"{ALL_USERS}, {FROM_FACTORS}", grids.adapter),
        (f"{few_users('kmeans-variance')}, {FROM_FACTORS}", grids.small_adapter),
        (f"{ALL_USERS}, {FROM_ITEMS_TOO}", grids.adapter),
    ):
        rows = [cell for cell in cells.values() if cell.labels.get("method") == method]
        assert [row.labels["seed"] for row in rows] == [2, 5]
        migrated = [cells[row.inputs["subject"]] for row in rows]
        factors = [cells[cell.inputs["sources"]] for cell in migrated]
        assert [cell.settings["seed"] for cell in factors] == [2, 5]
        assert {cell.settings["users_only"] for cell in factors} == {method.endswith(FROM_FACTORS)}
        few = grid is grids.small_adapter
        assert all(("selection" in cell.inputs) == few for cell in migrated)
        (best,) = {cell.settings_from for cell in migrated}
        candidates = [cells[candidate] for candidate in cells[best].inputs["candidates"]]
        shared = {"target": options.target, "seed": 2}
        assert [cell.settings for cell in candidates] == [shared | tried for tried in grid]
        assert {cell.inputs["sources"] for cell in candidates} == {factors[0].name}


def test_table2_blends_the_main_methods_with_matrix_factorisation():
    options = Options(datasets=("goodbooks",), seeds=(0, 3))
    cells = {cell.name: cell for cell in get_study("table2").cells(options)}
    blended = [cell for cell in cells.values() if cell.labels.get("kind") == "blended"]
    methods = [ALL_USERS, few_users("kmeans-variance"), "retrained", "retrained, item prompts too"]
    methods += [f"{ALL_USERS}, refined", f"{ALL_USERS}, refined with item prompts"]
    actual = sorted((cell.labels["method"], cell.labels["seed"]) for cell in blended)
    assert actual == sorted((f"{name}, {BLENDED}", seed) for name in methods for seed in (0, 3))
    for cell in blended:
        assert cell.settings == {"blend": "matrix_factorisation"}
        # Whatever the blend looks up in the workspace is there: no two processes make the same run.
        alone, *baseline = (cells[name] for name in cell.after)
        assert set(cell.after) <= set(cell.dependencies)
        assert alone.inputs == cell.inputs and "blend" not in alone.settings
        assert alone.labels["method"] == cell.labels["method"].removesuffix(f", {BLENDED}")
        assert [item.settings.get("split", "test") for item in baseline] == ["test", "validation"]
        assert {item.settings["subject"] for item in baseline} == {"matrix_factorisation"}


def test_table2_compares_settings_for_few_users_by_the_mean_over_two_seeds():
    options = Options(datasets=("goodbooks",), seeds=(3, 4, 5), shares=(0.01,))
    cells = {cell.name: cell for cell in get_study("table2").cells(options)}
    rows = [cells[f"goodbooks/random 0.01 {seed}"] for seed in options.seeds]
    (best,) = {row.settings_from for row in rows}
    # Consecutive runs are one candidate.
    assert cells[best].settings == {"runs_per_candidate": 2}
    candidates = [cells[name] for name in cells[best].inputs["candidates"]]
    shared = {"target": options.target}
    assert [candidate.settings for candidate in candidates] == [
        shared | tried | {"seed": seed} for tried in RATINGS.small_adapter for seed in (3, 4)
    ]
    for candidate in candidates:
        seed = candidate.settings["seed"]
        for trained_on in candidate.inputs.values():
            assert trained_on.endswith(f" {seed}")


def test_models_that_never_saw_the_templates_have_candidates_of_their_own():
    options = Options(datasets=("goodbooks",), source="llama-medium", target="smollm2", seeds=(0,))
    cells = get_study("table2").cells(options)

    def tried(prefix: str) -> list[dict[str, Any]]:
        names = [f"goodbooks/{prefix} candidate {number}" for number in range(20)]
        settings = [cell.settings for cell in cells if cell.name in names]
        inputs = {"target", "seed", "role", "backbone"}
        return [{k: v for k, v in each.items() if k not in inputs} for each in settings]

    assert tried("all") == OTHER_MODELS.adapter
    assert tried("few 0") == OTHER_MODELS.small_adapter
    assert tried("source 0") == OTHER_MODELS.source
    assert tried("retrained") == OTHER_MODELS.prompts


def test_quick_studies_on_a_cpu_use_two_cores_and_others_one_process(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert default_processes(True, "cpu") == min(2, os.cpu_count() or 1)
    assert default_processes(False, "cpu") == 1
    # A cluster has its own number, whether an option or the environment names it.
    assert default_processes(True, None, "ray") is None
    monkeypatch.setenv(VARIABLE, "ray")
    assert default_processes(True, "cpu") is None


def test_candidates_for_clicks_have_no_early_stopping():
    cells = get_study("table2").cells(Options(datasets=("goodbooks-to-read",), seeds=(0, 1)))
    tried = [cell for cell in cells if " candidate " in cell.name and "training" in cell.settings]
    assert {cell.stage for cell in tried} == {"fit_prompts", "migrate", "refine"}
    assert {cell.settings["training"]["patience"] for cell in tried} == {0}


def test_chains_end_at_a_target_that_belongs_to_no_family():
    options = Options(datasets=("goodbooks",), target="smollm2", seeds=(0,))
    figure5 = get_study("figure5")
    figure5.check_used(options)
    cells = {cell.name: cell for cell in figure5.cells(options)}
    last = cells["goodbooks/hop 2 0"]
    assert last.settings["target"] == "smollm2"
    assert last.inputs == {"sources": "goodbooks/direct qwen2-small 0"}
    assert cells["goodbooks/direct smollm2 0"].inputs == {
        "sources": "goodbooks/source llama-medium 0"
    }
    with pytest.raises(ConfigError, match="--target would change nothing"):
        figure5.check_used(replace(options, target=FAMILIES[-1]))
