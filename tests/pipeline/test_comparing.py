"""The primary metric decides in the verdict, the report and the command, for older runs too."""

import json

import compared
import pytest
from typer.testing import CliRunner

from puma_engine import pipeline
from puma_engine.cli import app
from puma_engine.evaluation.metrics import PRIMARY_METRIC
from puma_engine.evaluation.verdict import judge
from puma_engine.pipeline.verdicts import comparison_data


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return compared.workspace(tmp_path_factory.mktemp("clicks"), task="click")


def test_clicks_are_judged_by_uauc(world):
    ws, run = world["ws"], world["comparison"]
    verdict = pipeline.judge_comparison(ws, run)
    assert run.summary["main_metric"] == verdict.metric == PRIMARY_METRIC["click"] == "uauc"
    scores = ws.get_table(run.id, "comparison").set_index(["method", "metric"])
    assert verdict.loss == pytest.approx(-scores.loc[(verdict.method, "uauc"), "difference"])
    assert "uAUC" in verdict.evidence[0]
    draws = scores["draws"].groupby("metric").unique()
    assert {name: list(values) for name, values in draws.items()} == {
        "auc": [200],
        "uauc": [1000],
        "log_loss": [1000],
    }
    command = ["compare", *(run.id for run in world["runs"].values()), "--workspace", str(ws.root)]
    shown = CliRunner().invoke(app, [*command, "--baselines"])
    assert shown.exit_code == 0, shown.output
    assert "uauc" in shown.stdout


def test_a_comparison_that_names_auc_is_judged_by_uauc_from_its_tables(world):
    ws, run = world["ws"], world["comparison"]
    before = pipeline.judge_comparison(ws, run)
    page = pipeline.render_report(ws, run)
    older = run.summary | {"main_metric": "auc"}
    with ws.transaction() as db:
        db.execute("UPDATE runs SET summary = ? WHERE id = ?", [json.dumps(older), run.id])
    data = comparison_data(ws, run.id)
    assert ws.run(run.id).summary["main_metric"] == "auc" and data.metric == "uauc"
    assert judge(data) == before == pipeline.judge_comparison(ws, run.id)
    again = pipeline.render_report(ws, run.id)
    assert again.partition("What was measured")[2] == page.partition("What was measured")[2]
