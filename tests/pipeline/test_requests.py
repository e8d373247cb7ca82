"""Requests: every interface builds the same request, and queued jobs of older versions run."""

import json
import signal
from dataclasses import replace

import pytest
from command_line import puma
from small_runs import write_ratings
from tiny import tiny_backbone_folder

from dashboard.engine import plans
from puma_engine import Workbench, jobs, pipeline
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.defaults import fit_defaults
from puma_engine.errors import ConfigError, MigrationError, SelectionError
from puma_engine.jobs import runner
from puma_engine.jobs.queue import claim
from puma_engine.requests import (
    ChainRequest,
    EvaluationRequest,
    FitRequest,
    MigrationRequest,
    PlanRequest,
    RefineRequest,
    SelectionRequest,
    training_of,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with source prompts on one model, and a second model."""
    folder = tmp_path_factory.mktemp("requests")
    bench = Workbench(folder / "ws", create=True)
    data = bench.import_dataset("table", path=write_ratings(folder / "r.csv"), task="rating")
    source = bench.fit_prompts(
        data, tiny_backbone_folder(folder / "models", "llama"), training={"epochs": 1}
    )
    target = bench.add_backbone(tiny_backbone_folder(folder / "models", "qwen2", width=48))
    return bench, source, target


def execute(ws):
    """Execute the queued job; return it when it has ended."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    job = claim(ws, "cpu")
    try:
        runner.execute(ws, job.id, job.attempt)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return jobs.job(ws, job.id)


@pytest.mark.parametrize(
    ("strategy", "budget", "changed", "pairs"),
    [
        ("all", None, {}, 0),
        ("random", 5, {}, 0),
        ("random", 20, {}, 0),
        ("random", 5, {"epochs": 2}, 0),
        ("random", 5, {}, 8),
    ],
    ids=["all users", "few users", "most users", "changed setting", "from predictions"],
)
def test_every_interface_builds_the_same_request(
    world, monkeypatch, strategy, budget, changed, pairs
):
    bench, source, target = world
    ws = bench.workspace
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    chosen = None if strategy == "all" else strategy
    options = [] if chosen is None else ["--strategy", strategy, "--budget", str(budget)]
    options += [f"--{name}={value}" for name, value in changed.items()]
    options += [f"--from-predictions={pairs}"] if pairs else []
    plan = plans.Plan(
        "single", (source.id,), (target.id,), strategy, budget, changed, from_predictions=pairs
    )

    expected = bench.migrate(
        source, target, strategy=chosen, budget=budget, training=changed, from_predictions=pairs
    ).id
    assert puma(ws, "migrate", source.id, target.id, *options)["id"] == expected
    both = ["--source", source.id, "--target", target.id]
    planned = puma(ws, "plan", "run", *both, *options)
    puma(ws, "migrate", source.name, target.name, *options, "--queue")
    assert execute(ws).run_id == expected
    plans.launch(plan, {"seconds": 2.0})
    launched = execute(ws)
    assert launched.status == "finished", launched.error
    assert launched.run_id == planned["id"]
    assert ws.run(launched.run_id).inputs["prompts"] == expected
    assert plans.migrations_of(launched)[0].id == expected
    settings, config = plans.settings(plan), ws.run(expected).config
    assert config["training"].items() <= settings.training.to_dict().items()
    assert config["adapter"] == settings.adapter.to_dict()


def test_jobs_that_earlier_versions_queued_are_executed(world, monkeypatch):
    bench, source, target = world
    ws = bench.workspace
    training = TrainingConfig(epochs=1, learning_rate=1e-3).to_dict()
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    old = {
        "sources": [source.id],
        "targets": [target.id],
        "strategy": "random",
        "budget": 6,
        "training": training,
        "adapter": AdapterConfig(hidden=8).to_dict() | {"balance": 3.0, "norm_limit": 0.5},
        "seed": 0,
        "predicted": None,
    }
    jobs.enqueue(ws, "carry_out", old, title="An old plan")
    job = execute(ws)
    assert job.status == "finished", job.error
    (migration,) = plans.migrations_of(job)
    assert migration.config["adapter"]["balance"] == 3.0
    assert migration.config["training"]["epochs"] == 1
    timed = {
        "sources": [source.id],
        "targets": [target.id],
        "training": training,
        "retraining": training,
    }
    jobs.enqueue(ws, "calibrate", timed | {"adapter": {"hidden": 8}}, title="An old calibration")
    assert execute(ws).status == "finished"
    chosen = {"prompts": source.id, "strategy": "kmeans-variance", "budget": 4, "groups": 2}
    jobs.enqueue(ws, "select", chosen, title="An old selection")
    job = execute(ws)
    assert ws.run(job.run_id).config["groups"] == 2
    assert job.run_id == bench.select(source, strategy="kmeans-variance", budget=4, strata=2).id


def test_costs_and_calibration_have_commands(world):
    bench, source, target = world
    ws, both = bench.workspace, ["--source", source.name, "--target", target.name]
    timed = puma(ws, "plan", "calibrate", *both, "--hidden", "16", "--batch-size", "64")
    assert [run["kind"] for run in timed] == ["calibration"] * 2
    costs = puma(ws, "plan", "costs", *both, "--batch-size", "64")
    assert costs["migration"]["seconds"] > 0 and costs["retraining"]["seconds"] > 0
    predicted = bench.costs(source, target, training={"batch_size": 64})
    assert costs["migration"]["seconds"] == predicted.migration.seconds


def test_predicted_regressions_have_a_command(world):
    bench, source, target = world
    moved = bench.migrate(source, target, training={"epochs": 1}, adapter={"hidden": 8})
    run = puma(bench.workspace, "predict-regressions", moved.id, "--share", "0.25")
    assert run["summary"]["selected"] == 6
    assert run["id"] == bench.predict_regressions(moved, share=0.25).id


REQUESTS = [
    FitRequest(dataset="d", backbone="b", role="random", prompt={"item_tokens": 2}, seed=3),
    SelectionRequest(prompts="p", budget=5, within=("q", "r")),
    MigrationRequest(sources=("p", "q"), target="b", strategy="random", share=0.5, missing="drop"),
    ChainRequest(source="p", targets=("a", "b"), training={"epochs": 2}),
    PlanRequest(sources=("p",), targets=("a", "b"), predicted={"seconds": 3.0}),
    RefineRequest(start="m", item_tokens=1),
    EvaluationRequest(subject="p", split="train"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_requests_round_trip_through_json(request_):
    stored = json.loads(json.dumps(request_.to_dict()))
    assert type(request_).from_dict(stored) == request_
    with pytest.raises(ConfigError, match=r"has no 'wish'; it has .*"):
        type(request_).from_dict(stored | {"wish": 1})


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: FitRequest(dataset="d", backbone="b", role="best"), ConfigError, "role 'best'"),
        (lambda: SelectionRequest(prompts="p"), ConfigError, "needs a budget"),
        (lambda: SelectionRequest(prompts="p", share=2.0), SelectionError, "not 2.0"),
        (
            lambda: SelectionRequest(prompts="p", strategy="all", budget=4),
            ConfigError,
            "takes every user, and a budget of 4 came",
        ),
        (
            lambda: replace(REQUESTS[4], strategy="all", share=0.5),
            ConfigError,
            "takes every user, and a share of 0.5 came",
        ),
        (lambda: MigrationRequest(sources=(), target="b"), MigrationError, "at least one"),
        (lambda: ChainRequest(source="p", targets=()), MigrationError, "at least one"),
        (lambda: PlanRequest(sources=("p",), targets=()), ConfigError, "not 1 and 0; a source is"),
        (lambda: replace(REQUESTS[5], share=0.1), ConfigError, "Item prompts change"),
        (lambda: replace(REQUESTS[2], selection="s"), ConfigError, "not both"),
        (lambda: replace(REQUESTS[3], adapter={"wide": 3}), ConfigError, "no setting wide"),
    ],
)
def test_impossible_requests_are_refused_with_the_reason(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_complete_configuration_replaces_every_default(world):
    bench, source, target = world
    training = TrainingConfig(epochs=1, seed=4)
    run = bench.migrate(source, target, training=training, adapter=AdapterConfig(hidden=8))
    values = training.to_dict()
    assert run.config["training"].items() <= values.items() and run.seed == 4
    assert run.config["adapter"] == AdapterConfig(hidden=8).to_dict()
    by_name = pipeline.migrate(
        bench.workspace, source.name, target.name, training=values, adapter={"hidden": 8}
    )
    assert by_name.id != run.id  # overrides leave the other defaults


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "small"}, "FitRequest needs dataset"),
        ({"dataset": [], "backbone": "small"}, "dataset must be text"),
        ({"dataset": "data", "backbone": True}, "backbone must be text, not True"),
        ({"dataset": "data", "backbone": "small", "seed": 1.5}, "seed must be a whole number"),
        ({"dataset": "data", "backbone": "small", "training": []}, "training must be an object"),
        ({"dataset": "data", "backbone": "small", "training": {"epochs": {}}}, "epochs must be"),
    ],
)
def test_damaged_arguments_of_a_request_are_refused_in_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message):
        request = FitRequest.from_dict(values)
        training_of(fit_defaults("rating", 20), request.training)
