"""What a move changes for users: which sentence follows from paired differences from the old model."""

import itertools

import pandas as pd
import pytest

from puma_engine.evaluation.source_changes import COLUMNS, source_change

PLANS = {"Migrated": "Migration trained on all users", "Again": "Full retraining"}


def changes(**differences):
    """A table of changes: metric to a (difference, low, high) for each of PLANS."""
    rows = [
        ("Source prompts", method, metric, now + change[0], now, *change, 500)
        for metric, of_plans in differences.items()
        for now in [0.8 if metric == "rmse" else 0.6]
        for method, change in zip([*PLANS, "Other model"], of_plans, strict=False)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("differences", "relation"),
    [
        ([(0.010, 0.004, 0.016), (0.008, 0.004, 0.012)], "worse"),
        ([(0.010, 0.004, 0.016), (0.008, -0.001, 0.012)], "behind"),
        ([(-0.010, -0.016, -0.004), (-0.008, -0.012, -0.004)], "better"),
        ([(-0.010, -0.016, -0.004), (-0.008, -0.012, 0.001)], "ahead"),
        ([(-0.010, -0.016, -0.004), (0.008, -0.001, 0.012)], "mixed"),
    ],
)
def test_the_relation_to_the_old_model_follows_from_the_intervals_of_all_plans(
    differences, relation
):
    for ranking, sign in itertools.product((False, True), (1, -1)):
        # For a metric where higher is better, the same figures mean the opposite.
        opposite = {"worse": "better", "better": "worse", "behind": "ahead", "ahead": "behind"}
        pairs = [(sign * value, *sorted((sign * a, sign * b))) for value, a, b in differences]
        expected = relation if sign == 1 else opposite.get(relation, relation)
        if ranking:
            actual = source_change(changes(rmse=differences, pair_accuracy=pairs), PLANS, "rmse")
            assert actual.ranking == opposite.get(expected, expected) and actual.level == relation
        else:
            actual = source_change(changes(rmse=pairs), PLANS, "rmse")
            assert (actual.level, actual.ranking) == (expected, None)
            assert actual.warns is (expected in ("worse", "behind"))


def test_the_sentence_has_the_best_plan_with_its_interval_in_level_and_ranking():
    table = changes(
        rmse=[(0.012, 0.004, 0.020), (0.008, 0.004, 0.016)],
        pair_accuracy=[(-0.006, -0.012, 0.006), (-0.012, -0.018, -0.006)],
    )
    actual = source_change(table, PLANS, "rmse")
    assert actual.sentence == (
        "Against the old model, which users have now, every plan is surely worse in rating accuracy: "
        "the best, full retraining, has 1 % more error (between 0.5 % more and 2 % more); every plan is "
        "behind in ranking, which may be chance for some: the best, migration trained on all users, has 1 % "
        "less pair accuracy (between 1 % more and 2 % less)."
    )
    # One sentence covers both metrics where they agree.
    same = changes(
        rmse=[(0.012, 0.004, 0.020), (0.008, 0.004, 0.016)],
        pair_accuracy=[(-0.012, -0.018, -0.006), (-0.006, -0.012, -0.003)],
    )
    assert source_change(same, PLANS, "rmse").sentence == (
        "Against the old model, which users have now, every plan is surely worse in rating accuracy and "
        "ranking: the best, full retraining, has 1 % more error (between 0.5 % more and 2 % more) and 1 % "
        "less pair accuracy (between 0.5 % less and 2 % less)."
    )
    single_plan = {"Again": PLANS["Again"]}
    assert (
        "the only plan is surely worse in rating accuracy and ranking: it has 1 % more error"
        in (source_change(table, single_plan, "rmse").sentence)
    )


def test_the_best_old_model_is_the_reference_and_methods_of_other_models_are_ignored():
    level = [(0.01, 0.004, 0.016), (0.008, 0.004, 0.012), (-0.1, -0.2, -0.05)]
    assert source_change(changes(rmse=level), PLANS, "rmse").level == "worse"
    other = changes(rmse=[(-0.2, -0.3, -0.1)] * 2).assign(source="Worse", source_value=1.0)
    actual = source_change(pd.concat([other, changes(rmse=level)]), PLANS, "rmse")
    assert actual.level == "worse" and "the best of the old models (Old model)" in actual.sentence
    assert source_change(changes(), PLANS, "rmse") is None
