"""The demo: its requests have the ids of the shipped runs, and its expected time."""

import json
from pathlib import Path

import pytest

from puma_engine.defaults import DEMO_SEEDS, DEMO_SHARES, DEMO_USERS
from puma_engine.pipeline import stage
from puma_engine.pipeline.demo import SHIPPED_NAME, Demo, demo_seconds
from puma_engine.pipeline.demo_files import add_shipped_comparisons, archive_file
from puma_engine.pipeline.method_survey import evaluated_methods
from puma_engine.store import Workspace
from puma_engine.store.archives import main_run_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The demo up to the source prompts, in a new workspace."""
    ws = Workspace.open(tmp_path_factory.mktemp("demo") / "ws", create=True)
    plan = Demo(ws, DEMO_USERS, "cpu", archive=archive_file())
    for step in plan.steps():
        if step.title == "migrated 1 %":
            break
        plan.runs[step.title] = step.make(stage.Execution("cpu"))
    return plan


def test_the_demo_uses_every_shipped_run(plan):
    """Other settings or models would give the same demo, minutes later."""
    (add,) = [step for step in plan.steps() if step.title == "controls, second seed, other routes"]
    # A run that is missing would be computed, with steps of training.
    trained = []
    add.make(stage.Execution("cpu", progress=lambda report: trained.append(report.step)))
    assert not any(trained)
    ws = plan.ws
    shipped = [plan.runs[step.title] for step in plan.shipped()]
    assert all(run.published is not None for run in shipped)
    assert all(run.published is None for run in (plan.runs["data"], plan.runs["source"]))
    assert ws.verify() == []
    assert ws.run(main_run_of(archive_file())).name == SHIPPED_NAME
    # Shipped migrations of the first seed go to the target or the third model.
    migrations = [run for run in ws.runs("migration") if run.seed == 0]
    assert {run.inputs["backbone"] for run in migrations} <= {
        plan.runs[name].id for name in ("target model", "third model")
    }
    methods = evaluated_methods(ws, plan.runs["data"].id, "test")
    assert set(methods["kind"]) == {"migrated", "retrained", "random", "shuffled", "source"}
    single = methods[(methods["hops"] == 1) & (methods["sources"] == 1)]
    for seed in DEMO_SEEDS[1:]:
        of_seed = single[
            (single["seed"] == seed) & single["strategy"].isin(["all", "kmeans-variance"])
        ]
        assert sorted(of_seed["budget"]) == [round(share * DEMO_USERS) for share in DEMO_SHARES]
    assert (methods["hops"] == 2).any() and (methods["sources"] == 2).any()
    assert set(single[single["strategy"] == "random"]["seed"]) == set(DEMO_SEEDS)


def test_the_shipped_comparison_on_smollm2_equals_its_report(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    add_shipped_comparisons(ws)
    (comparison,) = ws.runs(kind="comparison")
    report = json.loads(
        (RESULTS / "smollm2/goodbooks/2000-users/table2.json").read_text(encoding="utf-8")
    )
    assert comparison.published is not None
    assert set(comparison.published["command"].split()) <= set(report["command"].split())
    rows = {row["run"]: row for row in report["rows"]}
    evaluated = ws.runs(kind="evaluation")
    assert len(evaluated) >= 14
    for run in evaluated:
        assert run.summary["metrics"]["rmse"] == pytest.approx(rows[run.id]["rmse"], abs=1e-6)
    assert ws.verify() == []
    ws.close()


def test_the_expected_time_of_the_demo_is_under_two_minutes():
    assert 30 < demo_seconds() < 120
    # With other users no shipped run has the id of a request.
    assert demo_seconds(DEMO_USERS - 1) > demo_seconds()


def test_without_an_archive_shipped_runs_are_computed(tmp_path):
    """research/demo_archive.py computes them so, wherever it writes."""
    seconds = {
        archive: sum(
            step.seconds for step in Demo(None, DEMO_USERS, "cpu", archive=archive).steps()
        )
        for archive in (archive_file(), tmp_path / "none.zip", None)
    }
    assert seconds[archive_file()] < seconds[None] == seconds[tmp_path / "none.zip"]


def test_the_archive_of_the_demo_is_not_added_to_other_workspaces(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    add_shipped_comparisons(ws)
    assert SHIPPED_NAME not in {run.name for run in ws.runs()}
