"""Refining: migrated prompts fitted further, for all users or for some under the same head."""

import numpy as np
import pandas as pd
import pytest

from puma_engine import Workbench
from puma_engine.errors import ConfigError, NotFoundError, SelectionError
from puma_engine.pipeline import load_prompts, method_cost
from puma_engine.pipeline.evaluating import method_label
from puma_engine.pipeline.foreseeing import ranked

SHORT = {"epochs": 1, "batch_size": 64, "learning_rate": 0.01}
SHAPE = {"hidden": 16}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("refining"), create=True)


@pytest.fixture(scope="module")
def moved(bench):
    films = bench.import_dataset("movietweetings", users=10)
    source = bench.fit_prompts(films, "llama-small", training=SHORT, device="cpu")
    return bench.migrate(source, "qwen2-small", training=SHORT, adapter=SHAPE, device="cpu")


def test_refining_everybody_starts_from_the_migrated_prompts(bench, moved):
    still = bench.refine(moved, training=SHORT | {"learning_rate": 1e-9}, device="cpu")
    before, after = load_prompts(bench.workspace, moved), load_prompts(bench.workspace, still)
    np.testing.assert_array_equal(before.user_ids, after.user_ids)
    np.testing.assert_allclose(before.vectors, after.vectors, atol=1e-6)
    for name, values in before.head.items():
        np.testing.assert_allclose(values, after.head[name], atol=1e-6)
    further = bench.refine(moved, training=SHORT, device="cpu")
    changed = np.abs(load_prompts(bench.workspace, further).vectors - before.vectors).max((1, 2))
    assert (changed > 1e-4).all()
    assert further.config["role"] == "refined" and further.inputs["start"] == moved.id


def test_refining_some_leaves_all_others_and_the_head_alone(bench, moved):
    source = moved.inputs["source_0"]
    chosen = bench.select(source, strategy="random", budget=3)
    refined = bench.refine(moved, selection=chosen, training=SHORT, device="cpu")
    before, after = (load_prompts(bench.workspace, run) for run in (moved, refined))
    some = np.isin(before.user_ids, bench.selected_users(chosen))
    changed = np.abs(after.vectors - before.vectors).max((1, 2))
    assert some.sum() == 3 and (changed[some] > 1e-4).all() and (changed[~some] == 0).all()
    for name, values in before.head.items():
        np.testing.assert_array_equal(values, after.head[name])
    assert refined.cost["users_trained"] == 3


def test_the_share_that_lost_most_on_train_rows_is_refined(bench, moved):
    refined = bench.refine(moved, share=0.3, training=SHORT, device="cpu")
    chosen = bench.workspace.run(refined.inputs["selection"])
    frame = bench.workspace.get_table(chosen.id, "selection").set_index("user_id")
    assert frame["selected"].sum() == 3 and refined.cost["users_trained"] == 3
    assert frame.loc[frame["selected"], "risk"].min() >= frame.loc[~frame["selected"], "risk"].max()
    for run, column in ((moved, "migrated_loss"), (moved.inputs["source_0"], "source_loss")):
        told = bench.predictions(bench.evaluate(run, split="train", device="cpu"))
        loss = ((told["prediction"] - told["outcome"]) ** 2).groupby(told["user_id"]).mean()
        np.testing.assert_allclose(frame[column].sort_index(), loss.sort_index(), rtol=1e-4)
    evaluation = bench.evaluate(refined, device="cpu")
    assert method_label(bench.workspace, evaluation) == "Migrated, all users, refined for 3 users"
    seconds = method_cost(bench.workspace, evaluation)["seconds"]
    assert seconds == pytest.approx(moved.seconds + chosen.seconds + refined.seconds)
    with pytest.raises(ConfigError, match="not both"):
        bench.refine(moved, share=0.3, selection=chosen)
    with pytest.raises(SelectionError, match="above 0"):
        bench.refine(moved, share=0)


def test_users_are_ranked_by_id_not_by_position():
    before = pd.Series([1.0, 1.0, 1.0, 1.0], ["d", "a", "c", "b"])
    after = pd.Series([3.0, 2.0, 0.5, 1.0], ["b", "d", "a", "c"])
    frame = ranked(after, before, 0.5)
    assert frame["user_id"].tolist() == ["b", "d", "c", "a"]
    assert frame["selected"].tolist() == [True, True, False, False]


def test_its_cost_holds_the_migration_it_starts_from(bench, moved):
    refined = bench.refine(moved, training=SHORT, device="cpu")
    evaluation, own = bench.evaluate(refined, device="cpu"), bench.evaluate(moved, device="cpu")
    seconds = method_cost(bench.workspace, evaluation)["seconds"]
    base = method_cost(bench.workspace, own)["seconds"]
    assert seconds == pytest.approx(base + refined.seconds)
    table = bench.table(bench.compare([own, evaluation], reference=own))
    labels = set(table["method"])
    assert {"Migrated, all users", "Migrated, all users, refined"} <= labels


def test_only_migrations_are_refined(bench, moved):
    with pytest.raises(NotFoundError):
        bench.refine(moved.inputs["source_0"], device="cpu")
