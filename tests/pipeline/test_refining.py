"""Refining: migrated prompts fitted further, for all users or for some under the same head."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_backbone_folder

from puma_engine import Workbench
from puma_engine.backbone import FrozenBackbone
from puma_engine.config import TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.errors import ConfigError, NotFoundError, SelectionError
from puma_engine.pipeline import load_prompts, method_cost
from puma_engine.pipeline.evaluating import method_label
from puma_engine.pipeline.method_survey import evaluated_methods
from puma_engine.pipeline.predicting_regressions import ranked
from puma_engine.pipeline.verdicts import comparison_data, judge_comparison
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import fit_prompts, step_scale

SHORT = {"epochs": 1, "batch_size": 64, "learning_rate": 0.01}
# One epoch from random prompts leaves room for refining to improve.
SHAPE = {"hidden": 16, "output_start": "random"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("refining"), create=True)


@pytest.fixture(scope="module")
def moved(bench):
    films = bench.import_dataset("movietweetings", users=10)
    source = bench.fit_prompts(films, "llama-small", training=SHORT, device="cpu")
    return bench.migrate(source, "qwen2-small", training=SHORT, adapter=SHAPE, device="cpu")


def test_refining_all_users_starts_from_the_migrated_prompts(bench, moved):
    unchanged = bench.refine(moved, training=SHORT | {"learning_rate": 1e-9}, device="cpu")
    before, after = load_prompts(bench.workspace, moved), load_prompts(bench.workspace, unchanged)
    np.testing.assert_array_equal(before.user_ids, after.user_ids)
    np.testing.assert_allclose(before.vectors, after.vectors, atol=1e-6)
    for name, values in before.head.items():
        np.testing.assert_allclose(values, after.head[name], atol=1e-6)
    refined = bench.refine(moved, training=SHORT, device="cpu")
    changed = np.abs(load_prompts(bench.workspace, refined).vectors - before.vectors).max((1, 2))
    assert (changed > 1e-4).all()
    assert refined.config["role"] == "refined" and refined.inputs["start"] == moved.id


def test_refining_some_users_changes_neither_other_users_nor_the_head(bench, moved):
    source = moved.inputs["source_0"]
    chosen = bench.select(source, strategy="random", budget=3)
    training = SHORT | {"epochs": 3, "learning_rate": 1e-3}
    refined = bench.refine(moved, selection=chosen, training=training, device="cpu")
    before, after = (load_prompts(bench.workspace, run) for run in (moved, refined))
    some = np.isin(before.user_ids, bench.selected_users(chosen))
    changed = np.abs(after.vectors - before.vectors).max((1, 2))
    assert some.sum() == 3 and (changed[some] > 1e-4).all() and (changed[~some] == 0).all()
    for name, values in before.head.items():
        np.testing.assert_array_equal(values, after.head[name])
    assert refined.cost["users_trained"] == 3


def test_the_users_with_the_largest_train_loss_are_refined(bench, moved):
    refined = bench.refine(moved, share=0.3, training=SHORT, device="cpu")
    chosen = bench.workspace.run(refined.inputs["selection"])
    frame = bench.workspace.get_table(chosen.id, "selection").set_index("user_id")
    assert frame["selected"].sum() == 3 and refined.cost["users_trained"] == 3
    assert frame.loc[frame["selected"], "risk"].min() >= frame.loc[~frame["selected"], "risk"].max()
    for run, column in ((moved, "migrated_loss"), (moved.inputs["source_0"], "source_loss")):
        predictions = bench.predictions(bench.evaluate(run, split="train", device="cpu"))
        loss = (
            ((predictions["prediction"] - predictions["outcome"]) ** 2)
            .groupby(predictions["user_id"])
            .mean()
        )
        np.testing.assert_allclose(frame[column].sort_index(), loss.sort_index(), rtol=1e-4)
    evaluation = bench.evaluate(refined, device="cpu")
    assert method_label(bench.workspace, evaluation) == "Migrated, all users, refined for 3 users"
    seconds = method_cost(bench.workspace, evaluation)["seconds"]
    assert seconds == pytest.approx(moved.seconds + chosen.seconds + refined.seconds)
    with pytest.raises(ConfigError, match="not both"):
        bench.refine(moved, share=0.3, selection=chosen)
    with pytest.raises(SelectionError, match="above 0"):
        bench.refine(moved, share=0)


def test_users_to_refine_are_joined_by_id():
    before = pd.Series([1.0, 1.0, 1.0, 1.0], ["d", "a", "c", "b"])
    after = pd.Series([3.0, 2.0, 0.5, 1.0], ["b", "d", "a", "c"])
    frame = ranked(after, before, 0.5)
    assert frame["user_id"].tolist() == ["b", "d", "c", "a"]
    assert frame["selected"].tolist() == [True, True, False, False]


def test_the_cost_of_refining_includes_its_migration(bench, moved):
    refined = bench.refine(moved, training=SHORT, device="cpu")
    evaluation = bench.evaluate(refined, device="cpu")
    unrefined = bench.evaluate(moved, device="cpu")
    seconds = method_cost(bench.workspace, evaluation)["seconds"]
    base = method_cost(bench.workspace, unrefined)["seconds"]
    assert seconds == pytest.approx(base + refined.seconds)
    table = bench.table(bench.compare([unrefined, evaluation], reference=unrefined))
    labels = set(table["method"])
    assert {"Migrated, all users", "Migrated, all users, refined"} <= labels


def test_prompts_are_refined_for_another_template_without_a_migration(bench, moved):
    source, words = moved.inputs["source_0"], "rating-item-first"
    training = SHORT | {"epochs": 2}
    refined = bench.refine(source, template=words, training=training, device="cpu")
    start = bench.workspace.run(source)
    assert refined.config["template"] == words != start.config["template"]
    assert refined.inputs["start"] == source
    assert refined.inputs["backbone"] == start.inputs["backbone"]
    # The start is kept if no epoch is better, so refining does not lose on validation rows.
    reused, after = (
        bench.evaluate(run, split="validation", device="cpu", **template)
        for run, template in ((source, {"template": words}), (refined, {}))
    )
    assert after.summary["metrics"]["rmse"] <= reused.summary["metrics"]["rmse"] + 1e-6
    evaluation = bench.evaluate(refined, device="cpu")
    assert method_label(bench.workspace, evaluation) == "Reused prompts, refined"
    seconds = method_cost(bench.workspace, evaluation)["seconds"]
    assert seconds == pytest.approx(refined.seconds)  # the prompts existed already
    films = start.inputs["dataset"]
    retrained = bench.fit_prompts(
        films,
        start.inputs["backbone"],
        role="retrained",
        template=words,
        training=SHORT,
        device="cpu",
    )
    refined_migration = bench.refine(moved, training=SHORT, device="cpu")
    evaluations = [bench.evaluate(run, device="cpu") for run in (retrained, refined_migration)]
    comparison = bench.compare([evaluation, *evaluations])
    methods = comparison_data(bench.workspace, comparison).methods
    by_kind = methods.set_index("run")["is_reuse"]
    assert by_kind.to_dict() == {refined.id: True, retrained.id: False, refined_migration.id: False}
    verdict = judge_comparison(bench.workspace, comparison)
    assert verdict.is_reuse and "migrat" not in verdict.headline.lower()
    methods = evaluated_methods(bench.workspace, films, "test").set_index("run")
    models = [bench.workspace.run(run.inputs["backbone"]).name for run in (start, moved)]
    assert methods.loc[refined.id, "path"] == (models[0],)
    assert methods.loc[refined_migration.id, "path"] == tuple(models)


def test_prompts_are_refined_on_other_weights_of_their_model(bench, tmp_path):
    folders = [tiny_backbone_folder(tmp_path / str(seed), seed=seed) for seed in (7, 8)]
    films = bench.import_dataset("movietweetings", users=10)
    source = bench.fit_prompts(films, str(folders[0]), training=SHORT, device="cpu")
    some = bench.select(source, strategy="random", budget=3)
    refined = bench.refine(
        source, backbone=folders[1], selection=some, training=SHORT, device="cpu"
    )
    assert bench.workspace.run(refined.inputs["backbone"]).config["spec"] == str(folders[1])
    assert bench.evaluate(refined, device="cpu").summary["metrics"]["rmse"] > 0
    again = bench.refine(source, selection=some, backbone=folders[1], training=SHORT, device="cpu")
    assert again.id == refined.id
    with pytest.raises(ConfigError, match="can be migrated to it, not reused"):
        bench.refine(source, backbone="qwen2-small", device="cpu")
    with pytest.raises(ConfigError, match="leave out the share"):
        bench.refine(source, backbone=folders[1], share=0.3)


def test_only_migrations_are_refined_on_their_own_model_in_their_own_template(bench, moved):
    source = bench.workspace.run(moved.inputs["source_0"])
    with pytest.raises(NotFoundError):
        bench.refine(source, device="cpu")
    own = ({"template": source.config["template"]}, {"backbone": source.inputs["backbone"]})
    for same in own:
        with pytest.raises(ConfigError, match="already; give another model or template"):
            bench.refine(source, device="cpu", **same)
    refined = bench.refine(moved, training=SHORT, device="cpu")
    same = {"template": moved.config["template"], "backbone": moved.inputs["backbone"]}
    assert bench.refine(moved, training=SHORT, device="cpu", **same).id == refined.id


@pytest.mark.parametrize("times", [0.5, 1.0, 30.0])
def test_refining_steps_scale_with_the_size_of_the_initial_prompts(tmp_path, times):
    model = FrozenBackbone.load(
        tiny_backbone_folder(tmp_path, "llama"), device="cpu", precision="fp32"
    )
    data = load_shipped("movietweetings", users=8)
    initial = np.random.default_rng(0).normal(size=(len(data.users), 1, model.width))
    token_scale = model.token_norm() / model.width**0.5
    vectors = (times * token_scale * initial / np.sqrt(np.mean(initial**2))).astype(np.float32)
    assert step_scale(vectors, model) == pytest.approx(max(1.0, times), rel=1e-5)
    start = PromptTable(data.users, vectors)
    # In AdamW's first step every coordinate moves by the learning rate.
    training = TrainingConfig(
        epochs=1, batch_size=10_000, learning_rate=1e-3, warmup=0.0, weight_decay=0.0
    )
    refined = fit_prompts(model, data, template="rating-item-first", training=training, start=start)
    moved = np.abs(refined.table.vectors - vectors)
    # The step of the common prompt and that of each user add up or cancel out.
    assert moved.max() == pytest.approx(2e-3 * max(1.0, times), rel=0.02)
