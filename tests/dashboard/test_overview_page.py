"""The Overview page in every state: empty, busy, failed, with a verdict, with an outdated one."""

import compared
import pandas as pd
import pytest
from dashboard_pages import (
    HOSTILE,
    add_comparison,
    add_job,
    assert_plain,
    finished,
    open_page,
    report,
    texts,
)

from dashboard import engine
from dashboard.engine import comparisons
from puma_engine import jobs
from puma_engine.pipeline import compare
from puma_engine.pipeline.verdicts import judge_comparison
from puma_engine.store import Workspace


@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_workspace_starts_the_demo_with_one_click(exists, tmp_path, monkeypatch):
    root = tmp_path / "ws"
    if exists:
        Workspace.open(root, create=True)
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)
    app = open_page("overview", root, monkeypatch)
    assert_plain(app)
    assert "Nothing here yet" in texts(app)
    app.button("start-demo").click().run()
    queued = jobs.jobs(Workspace.open(root))
    assert [job.command for job in queued] == ["demo"]
    assert "Worked example" in texts(app) and "Nothing here yet" not in texts(app)
    engine.start_demo()
    assert len(jobs.jobs(Workspace.open(root))) == 1


def test_a_workspace_that_cannot_be_created_is_reported(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    app = open_page("overview", blocked / "ws", monkeypatch)
    app.button("start-demo").click().run()
    assert_plain(app)
    assert "was not started" in texts(app) and str(blocked) in texts(app)


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one finished comparison."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    return ws, add_comparison(ws).id


def test_the_last_comparison_is_summarised_in_one_sentence(workspace, monkeypatch):
    ws, run = workspace
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    decision, _, sentence = judge_comparison(ws, run).headline.partition(": ")
    assert decision == "Migrate" and decision in texts(app)
    assert sentence[1:] in texts(app)
    assert [metric.value for metric in app.metric] == ["0", "0", "0", "0", "1"]


def test_a_migration_that_orders_nobodys_items_is_recommended_with_a_caution(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = compared.import_data(ws, tmp_path)
    old, new = compared.backbone(ws, "old"), compared.backbone(ws, "new")
    source = compared.prompts(ws, data, old, "source", 50.0)
    moved = compared.evaluate(ws, compared.migrate(ws, [source], new), 0.0, ordered=False)
    again = compared.evaluate(ws, compared.prompts(ws, data, new, "retrained", 40.0), 1.6)
    drawn = compared.evaluate(ws, compared.prompts(ws, data, new, "random", 5.0), 3.0, seed=1)
    run = compare(ws, [moved, again, drawn])
    verdict = judge_comparison(ws, run)
    assert verdict.decision == "migrate" and verdict.disagreement == verdict.cautions[0]
    assert "of the ranking (pair accuracy), where it is behind" in verdict.disagreement
    app = open_page("overview", ws.root, monkeypatch)
    assert f"Caution: {verdict.disagreement}" in texts(app)


def test_a_later_evaluation_makes_the_verdict_outdated(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = finished(ws, "dataset", "books")
    asked = {"config": {"split": "test"}, "inputs": {"dataset": data.id}}
    evaluation = finished(
        ws, "evaluation", "first", **asked | {"config": {"split": "test", "n": 1}}
    )
    comparison = finished(ws, "comparison", "old", inputs={"evaluation_0": evaluation.id})
    assert comparisons.newer_evaluations(comparison, ws.runs("evaluation")) == []
    two = finished(ws, "evaluation", "second", **asked | {"config": {"split": "test", "n": 2}})
    finished(ws, "evaluation", "other split", **asked | {"config": {"split": "train"}})
    assert comparisons.newer_evaluations(comparison, ws.runs("evaluation")) == [ws.run(two.id)]


def test_a_comparison_with_missing_files_is_reported_and_the_rest_is_shown(workspace, monkeypatch):
    ws, run = workspace
    for file in ws.folder(run).glob("*.parquet"):
        file.unlink()
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    assert "The last comparison has no verdict" in texts(app) and len(app.metric) == 5


def test_a_comparison_of_another_version_is_reported(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    tables = {name: pd.DataFrame({"method": ["a"]}) for name in ("methods", "comparison")}
    summary = {"task": "rating", "users": 1, "rows": 1}
    finished(ws, "comparison", "old", summary=summary, tables=tables)
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    assert "not those of this version" in texts(app)


def test_running_jobs_show_progress_and_can_be_cancelled(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    finished(ws, "dataset", "books")
    job = add_job(ws, title="Migrate **all**", status="running")
    report(ws, job, stage="training", step=30, total=120, loss=0.5, eta_seconds=90)
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    shown = app.get("progress")[0].proto
    assert shown.value == 25 and "step 30 of 120" in shown.text and "1 min 30 s" in shown.text
    app.button(f"cancel-{job}").click().run()
    assert jobs.job(ws, job).cancel_asked and "Stopping" in texts(app)
    assert app.button(f"cancel-{job}").disabled


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_text(name, tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data, model = finished(ws, "dataset", name), finished(ws, "backbone", name)
    inputs = {"dataset": data.id, "backbone": model.id}
    finished(ws, "prompts", name, config={"role": "source"}, inputs=inputs, summary={"users": 5})
    add_job(ws, title=name, status="failed", error=f"It failed at {name}")
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    table = app.dataframe[0].value
    assert isinstance(table, pd.DataFrame) and table["name"].tolist() == [name]
