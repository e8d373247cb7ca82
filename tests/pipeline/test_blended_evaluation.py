"""Prompts blended with a baseline: from evaluations on validation rows to a row of a comparison."""

import numpy as np
import pytest
from command_line import puma
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import Workbench
from puma_engine.errors import ConfigError, StoreError
from puma_engine.evaluation.blending import Blend
from puma_engine.evaluation.metrics import pooled
from puma_engine.pipeline import load_dataset
from puma_engine.pipeline.comparing import method_cost
from puma_engine.pipeline.evaluating import (
    _predictions_of,
    is_of_prompts_alone,
    method_kind,
    method_label,
    read_predictions,
)

BASELINE = "matrix_factorisation"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("blended")
    bench = Workbench(root / "ws", create=True)
    path = write_ratings(root / "r.csv", users=40, rows=20)
    data = bench.import_dataset("table", path=path, task="rating", name="r")
    old, new = (
        bench.add_backbone(tiny_backbone_folder(root, family), name=name)
        for name, family in (("old", "llama"), ("new", "qwen2"))
    )
    source = bench.fit_prompts(data, old, training=QUICK, name="source")
    retrained = bench.fit_prompts(data, new, role="retrained", training=QUICK, name="retrained")
    moved = bench.migrate(source, new, training=QUICK, adapter=SMALL, name="moved")
    return {
        "bench": bench,
        "data": data,
        "moved": moved,
        "evaluation": bench.evaluate(moved),
        "retrained": bench.evaluate(retrained),
        "blended": bench.evaluate(moved, blend=BASELINE),
    }


def test_a_blend_is_fitted_on_validation_and_applied_to_test_predictions(world):
    bench, blended = world["bench"], world["blended"]
    splits = {
        (method, split): bench.predictions(bench.evaluate(method, dataset="r", split=split))
        for method in ("moved", BASELINE)
        for split in ("validation", "test")
    }

    def columns(split):
        predictions = [splits[method, split]["prediction"] for method in ("moved", BASELINE)]
        return np.column_stack(predictions).astype(np.float64)

    validation, test = splits[BASELINE, "validation"], splits[BASELINE, "test"]
    blend = Blend("rating").fit(columns("validation"), validation["outcome"].to_numpy(np.float64))
    expected = blend.predict(columns("test"))
    stored = bench.predictions(blended)
    np.testing.assert_allclose(stored["prediction"], expected, rtol=1e-6)
    assert stored["item_id"].tolist() == test["item_id"].tolist()
    summary = blended.summary
    assert summary["weights"] == pytest.approx(
        {"own": blend.weights[0], "baseline": blend.weights[1]}
    )
    scores = pooled(
        "rating",
        *(stored[n].to_numpy(float) for n in ("outcome", "prediction")),
        stored["user_id"].to_numpy(),
    )
    assert summary["metrics"]["rmse"] == pytest.approx(scores["rmse"])


def test_predictions_of_other_rows_are_not_blended(world):
    ws, rows = (
        world["bench"].workspace,
        load_dataset(world["bench"].workspace, world["data"]).rows("test"),
    )
    stored = read_predictions(ws, world["evaluation"])["prediction"]
    assert _predictions_of(ws, world["evaluation"], rows).tolist() == stored.tolist()
    for other_rows in (rows[::-1], rows[1:]):
        with pytest.raises(StoreError, match="are not of the .* rows that the data set has now"):
            _predictions_of(ws, world["evaluation"], other_rows)


def test_a_blend_is_a_separate_method_in_a_comparison(world):
    bench, evaluation, blended = world["bench"], world["evaluation"], world["blended"]
    assert bench.evaluate(world["moved"]).id == evaluation.id != blended.id
    assert "blended_with" not in evaluation.config and is_of_prompts_alone(evaluation)
    assert method_kind(blended) == "blended" and not is_of_prompts_alone(blended)
    label = method_label(bench.workspace, blended)
    assert label == "Migrated, all users, blended with matrix factorisation"
    run = bench.compare([evaluation, world["retrained"], blended], name="blends")
    methods = bench.workspace.get_table(run.id, "methods").set_index("evaluation")
    assert methods.loc[blended.id, "kind"] == "blended"
    # A verdict judges migrations, not their blends with a baseline.
    verdict = bench.judge(run)
    assert verdict.method != label
    costs = [method_cost(bench.workspace, item) for item in (evaluation, blended)]
    baseline = bench.evaluate(BASELINE, dataset=world["data"])
    assert costs[1]["seconds"] == pytest.approx(costs[0]["seconds"] + baseline.seconds)
    assert costs[1]["flops"] == costs[0]["flops"]


def test_the_evaluate_command_returns_the_same_run(world):
    printed = puma(world["bench"].workspace, "evaluate", "moved", "--blend", BASELINE)
    assert printed["id"] == world["blended"].id


@pytest.mark.parametrize(
    ("subject", "settings", "message"),
    [
        ("moved", {"blend": "nothing"}, "with those of a baseline .*, not 'moved' with 'nothing'"),
        (BASELINE, {"blend": BASELINE, "dataset": "r"}, "Predictions of prompts are blended"),
        ("moved", {"blend": BASELINE, "split": "validation"}, "choose the weights of a blend"),
        ("moved", {"blend": BASELINE, "backbone": "old"}, "leave out the backbone or the blend"),
    ],
)
def test_invalid_blends_are_refused(world, subject, settings, message):
    before = len(world["bench"].workspace.runs())
    with pytest.raises(ConfigError, match=message):
        world["bench"].evaluate(subject, **settings)
    assert len(world["bench"].workspace.runs()) == before
