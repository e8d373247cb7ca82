"""Default settings follow the task and the number of users."""

from typing import Any

import compared
import pytest
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.defaults import fit_defaults, migration_defaults, refine_defaults
from puma_engine.store import Workspace


@pytest.mark.parametrize(("task", "rate", "patience"), [("rating", 1e-2, 3), ("click", 5e-3, 0)])
def test_default_learning_rates_and_patience_depend_on_the_task(tmp_path, task, rate, patience):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = compared.import_data(ws, tmp_path, task)
    model = tiny_backbone_folder(tmp_path, "llama")
    options = {"training": {"epochs": 1}, "device": "cpu"}
    source = pipeline.fit_prompts(ws, data, model, **options)
    training = source.config["training"]
    assert (training["learning_rate"], training["patience"]) == (rate, patience)
    small: dict[str, Any] = {"adapter": {"hidden": 8}}
    on_all_users = pipeline.migrate(ws, source, model, **small, **options)
    on_few_users = pipeline.migrate(
        ws, source, model, strategy="random", budget=3, **small, **options
    )
    patiences = [run.config["training"]["patience"] for run in (on_all_users, on_few_users)]
    assert patiences == ([3, 4] if task == "rating" else [0, 0])
    rate = on_all_users.config["training"]["learning_rate"]
    assert rate == pytest.approx(1e-3 if task == "rating" else 1e-4)
    shapes = [run.config["adapter"] for run in (on_all_users, on_few_users)]
    limits = [(shape["balance"], shape["norm_limit"]) for shape in shapes]
    assert limits == ([(3.0, 0.0), (1.0, 0.0)] if task == "rating" else [(1.0, 1.0)] * 2)
    refined = pipeline.refine(ws, on_all_users, **options)
    refining = refined.config["training"]
    assert (refining["epochs"], refining["patience"]) == (1, 0)
    assert refining["learning_rate"] == pytest.approx(3e-3 if task == "rating" else 6e-3)


def all_users(users, task="rating"):
    return migration_defaults(task, users)[0]


def few_users(users, task="rating"):
    return migration_defaults(task, 100 * users, users)[0]


def test_default_batch_sizes_follow_the_number_of_users():
    sizes = {users: all_users(users).batch_size for users in (1, 400, 1000, 10_206)}
    assert sizes == {1: 32, 400: 64, 1000: 128, 10_206: 256}
    sizes = {
        users: fit_defaults("rating", users).batch_size for users in (1, 400, 600, 3000, 10_206)
    }
    assert sizes == {1: 64, 400: 64, 600: 64, 3000: 256, 10_206: 1024}
    sizes = {users: few_users(users).batch_size for users in (1, 30, 60, 300, 714, 5000)}
    assert sizes == {1: 32, 30: 32, 60: 32, 300: 256, 714: 256, 5000: 256}
    ratings = [few_users(users) for users in (60, 99, 100, 299, 300)]
    assert [training.learning_rate for training in ratings] == [2e-4, 2e-4, 5e-4, 5e-4, 5e-4]
    assert [training.epochs for training in ratings] == [12, 12, 12, 12, 6]
    clicks = [few_users(users, "click") for users in (30, 99, 100, 331, 5000)]
    assert [training.batch_size for training in clicks] == [32, 32, 32, 64, 256]
    assert [training.epochs for training in clicks] == [24, 24, 24, 12, 12]
    assert {training.learning_rate for training in clicks} == {1e-4}


@pytest.mark.parametrize("task", ["rating", "click"])
def test_a_selection_of_all_users_has_the_defaults_of_all_users(task):
    assert migration_defaults(task, 600, 600) == migration_defaults(task, 600)
    assert migration_defaults(task, 600, 60) != migration_defaults(task, 600)


def test_trainings_on_clicks_have_no_early_stopping_by_default():
    trainings = [all_users(600, "click"), few_users(60, "click")]
    for item_tokens in (0, 1):
        trainings.append(fit_defaults("click", 600, item_tokens=item_tokens))
        trainings.append(refine_defaults("click", 600, item_tokens=item_tokens))
    assert {training.patience for training in trainings} == {0}
    assert fit_defaults("rating", 600, item_tokens=1).patience > 0
