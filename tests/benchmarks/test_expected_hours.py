"""Expected hours of published models: rates from the results, rows from the study's cells."""

import expected_hours
import pytest
import shapes

from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed
from puma_engine.studies import Cell, Options

ROWS = expected_hours.measured_rows()
DATA = expected_hours.Data("films", "rating", 10, DataCounts(100, 10, 20, 50, 60))


def test_every_model_has_rates_and_its_published_size():
    # Billions of parameters, from the pages of the models.
    sizes = {"llama-3.2-1b": 1.24, "llama-3.2-3b": 3.21, "qwen2.5-1.5b": 1.54, "qwen2.5-3b": 3.09}
    sizes |= {"gemma-3-1b": 1.0, "phi-3-mini": 3.82, "phi-4-mini": 3.84, "stablelm-2-1.6b": 1.64}
    assert sizes.keys() == expected_hours.MODELS.keys()
    for name in expected_hours.MODELS:
        total, layers = shapes.weight_counts(name)
        assert total / 1e9 == pytest.approx(sizes[name], abs=0.006) and layers < total
        last, first = (expected_hours.model_speed(ROWS, name, task) for task in ("rating", "click"))
        # One position is computed for an example with the prompt last, and some five with the item first.
        assert last.training > first.training > 0
        assert last.prediction > first.prediction > 0 and min(last.items, first.items) > 0


def test_expected_seconds_count_only_rows_of_the_model():
    prompts = {"training": {"epochs": 3}}
    cells = [
        Cell("films/data", "import_dataset"),
        Cell("films/a", "fit_prompts", {"backbone": "big"} | prompts, {"dataset": "films/data"}),
        Cell("films/b", "fit_prompts", {"backbone": "small"} | prompts, {"dataset": "films/data"}),
        Cell("films/score", "evaluate", {}, {"subject": "films/a"}),
    ]
    speed = ModelSpeed(items=10, training=5, prediction=2)
    expected = 2 * 60 / 10 + 3 * 100 / 5 + (3 * 10 + 20) / 2
    assert expected_hours.study_seconds(speed, cells, "big", DATA) == pytest.approx(expected)


def test_the_page_has_the_present_table():
    page = (expected_hours.RESULTS.parents[1] / "docs" / "bigger-models.md").read_text()
    table = page.partition(expected_hours.MARKS[0])[2].partition(expected_hours.MARKS[1])[0]
    sets = [expected_hours.counted(name) for name in Options().datasets]
    assert table.strip() == expected_hours.table(ROWS, sets)
