"""Default settings follow the task and the number of users."""

from dataclasses import replace
from typing import Any

import compared
import pytest
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.defaults import (
    TARGET_RULES,
    ZOO_WIDTH,
    Target,
    TargetRule,
    fit_defaults,
    migration_defaults,
    prompt_defaults,
    refine_defaults,
)
from puma_engine.store import Workspace


@pytest.mark.parametrize(("task", "rate", "patience"), [("rating", 1e-2, 3), ("click", 5e-3, 0)])
def test_default_learning_rates_and_patience_depend_on_the_task(tmp_path, task, rate, patience):
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
    patiences = [run.config["training"]["patience"] for run in (every, few)]
    assert patiences == ([3, 4] if task == "rating" else [0, 0])
    rate = every.config["training"]["learning_rate"]
    assert rate == pytest.approx(1e-3 if task == "rating" else 1e-4)
    shapes = [run.config["adapter"] for run in (every, few)]
    limits = [(shape["balance"], shape["norm_limit"]) for shape in shapes]
    assert limits == ([(3.0, 0.0), (1.0, 0.0)] if task == "rating" else [(1.0, 1.0)] * 2)
    refined = pipeline.refine(ws, every, **once)
    how = refined.config["training"]
    assert (how["epochs"], how["patience"]) == (1, 0)
    assert how["learning_rate"] == pytest.approx(3e-3 if task == "rating" else 6e-3)


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


OTHER = Target(width=576, rows=3500, knows_template=False)


@pytest.mark.parametrize("task", ["rating", "click"])
def test_models_that_know_nothing_of_the_templates_take_the_zoos_settings_without_a_rule(task):
    assert TARGET_RULES == {}
    for target in (OTHER, Target(), Target(width=576)):
        assert fit_defaults(task, 600, target=target) == fit_defaults(task, 600)
        assert refine_defaults(task, 600, target=target) == refine_defaults(task, 600)
        for trained in (None, 40):
            expected = migration_defaults(task, 600, trained)
            assert migration_defaults(task, 600, trained, target=target) == expected
        assert prompt_defaults(task, target) == {}


def test_a_rule_changes_the_settings_of_its_stage_by_width_and_rows(monkeypatch):
    rule = TargetRule(
        rate=0.5, rate_power=-0.5, hidden_power=0.5, decay=3.0, examples=10_000, least_epochs=2
    )
    monkeypatch.setitem(TARGET_RULES, ("migrate-few", "rating"), rule)
    plain, network = migration_defaults("rating", 2000, 140)
    training, adapter = migration_defaults("rating", 2000, 140, target=OTHER)
    scale = 576 / ZOO_WIDTH
    assert training.learning_rate == pytest.approx(0.5 * plain.learning_rate / scale**0.5, rel=0.05)
    assert training.weight_decay == pytest.approx(3 * plain.weight_decay)
    assert (plain.epochs, training.epochs) == (12, 2)
    assert adapter.hidden == round(network.hidden * scale**0.5)
    few_rows = replace(OTHER, rows=1000)
    assert migration_defaults("rating", 2000, 140, target=few_rows)[0].epochs == 10
    # Other stages, and the zoo, keep theirs.
    assert migration_defaults("rating", 2000, target=OTHER) == migration_defaults("rating", 2000)
    zoo = Target(width=576, rows=3500)
    assert migration_defaults("rating", 2000, 140, target=zoo) == (plain, network)


def test_a_rule_reaches_the_runs_on_such_a_model_and_yields_to_the_request(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = compared.import_data(ws, tmp_path, users=12, rows=20)
    model, once = tiny_backbone_folder(tmp_path, "llama"), {"epochs": 1}
    before = pipeline.fit_prompts(ws, data, model, training=once, device="cpu")
    assert before.config["prompt"]["start"] == "text"
    rule = TargetRule(rate=0.1, prompt={"start": "mean"})
    monkeypatch.setitem(TARGET_RULES, ("fit", "rating"), rule)
    run = pipeline.fit_prompts(ws, data, model, training=once, device="cpu")
    assert run.id != before.id and run.config["prompt"]["start"] == "mean"
    assert run.config["training"]["learning_rate"] == pytest.approx(1e-3)
    given = {"training": once | {"learning_rate": 1e-2}, "prompt": {"start": "text"}}
    assert pipeline.fit_prompts(ws, data, model, device="cpu", **given).id == before.id
    zoo = pipeline.fit_prompts(ws, data, "llama-small", training=once, device="cpu")
    assert zoo.config["prompt"]["start"] == "text"
