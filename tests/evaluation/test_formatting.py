"""Labels of charts, and the baseline that a chart draws as a line."""

import numpy as np
import pandas as pd
import pytest

from puma_engine.evaluation.formatting import format_change, format_count, shortened
from puma_engine.evaluation.plan_summary import best_baseline, comparison_setup


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Retraining", "Retraining"),
        ("Full retraining", "Full retr…"),
        ("Migrated all", "Migrated…"),
    ],
)
def test_a_text_is_cut_to_so_many_characters(text, cut):
    assert shortened(text, 10) == cut


def test_the_best_baseline_keeps_the_largest_share():
    plans = pd.DataFrame(
        {
            "method": ["Retraining", "Bias", "Factorisation", "Mean"],
            "kind": ["retrained", *["baseline"] * 3],
            "kept": [1.0, 0.4, 0.7, np.nan],
        }
    )
    best = best_baseline(plans)
    assert best is not None and best["method"] == "Factorisation"
    assert best_baseline(plans.assign(kept=np.nan)) is None
    assert best_baseline(plans[plans["kind"] != "baseline"]) is None


@pytest.mark.parametrize(
    ("seeds", "count"), [((0, 0), 1), ((0, 1), 2), ((0, None), 0), ((None, None), 0)]
)
def test_trainings_of_unknown_seeds_are_not_counted_as_one_seed(seeds, count):
    plans = pd.DataFrame({"method": ["Moved", "Retraining"], "kind": ["migrated", "retrained"]})
    plans = plans.assign(is_baseline=[False, True], device="cpu", origin="a", backbone="b")
    plans = plans.assign(seed=pd.Series(seeds, dtype=float))
    assert comparison_setup(plans, "Moved", 5, "books, test").seeds == count


def test_nouns_are_in_the_plural_except_after_one():
    counts = [format_count(number, "seed") for number in (0, 1, 2, 2000)]
    assert counts == ["0 seeds", "1 seed", "2 seeds", "2,000 seeds"]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.003, "0.3 % more error (between 1 % less and 2 % more) than retraining"),
        (-0.003, "0.3 % less error (between 1 % less and 2 % more) than retraining"),
        (0.0004, "the same error (between 1 % less and 2 % more) as retraining"),
    ],
)
def test_a_difference_that_rounds_to_0_percent_is_called_the_same_error(loss, words):
    change = {"low": -0.01, "high": 0.02, "base": 1.0, "noun": "error", "higher_is_better": False}
    assert format_change(loss, **change, reference="retraining") == words
    assert format_change(loss, **change) == words.rpartition(")")[0] + ")"
