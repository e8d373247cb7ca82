"""The primary metric decides in the verdict, the report and the command, for older runs too."""

import html
import json

import compared
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from store_edits import edited
from typer.testing import CliRunner

from puma_engine import pipeline
from puma_engine.cli import app
from puma_engine.evaluation.metrics import PRIMARY_METRIC
from puma_engine.evaluation.verdict import judge
from puma_engine.pipeline.evaluating import put_user_metrics, read_user_metric
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
    result = CliRunner().invoke(app, [*command, "--baselines"])
    assert result.exit_code == 0, result.output
    assert "uauc" in result.stdout


def test_a_comparison_that_names_auc_is_judged_by_uauc_from_its_tables(world):
    ws, run = world["ws"], world["comparison"]
    before = pipeline.judge_comparison(ws, run)
    page = pipeline.render_report(ws, run)
    older = run.summary | {"main_metric": "auc"}
    with edited(ws) as db:
        db.execute("UPDATE runs SET summary = ? WHERE id = ?", [json.dumps(older), run.id])
    data = comparison_data(ws, run.id)
    assert ws.run(run.id).summary["main_metric"] == "auc" and data.metric == "uauc"
    assert judge(data) == before == pipeline.judge_comparison(ws, run.id)
    again = pipeline.render_report(ws, run.id)
    assert again.partition("What was measured")[2] == page.partition("What was measured")[2]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """A comparison of ratings with random prompts and the item mean."""
    world = compared.workspace(tmp_path_factory.mktemp("ratings"))
    ws, data = world["ws"], world["data"]
    new = ws.run(ws.run(world["runs"]["again"].inputs["prompts"]).inputs["backbone"])
    random_prompts = compared.evaluate(
        ws, compared.prompts(ws, data, new, "random", 5.0), 3.0, seed=9
    )
    baseline = pipeline.evaluate(ws, "item_mean", dataset=data.id)
    evaluations = [world["runs"][name] for name in ("few", "again", "control")] + [
        random_prompts,
        baseline,
    ]
    return {"ws": ws, "comparison": pipeline.compare(ws, evaluations), "random": random_prompts}


def test_users_of_an_older_evaluation_get_pair_accuracy_from_its_predictions(ratings):
    ws, run = ratings["ws"], ratings["random"]
    known = ws.user_metrics(run.id)
    users = pa.array(["nobody", *known["user_id"][::-1]], pa.string())
    expected = [np.nan, *known["pair_accuracy"][::-1]]
    stored = read_user_metric(ws, run.id, "pair_accuracy", users)
    np.testing.assert_allclose(stored, expected, rtol=1e-5)
    with edited(ws) as db:
        db.execute("UPDATE runs SET status = 'running' WHERE id = ?", [run.id])
    put_user_metrics(ws, run.id, known.drop(columns="pair_accuracy"))
    with edited(ws) as db:
        db.execute("UPDATE runs SET status = 'finished' WHERE id = ?", [run.id])
    older = read_user_metric(ws, run.id, "pair_accuracy", users)
    np.testing.assert_allclose(older, expected, rtol=1e-5)


def test_a_comparison_stores_what_each_method_keeps_of_level_and_ranking(ratings):
    ws, run = ratings["ws"], ratings["comparison"]
    shares = ws.get_table(run.id, "shares_kept")
    scores = ws.get_table(run.id, "comparison").set_index(["method", "metric"])["value"]
    retrained = run.summary["reference"]
    assert set(shares["metric"]) == {"rmse", "pair_accuracy"}
    assert set(shares["reference"]) == {"random", "item_mean"}
    known = shares[shares["share"].notna()]
    assert {"random", "item_mean"} == set(known["reference"])
    for row in known.itertuples():
        reference, score, retrained_score = (
            scores[name, row.metric] for name in (row.reference_method, row.method, retrained)
        )
        assert row.share == pytest.approx(
            (reference - score) / (reference - retrained_score), abs=1e-6
        )
        assert row.share_low <= row.share <= row.share_high and row.gain_low > 0
    assert retrained not in set(shares["method"])
    verdict = pipeline.judge_comparison(ws, run)
    assert "gains over random prompts, it keeps" in " ".join(verdict.evidence)
    assert "gains over the item mean, it keeps" in " ".join(verdict.evidence)


def downgrade_comparison(ws, run):
    """Remove from a comparison what earlier versions did not store."""
    with edited(ws) as db:
        db.execute("DELETE FROM artifacts WHERE run_id = ? AND name = 'shares_kept'", [run.id])
        db.execute("DELETE FROM metrics WHERE run_id = ? AND metric = 'pair_accuracy'", [run.id])
        db.execute("UPDATE runs SET status = 'running' WHERE id = ?", [run.id])
    table = ws.get_table(run.id, "comparison")
    table = table[table["metric"] != "pair_accuracy"].reset_index(drop=True)
    ws.put_table(run.id, "comparison", table)
    with edited(ws) as db:
        db.execute("UPDATE runs SET status = 'finished' WHERE id = ?", [run.id])


def test_an_older_comparison_gets_pair_accuracy_and_shares_from_its_predictions(
    ratings, monkeypatch
):
    ws, run = ratings["ws"], ratings["comparison"]
    keys = ["method", "metric"]
    scores = ws.get_table(run.id, "comparison").sort_values(keys, ignore_index=True)
    shares, verdict = ws.get_table(run.id, "shares_kept"), pipeline.judge_comparison(ws, run)
    downgrade_comparison(ws, run)
    again = pipeline.comparison_scores(ws, run)
    assert again["method"].tolist()[:5] == [again["method"][0]] * 5
    pd.testing.assert_frame_equal(again.sort_values(keys, ignore_index=True), scores)
    pd.testing.assert_frame_equal(pipeline.comparison_shares(ws, run), shares)
    assert pipeline.judge_comparison(ws, run) == verdict
    # Another margin uses the same figures, so nothing is resampled again.
    with monkeypatch.context() as patch:
        patch.delattr("puma_engine.pipeline.comparing.sample_metrics")
        pipeline.judge_comparison(ws, run, margin=0.2)
        changed = pipeline.comparison_shares(ws, run)
        changed["share"] = 0.0
        pd.testing.assert_frame_equal(pipeline.comparison_shares(ws, run), shares)

    (lost,) = ws.folder(ratings["random"].id).glob("predictions.*parquet")
    lost.rename(lost.with_suffix(".gone"))
    try:
        without = pipeline.comparison_scores(ws, run)
        assert "pair_accuracy" not in set(without["metric"]) and len(without)
        levels = pipeline.comparison_shares(ws, run)
        assert set(levels["metric"]) == {"rmse"} and levels["share_low"].isna().all()
        known = shares[shares["metric"] == "rmse"].set_index(["method", "reference"])["share"]
        same = levels.set_index(["method", "reference"])["share"]
        pd.testing.assert_series_equal(same.sort_index(), known.sort_index())
        assert any(
            "is not measured here" in text for text in pipeline.judge_comparison(ws, run).cautions
        )
        page = pipeline.render_report(ws, run)
        assert "not measured" in page
        command = ["compare", *(r for k, r in run.inputs.items() if k != "reference")]
        result = CliRunner().invoke(app, [*command, "--workspace", str(ws.root)])
        assert result.exit_code == 0 and "not measured" in result.stdout
    finally:
        lost.with_suffix(".gone").rename(lost)


def test_stored_source_changes_equal_a_comparison_with_the_old_model_as_reference(tmp_path):
    world = compared.workspace(tmp_path)
    ws, run = world["ws"], world["comparison"]
    changes = ws.get_table(run.id, "source_changes")
    methods = ws.get_table(run.id, "methods")
    (source,) = methods[methods["kind"] == "source"]["evaluation"]
    other = pipeline.compare(ws, list(methods["evaluation"]), reference=source)
    scores = ws.get_table(other.id, "comparison").set_index(["method", "metric"])
    assert set(changes["metric"]) == {"rmse", "pair_accuracy"}
    assert set(changes["method"]) == set(methods["method"]) - set(changes["source"])
    for row in changes.itertuples():
        score = scores.loc[(row.method, row.metric)]
        for name in ("value", "difference", "difference_low", "difference_high", "n_users"):
            assert getattr(row, name) == pytest.approx(score[name]), name
    verdict = pipeline.judge_comparison(ws, run)
    assert verdict.source.sentence in (*verdict.cautions[:1], *verdict.evidence[:1])
    assert html.escape(verdict.source.sentence) in pipeline.render_report(ws, run)
    # Earlier versions did not store the table: it is computed from predictions, for plans only.
    with edited(ws) as db:
        db.execute("DELETE FROM artifacts WHERE run_id = ? AND name = 'source_changes'", [run.id])
    computed, keys = pipeline.comparison_changes(ws, run), ["method", "metric"]
    plans = changes[changes["method"].isin(computed["method"])]
    pd.testing.assert_frame_equal(
        computed.sort_values(keys, ignore_index=True), plans.sort_values(keys, ignore_index=True)
    )
    assert pipeline.judge_comparison(ws, run) == verdict
