"""Refining: migrated prompts fitted further, for all users or for some under the same head."""

import numpy as np
import pytest

from puma_engine import Workbench
from puma_engine.errors import NotFoundError
from puma_engine.pipeline import load_prompts, method_cost

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
