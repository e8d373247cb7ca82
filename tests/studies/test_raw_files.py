"""Studies of original files: one command from the raw files to the table, as the document shows."""

import json
import re
import shlex
from pathlib import Path

import original_files as of
import pytest
from small_runs import write_ratings
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.errors import ConfigError, DataError
from puma_engine.studies import STUDIES, Options
from puma_engine.studies.builder import ALL_USERS
from puma_engine.studies.study_data import study_data

DOCUMENT = (Path(__file__).parents[2] / "docs" / "bigger-models.md").read_text(encoding="utf-8")
COMMANDS = {
    command.partition("--dataset ")[2].partition("=")[0]: command
    for command in re.findall(r"^puma study .*=downloads(?:.*\\\n)*.*$", DOCUMENT, re.M)
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Small files where the documentation expects the published ones, and two small models."""
    home = tmp_path_factory.mktemp("raw")
    reviews, items = of.amazon_records(users=12, items=32)
    of.write_amazon(home / "downloads", "Movies_and_TV.jsonl.gz", (reviews, items), packed=True)
    of.write_yelp(home / "downloads" / "yelp", of.yelp_records(users=12))
    of.write_mind(home / "downloads" / "MIND")
    write_ratings(home / "own.csv")
    for family in ("llama", "qwen2"):
        tiny_backbone_folder(home, family)
    return home


@pytest.mark.parametrize("source", COMMANDS)
def test_the_documented_command_leads_from_raw_files_to_the_table(home, source, monkeypatch):
    monkeypatch.chdir(home)
    command = COMMANDS[source].replace("\\\n", " ")
    for model, folder in (("1B", "llama"), ("3B", "qwen2")):
        command = command.replace(f"meta-llama/Llama-3.2-{model}-Instruct", str(home / folder))
    # All cells of table2 run on one of them; on the others a study with a third of the trainings.
    study = "table2" if source == "amazon" else "table3"
    command = command.replace("table2", study)
    words = [*shlex.split(command)[1:], "--seed", "0", "--share", "0.5", "--default-settings"]
    done = CliRunner().invoke(app, [*words, "-w", str(home / source)])
    assert done.exit_code == 0, done.output
    report = json.loads((home / "results" / source / f"{study}.json").read_text(encoding="utf-8"))
    assert not report["failed"] and not report["missing"]
    rows = {row["method"]: row for row in report["rows"]}
    assert {ALL_USERS, "matrix_factorisation"} <= set(rows)
    assert {row["dataset"] for row in report["rows"]} == {study_data(words[3]).name}
    metric = "uauc" if source == "mind" else "rmse"
    assert rows[ALL_USERS][metric] > 0 and rows[ALL_USERS]["users"] > 5


def test_the_document_has_a_command_for_each_data_set_of_the_paper():
    assert list(COMMANDS) == ["amazon", "yelp", "mind"]


def test_files_are_named_as_their_import_names_them(home):
    amazon = study_data(f"amazon={home}/downloads/Movies_and_TV.jsonl.gz")
    assert amazon.name == "amazon-Movies_and_TV" and amazon.task == "rating"
    assert study_data(f"mind={home}/downloads/MIND").task == "click"
    own = study_data(f"rating={home}/own.csv")
    assert own.settings == {"source": "table", "path": f"{home}/own.csv", "task": "rating"}
    assert study_data("goodbooks").settings == {"source": "goodbooks"}
    options = Options(datasets=(f"rating={home}/own.csv",), seeds=(0,), users=9)
    data, *others = STUDIES["table3"].cells(options)
    assert data.settings == own.settings | {"users": 9}
    assert {cell.labels["dataset"] for cell in others if cell.labels} == {"rating-own"}


def test_a_table_never_has_the_name_of_a_shipped_data_set(home):
    (home / "goodbooks.csv").write_text("user_id,item_id,rating\n")
    assert study_data(f"rating={home}/goodbooks.csv").name == "rating-goodbooks"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("nothing", DataError, "no data set 'nothing'"),
        ("goodbooks=/tmp", ConfigError, "names no source of original files.*amazon.*, click"),
        ("yelp=", ConfigError, "as yelp=PATH"),
        ("mind=/none", ConfigError, "nothing at '/none'.*mind=PATH"),
    ],
)
def test_what_is_no_data_set_is_refused(text, error, said):
    with pytest.raises(error, match=said):
        study_data(text)
