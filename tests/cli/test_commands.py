"""The command line: help and documents agree, errors are one line, output is JSON on demand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from puma_engine.cli import app, progress_bars
from puma_engine.cli.application import hoist
from puma_engine.cli.options import HELP, SETTINGS, SETTINGS_HELP, with_options
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.pipeline.stage import StageProgress
from puma_engine.requests import AdapterRequest, MigrationRequest, Request
from puma_engine.store import Workspace

GENERATOR = Path(__file__).parents[2] / "docs" / "generate_cli.py"
ROOT = typer.main.get_command(app)


def commands(command, path=("puma",)):
    """Every command that is not a group, with its full name."""
    if not hasattr(command, "commands"):
        return [(" ".join(path), command)]
    return [
        leaf for name, child in command.commands.items() for leaf in commands(child, (*path, name))
    ]


COMMANDS = dict(commands(ROOT))


@pytest.fixture
def puma(tmp_path):
    """Run a command in the workspace of the test; returns the finished invocation."""

    def run(*words, json_output=True):
        common = ["--workspace", str(tmp_path / "workspace")] + ["--json"] * json_output
        return CliRunner().invoke(app, [*map(str, words), *common])

    return run


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "ratings.csv"
    rows = [
        {"who": f"00{user}", "what": item, "stars": 1 + (user + item) % 5, "title": f"Book {item}"}
        for user in range(6)
        for item in range(10)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


COLUMNS = [
    word
    for pair in ("user_id=who", "item_id=what", "outcome=stars", "text=title")
    for word in ("--column", pair)
]


def test_the_command_reference_in_the_documents_is_current():
    result = subprocess.run(
        [sys.executable, GENERATOR, "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_setting_of_the_engine_is_an_option_with_help():
    for kind, texts in SETTINGS_HELP.items():
        assert set(texts) == set(kind.__dataclass_fields__), kind.__name__
    fit = {option.name for option in COMMANDS["puma prompts fit"].params}
    assert set(TrainingConfig.__dataclass_fields__) <= fit


def test_every_field_of_a_request_is_an_option_unless_another_command_sets_it():
    """A field without a help text has no option; this test catches a forgotten one."""
    set_elsewhere = {"within", "retraining", "predicted"} | set(SETTINGS)
    for kind in Request.__subclasses__() + AdapterRequest.__subclasses__():
        assert set(kind.__dataclass_fields__) - set_elsewhere <= set(HELP), kind.__name__


def test_the_card_of_a_model_reads_as_sentences(puma):
    result = puma("models", "check", "llama-small", "--seconds", "0", json_output=False)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "slot at position" in line]
    assert any(" (the last); answers 1 = " in line for line in lines)
    assert any(re.search("slot at position [0-9]+; answers", line) for line in lines)
    assert not [line for line in lines if re.search(" [,;:]|[,;] ?[;,.]", line)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    command = COMMANDS[name]
    assert command.help
    assert all(getattr(option, "help", None) for option in command.params if option.name != "help")
    assert CliRunner().invoke(app, [*name.split()[1:], "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs", "list", "--json"], ["--json", "runs", "list"]),
        (["runs", "-w", "x", "list"], ["-w", "x", "runs", "list"]),
        (["runs", "--workspace=x", "list"], ["--workspace=x", "runs", "list"]),
        (["runs", "show", "--", "--json"], ["runs", "show", "--", "--json"]),
        (["runs", "--workspace"], ["--workspace", "runs"]),
    ],
)
def test_common_options_may_stand_anywhere(arguments, expected):
    assert hoist(arguments) == expected


def test_import_again_returns_the_same_run(puma, table):
    arguments = ["data", "import", "table", table, "--task", "rating", *COLUMNS, "--name", "mine"]
    first, second = puma(*arguments), puma(*arguments)
    assert first.exit_code == 0, first.output
    run = json.loads(first.stdout)
    assert run == json.loads(second.stdout)
    assert run["summary"]["users"] == 6 and run["status"] == "finished"
    listed = json.loads(puma("runs", "list").stdout)
    assert [entry["id"] for entry in listed] == [run["id"]]
    description = json.loads(puma("data", "show", "mine").stdout)
    assert description["id"] == run["id"]


def test_a_baseline_is_evaluated_and_compared(puma, table):
    assert puma("data", "import", "table", table, "--task", "rating", *COLUMNS).exit_code == 0
    ids = [
        json.loads(puma("evaluate", name, "--dataset", "ratings").stdout)["id"]
        for name in ("global_mean", "item_mean")
    ]
    compared = puma("compare", *ids, "--reference", ids[0], "--name", "both")
    assert compared.exit_code == 0, compared.output
    comparison = json.loads(compared.stdout)
    assert [row["method"] for row in comparison["methods"]] == ["Global mean", "Item mean"]
    lineage = json.loads(puma("runs", "lineage", "both").stdout)
    assert {run["kind"] for run in lineage} == {"comparison", "evaluation", "dataset"}
    assert comparison["verdict"]["decision"] == "incomplete"
    people = puma("compare", ids[0], "--baselines", json_output=False)
    assert people.exit_code == 0 and "User + item bias" in people.stdout
    assert "No verdict yet" in people.stdout
    refused = puma("compare", *ids, "--margin", "2", json_output=False)
    assert refused.exit_code == 1 and "0.01 means 1 %" in refused.stderr


def test_errors_are_one_line_and_exit_1(puma, table):
    missing = ["data", "import", "table", table, "--task", "rating", "--column", "user_id=nobody"]
    for arguments in (missing, ["data", "import", "nowhere"], ["data", "import", "table"]):
        plain = puma(*arguments, json_output=False)
        assert plain.exit_code == 1
        assert plain.stderr.startswith("Error: ") and plain.stderr.count("\n") == 1, plain.stderr
        machine = puma(*arguments)
        assert machine.exit_code == 1 and machine.stdout == ""
        assert set(json.loads(machine.stderr)) == {"error", "type"}


def test_reading_a_missing_workspace_does_not_create_it(puma, tmp_path):
    assert puma("runs", "list").exit_code == 1
    assert not (tmp_path / "workspace").exists()


def test_usage_errors_exit_2(puma):
    assert puma("runs", "explode").exit_code == 2
    assert puma("prompts", "fit").exit_code == 2
    assert puma("data", "import", "table", "x", "--column", "user_id").exit_code == 2


def test_delete_asks_first(puma, table):
    puma("data", "import", "table", table, "--task", "rating", *COLUMNS)
    declined = puma("runs", "delete", "ratings")
    assert declined.exit_code == 1
    assert len(json.loads(puma("runs", "list").stdout)) == 1
    assert puma("runs", "delete", "ratings", "--yes").exit_code == 0
    assert json.loads(puma("runs", "list").stdout) == []


def test_a_command_can_be_queued(puma, table):
    puma("data", "import", "table", table, "--task", "rating", *COLUMNS)
    queued = puma("evaluate", "item_mean", "--dataset", "ratings", "--queue")
    assert queued.exit_code == 0, queued.output
    job = json.loads(queued.stdout)
    assert job["status"] == "queued" and job["command"] == "evaluate"
    assert json.loads(puma("jobs", "list").stdout)[0]["id"] == job["id"]
    cancelled = puma("jobs", "cancel", job["id"])
    assert cancelled.exit_code == 0
    assert json.loads(puma("jobs", "show", job["id"]).stdout)["status"] == "cancelled"


def test_the_title_of_a_queued_job_names_its_runs(puma, table):
    run = json.loads(puma("data", "import", "table", table, "--task", "rating", *COLUMNS).stdout)
    model = json.loads(puma("models", "add", "llama-small").stdout)
    fit = puma("prompts", "fit", "--dataset", run["id"], "--backbone", "llama-small", "--queue")
    assert json.loads(fit.stdout)["title"] == "fitting source prompts on llama-small"
    fit = puma("prompts", "fit", "--dataset", run["id"], "--backbone", model["id"], "--queue")
    assert json.loads(fit.stdout)["title"] == f"fitting source prompts on {model['name']}"


def test_a_worker_runs_queued_jobs(puma, table):
    puma("data", "import", "table", table, "--task", "rating", *COLUMNS)
    job = json.loads(puma("evaluate", "item_mean", "--dataset", "ratings", "--queue").stdout)
    assert puma("worker", "--once", "--device", "cpu").exit_code == 0
    done = json.loads(puma("jobs", "show", job["id"]).stdout)
    assert done["status"] == "finished", done
    run = json.loads(puma("evaluate", "item_mean", "--dataset", "ratings").stdout)
    assert run["id"] == done["run_id"]
    assert json.loads(puma("jobs", "log", job["id"]).stdout)["lines"]


def test_doctor_says_when_a_file_was_changed(puma, table, tmp_path):
    puma("data", "import", "table", table, "--task", "rating", *COLUMNS)
    healthy = puma("doctor")
    assert healthy.exit_code == 0, healthy.output
    file = next((tmp_path / "workspace").rglob("interactions*.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    broken = puma("doctor")
    assert broken.exit_code == 1
    rows = json.loads(broken.stdout)
    assert any(row["check"] == "workspace" and row["status"] == "fail" for row in rows)


@pytest.mark.parametrize(
    "flags", [["--max-norm", "--max-mean-to-std"], ["--norm-limit", "--balance"]]
)
def test_old_options_of_renamed_settings_are_accepted_and_hidden_from_help(flags):
    @with_options("source", "target")
    def command(request: MigrationRequest) -> None:
        """Print the settings."""
        typer.echo(json.dumps(AdapterConfig(**request.adapter).to_dict()))

    cli = typer.Typer()
    cli.command()(command)
    result = CliRunner().invoke(cli, ["a", "b", flags[0], "2", flags[1], "3", "--noise", "0.5"])
    expected = AdapterConfig(max_norm=2.0, max_mean_to_std=3.0, noise=0.5)
    assert json.loads(result.stdout) == expected.to_dict()
    page = CliRunner().invoke(cli, ["--help"]).stdout
    assert "norm-limit" not in page and "--balance" not in page


def test_output_in_an_encoding_that_lacks_a_character_escapes_it(tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    run = ws.begin("dataset", name="книги ✓", config={}, inputs={})
    ws.finish(run.id, seconds=1, device="cpu")
    for arguments in (["runs", "list"], ["runs", "list", "--json"], ["runs", "show", run.id]):
        result = subprocess.run(
            [sys.executable, "-m", "puma_engine.cli", "-w", str(ws.root), *arguments],
            env=os.environ | {"PYTHONIOENCODING": "cp1252"},
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert b"\\u043a\\u043d" in result.stdout


def test_lines_of_progress_write_percentages_as_pages_do(capsys, monkeypatch):
    monkeypatch.setattr(progress_bars, "QUIET_SECONDS", 0.0)
    with progress_bars.watched("study table2") as (show, _should_cancel):
        show(StageProgress("cells", step=21, total=100, overall=0.21))
    assert capsys.readouterr().err.startswith("study table2: 21 %, cells, 21/100")
