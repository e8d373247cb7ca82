"""Damaged reports of studies are refused in a sentence, or read; none ends in a traceback."""

import copy
import json
import random
from pathlib import Path

import pytest

from puma_engine.errors import StoreError
from puma_engine.studies import reports
from puma_engine.studies.reports import figures, load_report, markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"
REPORTS = sorted(RESULTS.rglob("*.json"), key=lambda file: file.stat().st_size)[:12]
OTHERS = (None, [], {}, "x", -1, True, [[1]], {"a": 1}, 1e400)


def places(value, path=()):
    """Every place in a JSON value, by keys and indices."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else items:
        yield from places(item, (*path, key))


def damaged(report, draw):
    """The report with one place removed or replaced by a value of another type."""
    changed = copy.deepcopy(report)
    *path, last = draw.choice([place for place in places(report) if place])
    parent = changed
    for key in path:
        parent = parent[key]
    if draw.random() < 0.4:
        del parent[last]
    else:
        parent[last] = draw.choice(OTHERS)
    return changed


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.stem)
def test_a_damaged_report_is_refused_or_read(file, tmp_path):
    report, draw, refused = json.loads(file.read_text(encoding="utf-8")), random.Random(0), 0
    for number in range(25):
        changed = tmp_path / f"{number}.json"
        changed.write_text(json.dumps(damaged(report, draw)), encoding="utf-8")
        try:
            loaded = load_report(changed, "run the study")
        except StoreError as error:
            assert str(error).endswith("; run the study.")
            refused += 1
            continue
        assert markdown(loaded) and figures(loaded) is not None
    assert refused < 25


def test_a_report_is_rendered_once_to_check_it_and_again_when_it_changed(tmp_path, monkeypatch):
    checked = []
    check = reports._check_content
    monkeypatch.setattr(reports, "_check_content", lambda r: checked.append(r) or check(r))
    content = json.loads(REPORTS[0].read_text(encoding="utf-8")) | {"note": str(tmp_path)}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    for _ in range(3):
        assert load_report(file, "run the study") == content
    assert len(checked) == 1
    for _ in range(2):  # what was refused is not taken for checked
        file.write_text(json.dumps(content | {"rows": 5}), encoding="utf-8")
        with pytest.raises(StoreError, match="cannot be read"):
            load_report(file, "run the study")


def test_a_report_that_is_cut_or_nested_too_deep_is_refused(tmp_path):
    text = REPORTS[0].read_text(encoding="utf-8")
    for number, content in enumerate((text[: len(text) // 2], "[" * 100_000, "[]", "")):
        file = tmp_path / f"{number}.json"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(StoreError, match="cannot be read"):
            load_report(file, "run the study")
