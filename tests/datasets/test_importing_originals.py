"""Original files through stages and commands: documented commands, reports, progress, cancelling."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import original_files as of
import pytest
import typer
from typer.testing import CliRunner

from puma_engine import Workspace, pipeline
from puma_engine.cli import app
from puma_engine.datasets import REGISTRY
from puma_engine.errors import Cancelled, DataError

DOCUMENT = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Small files where the documentation expects the published ones."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "downloads"
    reviews, items = of.amazon_records(users=12, items=32)
    of.write_amazon(folder, "Movies_and_TV.jsonl.gz", (reviews, items), packed=True)
    of.write_yelp(folder / "yelp")
    of.write_mind(folder / "MIND")
    of.write_movielens(folder / "ml-25m")
    rows = [f"u{user},i{item},Book {item},{1 + item % 5}" for user in range(7) for item in range(9)]
    of.write(home / "ratings.csv", ["user_id,item_id,text,outcome", *rows, "u0,i0,Book 0,9"])
    return home


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "workspace", create=True)


def blocks(language):
    rows = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.S | re.M)
    return [body for kind, body in rows if kind == language]


def run(command, workspace, *more):
    words = shlex.split(command)
    assert words[0] == "puma"
    return CliRunner().invoke(app, [*words[1:], "-w", str(workspace), *more])


def test_every_documented_command_runs(downloads, tmp_path, monkeypatch):
    monkeypatch.chdir(downloads)
    commands = [line for block in blocks("") for line in block.splitlines()]
    assert len(commands) == 6
    documented = {}
    for command in commands:
        done = run(command, tmp_path / "workspace", "--json")
        assert done.exit_code == 0, done.output
        documented[command] = json.loads(done.stdout)
    reports = [result["summary"]["report"] for result in documented.values()]
    assert [report["source"] for report in reports[:4]] == ["amazon", "yelp", "mind", "movielens"]
    assert reports[4]["repeats_counted"] == {"users": 12, "items": 32, "records": 12 * 32}
    assert sum(reports[5]["dropped"].values()) == 1


def test_the_documented_python_code_runs(downloads, monkeypatch):
    monkeypatch.chdir(downloads)
    (code,) = blocks("python")
    scope: dict = {}
    exec(code.replace("2_000", "5"), scope)
    assert len(scope["films"].users) == 5


def test_documented_defaults_are_the_real_ones():
    row = re.compile(r"^\| `--([a-z-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", re.M)
    rows = row.findall(DOCUMENT)
    assert len(rows) == 4
    for option, *values in rows:
        for source, value in zip(("amazon", "yelp", "movielens"), values, strict=True):
            default = getattr(REGISTRY[source].settings(), option.replace("-", "_"))
            assert default == float(value), (source, option)
    text = " ".join(DOCUMENT[DOCUMENT.index("MIND has others") :].split())
    mind = REGISTRY["mind"].settings()
    for option, value in re.findall(r"`--([a-z-]+)` ([\d.]+)", text[: text.index("Splits are")]):
        assert getattr(mind, option.replace("-", "_")) == float(value.rstrip(".")), option


def test_every_setting_of_a_source_is_an_option():
    command = typer.main.get_command(app).commands["data"].commands["import"]
    options = {option.name for option in command.params}
    for source in REGISTRY.values():
        if source.settings is not None:
            fields = {field.name for field in dataclasses.fields(source.settings)}
            assert fields <= options, source.name


def test_dropped_rows_are_printed_and_in_json(tmp_path):
    reviews, items = of.amazon_records(items=30)
    file = of.write_amazon(tmp_path, records=([*reviews, "bad", "null"], items[:25]))
    command = f"puma data import amazon {file}"
    people = run(command, tmp_path / "workspace")
    assert people.exit_code == 0, people.output
    for line in (
        "summary.report.read.rows: 362",
        "summary.report.dropped.not a JSON object: 2",
        "summary.report.dropped.of an unknown item, or one without a title: 60",
        "summary.report.kept.rows: 300",
        "summary.report.ratings_file.unusable: 2",
    ):
        assert line in people.stdout
    machine = json.loads(run(command, tmp_path / "workspace", "--json").stdout)
    assert machine["summary"]["report"]["dropped"]["not a JSON object"] == 2
    refused = run(f"{command} --max-bad-share 0.005", tmp_path / "workspace")
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1
    assert "2 of 362 lines cannot be used" in refused.stderr


def test_zero_turns_a_filter_off_on_the_command_line_too(tmp_path):
    file = of.write_amazon(tmp_path, records=of.amazon_records(users=4, items=90))
    command = f"puma data import amazon {file} --min-item-rows 0 --max-rows 0"
    done = json.loads(run(command, tmp_path / "workspace", "--json").stdout)
    assert done["config"]["max_rows"] == 0 and done["summary"]["interactions"] == 4 * 90


def test_the_same_files_and_settings_give_the_same_run(ws, downloads):
    folder = downloads / "downloads" / "ml-25m"
    first = pipeline.import_dataset(ws, "movielens", path=folder)
    assert pipeline.import_dataset(ws, "movielens", path=folder / "ratings.csv").id == first.id
    assert pipeline.import_dataset(ws, "movielens", path=folder, min_rows=20).id == first.id
    assert pipeline.import_dataset(ws, "movielens", path=folder, min_rows=10).id != first.id
    assert pipeline.load_dataset(ws, first).content_hash == first.summary["content_hash"]


def test_histories_are_loaded_from_the_workspace(ws, downloads):
    run_ = pipeline.import_dataset(ws, "mind", path=downloads / "downloads" / "MIND")
    loaded = pipeline.load_dataset(ws, run_)
    assert loaded.content_hash == run_.summary["content_hash"]
    assert {len(past) for past in loaded.interactions["history"]} == {5}


def test_an_import_reports_progress_and_can_be_cancelled(ws, downloads):
    file = downloads / "downloads" / "Movies_and_TV.jsonl.gz"
    reports = []
    limit = {"after": 4}

    def should_cancel():
        return len(reports) >= limit["after"]

    def importing():
        return pipeline.import_dataset(
            ws, "amazon", path=file, progress=reports.append, should_cancel=should_cancel
        )

    with pytest.raises(Cancelled):
        importing()
    (interrupted,) = ws.runs(kind="dataset")
    assert interrupted.status == "interrupted" and len(reports) == 4
    limit["after"] = 10**6
    done = importing()
    assert done.id == interrupted.id and done.status == "finished"
    stages = {report.stage for report in reports}
    assert {"checking Movies_and_TV.jsonl.gz", "reading Movies_and_TV.jsonl.gz (MiB)"} <= stages


def test_a_refused_file_leaves_a_failed_run_and_no_data(ws, tmp_path):
    reviews, items = of.amazon_records()
    file = of.write_amazon(tmp_path, records=([*reviews, *["bad"] * 9], items))
    with pytest.raises(DataError, match="9 of 297 lines"):
        pipeline.import_dataset(ws, "amazon", path=file)
    (failed,) = ws.runs(kind="dataset")
    assert failed.status == "failed"
    assert not list(ws.root.rglob("*.parquet"))
