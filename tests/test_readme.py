"""The commands and Python lines of the README run as shown, on fewer users."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.store import Workspace

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language, marker):
    """The code block of a language that holds a marker, for 12 users in place of 600."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (text,) = [text for text in blocks if marker in text]
    return text.replace("600", "12")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path


def test_the_commands_and_the_python_lines_run_as_shown_and_return_the_same_runs(folder, capsys):
    for line in block("", "puma plan run").strip().splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert "Full retraining" in (folder / "report.html").read_text(encoding="utf-8")
    runs = {run.id for run in Workspace.open(folder / "workspace").runs()}
    exec(compile(block("python", "Workbench"), "README.md", "exec"), {})
    assert "Full retraining" in capsys.readouterr().out
    assert {run.id for run in Workspace.open(folder / "workspace").runs()} == runs


def test_every_link_has_a_target():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


# Rows of the README's table and the methods of the reports that they show.
METHODS = {
    "full retraining": ["retrained"],
    "PUMA, adapter trained on all users": ["PUMA, all users"],
    "PUMA, adapter trained on 7 % of users": ["PUMA, 7% (kmeans-variance)"],
    "the first, refined for all users": ["PUMA, all users, refined"],
    "check: prompts swapped between users": ["shuffled control"],
    "best without a language model": [
        *("global_mean", "item_mean", "user_item_bias", "matrix_factorisation"),
    ],
}
REPORTS = ("goodbooks", "movietweetings", "goodbooks-to-read")


def test_the_figures_equal_those_of_the_reports():
    lines = [line.strip("|").split("|") for line in README.splitlines() if line.startswith("| ")]
    table = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    for column, dataset in enumerate(REPORTS):
        path = ROOT / "docs" / "results" / dataset / "table2.json"
        summary = json.loads(path.read_text(encoding="utf-8"))["summary"]
        rows = {row["method"]: row for row in summary}
        metric, best = ("rmse", min) if "rmse" in rows["retrained"] else ("uauc", max)
        for label, methods in METHODS.items():
            value = best(rows[method][metric] for method in methods)
            cell = table[label][column]
            assert cell.split()[0] == f"{value:.3f}", (dataset, label)
            if "(" in cell:
                share = 100 * rows[methods[0]]["flops"] / rows["retrained"]["flops"]
                digits = 0 if share > 10 else 1
                assert f"({share:.{digits}f} %)" in cell, (dataset, label, share)
        assert len(table["full retraining"]) >= len(REPORTS)
    excesses = [_excess(dataset) for dataset in REPORTS[:2]]
    for excess, data in zip(excesses, ("books", "films"), strict=True):
        side = "worse" if excess > 0 else "better"
        share = f"{abs(excess):.1%}".replace("%", " %")
        assert f"{share} {side} on {data}" in " ".join(README.split())


def _excess(dataset):
    """Return by how much the error of a migration on 7 % of users exceeds full retraining's."""
    path = ROOT / "docs" / "results" / dataset / "table2.json"
    rows = {row["method"]: row for row in json.loads(path.read_text(encoding="utf-8"))["summary"]}
    return rows["PUMA, 7% (kmeans-variance)"]["rmse"] / rows["retrained"]["rmse"] - 1
