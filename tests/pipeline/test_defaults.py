"""Settings that nobody names follow from what users gave."""

from typing import Any

import compared
import pytest
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.defaults import adapter_training, prompt_training, refining, small_adapter_training
from puma_engine.store import Workspace


@pytest.mark.parametrize(("task", "rate", "patience"), [("rating", 1.5e-2, 3), ("click", 5e-3, 0)])
def test_clicks_take_shorter_steps_and_are_waited_for(tmp_path, task, rate, patience):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = compared.import_data(ws, tmp_path, task)
    model = tiny_backbone_folder(tmp_path, "llama")
    once = {"training": {"epochs": 1}, "device": "cpu"}
    source = pipeline.fit_prompts(ws, data, model, **once)
    asked = source.config["training"]
    assert (asked["learning_rate"], asked["patience"]) == (rate, patience)
    small: dict[str, Any] = {"adapter": {"hidden": 8}}
    every = pipeline.migrate(ws, source, model, **small, **once)
    few = pipeline.migrate(ws, source, model, strategy="random", budget=3, **small, **once)
    waits = [run.config["training"]["patience"] for run in (every, few)]
    assert waits == ([3, 4] if task == "rating" else [0, 0])
    rate = every.config["training"]["learning_rate"]
    assert rate == pytest.approx(1e-3 if task == "rating" else 1e-4)
    shapes = [run.config["adapter"] for run in (every, few)]
    limits = [(one["balance"], one["norm_limit"]) for one in shapes]
    assert limits == ([(3.0, 0.0), (1.0, 0.0)] if task == "rating" else [(1.0, 1.0)] * 2)
    refined = pipeline.refine(ws, every, **once)
    how = refined.config["training"]
    assert (how["epochs"], how["patience"]) == (1, 0)
    assert how["learning_rate"] == pytest.approx(3e-3 if task == "rating" else 6e-3)


def test_batches_leave_enough_steps_for_however_few_users():
    sizes = {users: adapter_training(users).batch_size for users in (1, 400, 1000, 10_206)}
    assert sizes == {1: 32, 400: 64, 1000: 128, 10_206: 256}
    sizes = {users: prompt_training(users).batch_size for users in (1, 400, 600, 3000, 10_206)}
    assert sizes == {1: 64, 400: 256, 600: 256, 3000: 1024, 10_206: 1024}
    sizes = {
        users: small_adapter_training(users).batch_size for users in (1, 30, 60, 300, 714, 5000)
    }
    assert sizes == {1: 32, 30: 32, 60: 32, 300: 256, 714: 256, 5000: 256}
    steps = [small_adapter_training(users) for users in (60, 99, 100, 299, 300)]
    assert [one.learning_rate for one in steps] == [2e-4, 2e-4, 5e-4, 5e-4, 5e-4]
    assert [one.epochs for one in steps] == [12, 12, 12, 12, 6]
    clicks = [small_adapter_training(users, "click") for users in (30, 99, 100, 331, 5000)]
    assert [one.batch_size for one in clicks] == [32, 32, 32, 64, 256]
    assert [one.epochs for one in clicks] == [24, 24, 24, 12, 12]
    assert {one.learning_rate for one in clicks} == {1e-4}


def test_by_default_no_training_on_clicks_ends_early():
    kinds = [adapter_training(600, "click"), small_adapter_training(60, "click")]
    for items in (False, True):
        kinds.append(prompt_training(600, "click", items=items))
        kinds.append(refining(600, "click", items=items))
    assert {one.patience for one in kinds} == {0}
    assert prompt_training(600, items=True).patience > 0
