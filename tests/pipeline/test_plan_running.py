"""Plans: a migration from a data set to a verdict, in stages that are reported and reused."""

from dataclasses import replace
from statistics import median

import pytest
from command_line import puma
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine import Workbench
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.cli.application import app
from puma_engine.errors import Cancelled, ConfigError
from puma_engine.pipeline import judge_comparison, plan_stages, planning
from puma_engine.requests import PlanRequest

SETTINGS = {"strategy": "random", "budget": 6, "training": QUICK, "adapter": SMALL}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with a data set, and two models that are not in it yet."""
    folder = tmp_path_factory.mktemp("whole")
    bench = Workbench(folder / "ws", create=True)
    data = bench.import_dataset("table", path=write_ratings(folder / "r.csv"), task="rating")
    small = str(tiny_backbone_folder(folder / "models", "llama"))
    large = str(tiny_backbone_folder(folder / "models", "qwen2", width=48))
    return bench, data, small, large


@pytest.fixture(scope="module")
def done(world):
    """A whole migration from the data set alone: its comparison, its stages and its reports."""
    bench, data, small, large = world
    question = {"dataset": data.id, "fit_on": small, "targets": large, "retrain": True}
    question |= SETTINGS | {"retraining": QUICK}
    stages = plan_stages(bench.workspace, PlanRequest.from_dict(question))
    reports = []
    return bench.run_plan(**question, progress=reports.append), question, stages, reports


def test_a_plan_goes_from_a_data_set_to_a_verdict(world, done):
    bench, data, small, large = world
    comparison, _question, stages, reports = done
    kinds = ["model", "model", "fit", "migrate", "retrain", "evaluate", "compare"]
    assert [item.kind for item in stages] == kinds
    assert all(item.prediction is None and item.work > 0 for item in stages)
    assert [part["status"] for part in reports[-1].parts] == ["finished"] * len(kinds)
    assert [part["title"] for part in reports[-1].parts] == [item.title for item in stages]
    shares = [report.overall for report in reports]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert comparison.kind == "comparison" and bench.judge(comparison).method is not None
    methods = bench.workspace.get_table(comparison.id, "methods")
    assert {"source", "migrated", "retrained", "baseline"} == set(methods["kind"])
    # The stages, called one by one, make the same runs.
    source = bench.fit_prompts(data, small)
    moved = bench.migrate(source, large, **SETTINGS)
    again = bench.fit_prompts(data, large, role="retrained", training=QUICK)
    lineage = {run.id for run in bench.workspace.lineage(comparison.id)}
    assert lineage >= {source.id, moved.id, again.id}


def test_a_repeated_plan_reuses_every_stage_and_predicts_from_measured_runs(world, done):
    bench, data, _small, large = world
    comparison, question, _stages, _reports = done
    reports = []
    assert bench.run_plan(**question, progress=reports.append).id == comparison.id
    assert {part["status"] for part in reports[-1].parts} == {"reused"}
    stages = {
        item.kind: item for item in plan_stages(bench.workspace, PlanRequest.from_dict(question))
    }
    assert set(stages) == {"fit", "migrate", "evaluate", "compare"}
    source = next(run for run in bench.runs("prompts") if run.config["role"] == "source")
    assert [run.run for run in stages["fit"].prediction.evidence] == [source.id]
    assert stages["evaluate"].prediction.seconds > 0
    # Existing prompts and an existing retraining are reused.
    request = PlanRequest(sources=(source.id,), targets=(large,), **SETTINGS)
    kinds = [item.kind for item in plan_stages(bench.workspace, request)]
    assert kinds == ["migrate", "evaluate", "compare"]
    assert request.dataset is None and source.inputs["dataset"] == data.id


def _stages(bench, **changes):
    request = PlanRequest.from_dict(changes)
    return {item.kind: item for item in plan_stages(bench.workspace, request)}


@pytest.mark.parametrize(
    "changes",
    [
        {"retraining": QUICK | {"epochs": 1}},
        {"retraining": {}},
        {"seed": 1},
        {"template": "rating"},
        {"template": '{"template": "rating-prompt-last", "answers": "bare"}'},
    ],
)
def test_a_retraining_with_other_settings_is_not_reused(world, done, changes):
    bench, question = world[0], done[1]
    assert "retrain" not in _stages(bench, **question)
    assert "retrain" in _stages(bench, **question | changes)


def test_a_plan_is_judged_by_the_retraining_that_it_requests(world, done):
    bench, data, _small, large = world
    weaker = QUICK | {"epochs": 1}
    comparison = bench.run_plan(**done[1] | {"retraining": weaker, "name": "weaker"})
    again = bench.fit_prompts(data, large, role="retrained", training=weaker)
    retrained = [
        run.id
        for run in bench.workspace.lineage(comparison.id)
        if run.kind == "prompts" and run.config["role"] == "retrained"
    ]
    assert retrained == [again.id]
    # The first plan is still judged by its own retraining, although this one is newer.
    assert bench.run_plan(**done[1]).id == done[0].id


def test_by_default_the_newest_retraining_with_the_template_is_the_reference(world, done):
    bench, data, small, large = world
    source = bench.fit_prompts(data, small)
    question = {"sources": source.id, "targets": large} | SETTINGS
    known = [run for run in bench.runs("prompts") if run.config["role"] == "retrained"]
    compare = _stages(bench, **question)["compare"]
    assert known[0].name in compare.title and "other settings" in compare.title
    # Other settings, or another template, need another retraining.
    assert "compare" not in _stages(bench, **question, retraining={"epochs": 7})
    assert "compare" not in _stages(bench, **question, template="rating")
    exact = _stages(bench, **question, retraining=QUICK)["compare"]
    assert exact.title == "Compare with full retraining: the verdict"


def test_the_retraining_of_prompts_with_item_tokens_has_item_tokens(world, done):
    bench, data, small, large = world
    prompt = {"item_tokens": 1, "item_order": "before"}
    source = bench.fit_prompts(data, small, training=QUICK, prompt=prompt)
    question = {"sources": source.id, "targets": large, "retrain": True} | SETTINGS
    question |= {"retraining": QUICK}
    assert _stages(bench, **question)["retrain"].prediction is None  # measured without items only
    comparison = bench.run_plan(**question)
    again = bench.fit_prompts(data, large, role="retrained", training=QUICK, prompt=prompt)
    assert again.id in {run.id for run in bench.workspace.lineage(comparison.id)}


def test_evaluations_are_predicted_from_those_in_the_same_template(world, done):
    bench, question = world[0], done[1]
    methods = bench.workspace.get_table(done[0].id, "methods").set_index("kind")
    moved = bench.run(methods.loc["migrated", "run"])
    other = bench.evaluate(moved, template="rating")
    large = moved.inputs["backbone"]
    rates = {
        run.id: run.seconds / run.summary["rows"]
        for run in bench.runs("evaluation")
        if "prompts" in run.inputs and bench.run(run.inputs["prompts"]).inputs["backbone"] == large
    }
    settings = planning.plan_settings(bench.workspace, PlanRequest.from_dict(question))

    # A blend is computed from predictions, without the model.
    assert bench.evaluate(moved, blend="item_mean").id not in rates
    rates |= {
        run.id: run.seconds / run.summary["rows"]
        for run in [bench.evaluate(moved, split="validation")]
    }

    def predicted(template):
        return planning._predict_evaluation(bench.workspace, large, template, 1.0, "cpu")

    assert predicted(TEMPLATES["rating"]).seconds == pytest.approx(rates.pop(other.id))
    assert predicted(settings.template).seconds == pytest.approx(median(rates.values()))
    assert not predicted(settings.template).other_templates
    for unknown in (
        TEMPLATES["rating-item-first"],
        replace(settings.template, chat_template=True),  # its texts are longer
    ):
        assert predicted(unknown).other_templates
    with_chat_template = planning.costs(
        bench.workspace, **question | {"retrain": False, "chat_template": True}, device="cpu"
    )
    assert (
        with_chat_template.migration.other_templates
        and with_chat_template.retraining.other_templates
    )


def test_the_plan_command_returns_the_same_run(world, done):
    bench, data, small, large = world
    arguments = ["--dataset", data.id, "--fit-on", small, "--target", large, "--retrain"]
    arguments += ["--strategy", "random", "--budget", "6", "--hidden", "16"]
    arguments += ["--epochs", "2", "--batch-size", "64", "--learning-rate", "0.01"]
    printed = puma(bench.workspace, "plan", "run", *arguments)
    # The command line has no options for the retraining, so it uses its defaults.
    assert printed["id"] != done[0].id
    run = bench.run_plan(**done[1] | {"retraining": {}})
    assert printed["id"] == run.id
    command = ["plan", "run", *arguments, "--workspace", str(bench.workspace.root)]
    text = CliRunner().invoke(app, command).stdout
    verdict = judge_comparison(bench.workspace, run)
    assert verdict.headline in text.splitlines() and set(verdict.evidence) <= set(text.splitlines())
    assert f"{run.name} ({run.id})" in text and "difference" in text


def test_a_cancelled_plan_keeps_its_finished_stages(world, done):
    bench = world[0]
    question = done[1] | {"budget": 5}
    reports = []
    with pytest.raises(Cancelled):
        bench.run_plan(
            **question,
            progress=reports.append,
            should_cancel=lambda: (
                bool(reports) and reports[-1].stage == "Evaluate 3 methods on held-out records"
            ),
        )
    statuses = [part["status"] for part in reports[-1].parts]
    assert statuses == ["reused", "finished", "running", "waiting"]
    reports.clear()
    bench.run_plan(**question, progress=reports.append)
    assert [part["status"] for part in reports[-1].parts][:2] == ["reused", "reused"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit_on": ("a",), "targets": ("b",)}, "needs a data set"),
        ({"fit_on": ("a",), "sources": ("p",), "targets": ("b", "c")}, "not 2 and 2"),
        ({"targets": ("b",), "dataset": "d"}, "not 0 and 1"),
    ],
)
def test_a_plan_without_sources_or_a_data_set_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        PlanRequest(**values)
