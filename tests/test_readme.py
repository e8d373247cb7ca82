"""What the README shows is run as it is shown, on fewer users."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from puma_engine.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language, marker):
    """The code block of a language that holds a marker, for 20 users in place of 600."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (found,) = [text for text in blocks if marker in text]
    return found.replace("600", "20")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path


def test_the_commands_run_as_shown(folder):
    for line in block("", "puma migrate").strip().splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output)
    assert "Full retraining" in done.output


def test_the_python_lines_run_as_shown(folder, capsys):
    exec(compile(block("python", "Workbench"), "README.md", "exec"), {})
    assert "Full retraining" in capsys.readouterr().out


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
