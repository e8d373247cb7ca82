"""docs/demo.md lists the steps that the browser test and the recorder take."""

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from dashboard import presenter

SCRIPT = Path(__file__).parents[2] / "docs" / "demo.md"


def test_the_document_has_the_steps_in_their_order():
    rows = re.findall(r"^\| ([A-Z][^|]*?) \|", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [step.title for step in presenter.STEPS]
