"""Paired differences over trainings and budgets, against scipy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from puma_engine.errors import SelectionError
from puma_engine.selection.strategies import STRATEGIES
from puma_engine.store import Workspace
from puma_engine.studies import Options, get_study
from puma_engine.studies.differences import differences_over_budgets, paired_t_test
from puma_engine.studies.reports import markdown
from puma_engine.studies.results import (
    _Predictions,
    differences_over_trainings,
    methods_of,
    summary,
)
from puma_engine.studies.shares import shares_of_rows

SHARES, SEEDS = (0.03, 0.1), (0, 1, 2)


def report(strategies, dataset="films"):
    draw = np.random.default_rng(0)
    rows = [
        {"dataset": dataset, "strategy": name, "method": name, "share": share, "seed": seed}
        | {"rmse": 0.9 - better + 0.01 * draw.standard_normal()}
        for name, better in strategies.items()
        for share in SHARES
        for seed in SEEDS
    ]
    summary = [
        {"dataset": dataset, "method": name, "share": share, "rmse": 0.9, "seeds": 3}
        for name in strategies
        for share in SHARES
    ]
    labels = {"study": "table4", "command": "puma study table4", "date": "2026-01-01"}
    return labels | {
        "rows": rows, "summary": summary, "differences": [], "missing": [], "failed": {},
    }  # fmt: skip


def test_predictions_are_joined_by_user_and_item_whatever_their_order(tmp_path):
    ws = Workspace.open(tmp_path, create=True)
    rows = pd.DataFrame({"user_id": [*"aabb"], "item_id": [*"xyxy"], "outcome": [1, 2, 3, 4]})
    runs = []
    for number, order in enumerate(([0, 1, 2, 3], [0, 1, 2, 3], [3, 1, 0, 2])):
        run = ws.begin("evaluation", name=f"e{number}", config={"n": number}, inputs={})
        values = np.arange(4, dtype=np.float32) + 10 * number
        ws.put_table(run.id, "predictions", rows.assign(prediction=values).iloc[order])
        runs.append(ws.finish(run.id, seconds=1, device="cpu"))
    predictions = _Predictions(ws, runs)
    for _ in range(2):
        for number in range(3):
            expected = [10 * number + row for row in range(4)]
            assert predictions.aligned(number, 0).tolist() == expected
            assert predictions.aligned(number, 2).tolist() == [
                expected[row] for row in (3, 1, 0, 2)
            ]


def test_the_interval_equals_that_of_a_paired_t_test():
    study_report = report({"random": 0.0, "kmeans": 0.05})
    scores = {
        name: [row["rmse"] for row in study_report["rows"] if row["strategy"] == name]
        for name in ("random", "kmeans")
    }
    expected = stats.ttest_rel(scores["kmeans"], scores["random"]).confidence_interval(0.95)
    difference = differences_over_budgets(study_report, "films")["kmeans"]
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert difference.pairs == 6 and difference.value == pytest.approx(np.mean(expected))


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=12))
def test_paired_t_test_equals_that_of_scipy(differences):
    test = paired_t_test(differences)
    if len(differences) < 3:
        assert test is None
        return
    assert test.pairs == len(differences) and test.low <= test.value <= test.high
    if np.ptp(differences) > 1e-3:
        expected = stats.ttest_1samp(differences, 0)
        ends = expected.confidence_interval(0.95)
        assert (test.low, test.high) == pytest.approx((ends.low, ends.high))
        assert test.p == pytest.approx(expected.pvalue)


def test_only_common_budgets_and_seeds_are_paired():
    study_report = report({"random": 0.0, "kmeans": 0.05})
    study_report["rows"] = [
        r for r in study_report["rows"] if (r["strategy"], r["share"]) != ("random", 0.1)
    ]
    assert differences_over_budgets(study_report, "films")["kmeans"].pairs == 3
    study_report["rows"] = [r for r in study_report["rows"] if r["seed"] < 2]
    assert (
        differences_over_budgets(study_report, "films")
        == differences_over_budgets(study_report, "books")
        == {}
    )


def test_differences_over_trainings_equal_paired_t_tests():
    inputs = report({"random": 0.0, "kmeans": 0.2, "facility": 0.001})["rows"]
    rows = [row | {"users": 9} for row in inputs]
    differences = differences_over_trainings(get_study("table4"), rows)
    assert [(line["method"], line["share"]) for line in differences] == [
        (name, share) for name in ("kmeans", "facility") for share in SHARES
    ]
    for line in differences:
        scores, random_scores = (
            [r["rmse"] for r in rows if (r["method"], r["share"]) == (name, line["share"])]
            for name in (line["method"], "random")
        )
        expected = stats.ttest_rel(scores, random_scores)
        ends = expected.confidence_interval(0.95)
        assert (line["low"], line["high"]) == pytest.approx((ends.low, ends.high))
        assert line["p"] == pytest.approx(expected.pvalue)
        assert (line["against"], line["over"]) == ({"method": "random"}, "trainings")
    assert [line["real"] for line in differences] == [True, True, False, False]
    few = [row for row in rows if row["seed"] < 2]
    assert differences_over_trainings(get_study("table4"), few) == []


def test_the_table_shows_the_difference_over_budgets():
    study_report = report({"random": 0.0, "kmeans": 0.05})
    (line,) = [line for line in markdown(study_report).splitlines() if line.startswith("| kmeans")]
    difference = differences_over_budgets(study_report, "films")["kmeans"]
    assert line.endswith(
        f"| {difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] | 6 |"
    )
    assert "| random | 0.9000 | 0.9000 | – | – |" in markdown(study_report)


def test_a_study_of_some_strategies_always_includes_random_users():
    options = Options(datasets=("goodbooks",), seeds=(3,), shares=(0.1,), strategies=("facility",))
    cells = get_study("table4").cells(options)
    assert [cell.labels["strategy"] for cell in cells if cell.labels] == ["random", "facility"]
    whole = get_study("table4").cells(replace(options, strategies=()))
    tried = [cell.labels["strategy"] for cell in whole if cell.labels]
    assert sorted(tried) == sorted(set(STRATEGIES) - {"all"})
    with pytest.raises(SelectionError, match=r"no strategy 'best'.*facility"):
        get_study("table4").cells(replace(options, strategies=("best",)))


def rows_of_table2(*, pairs=True):
    """Three seeds of full retraining, random prompts and a migration, and the item mean."""
    scores = {
        ("retrained", "retrained"): [(0.84, 0.60), (0.85, 0.61), (0.83, 0.62)],
        ("random prompts", "random"): [(0.98, 0.50), (0.97, 0.51), (0.99, 0.50)],
        ("PUMA, all users", "migrated"): [(0.85, 0.55), (0.86, 0.57), (0.84, 0.56)],
    }
    rows = [
        {"dataset": "films", "method": method, "kind": kind, "seed": seed}
        | {"rmse": level, "users": 9, "rows": 90, "seconds": 1.0}
        | ({"pair_accuracy": ranking} if pairs else {})
        for (method, kind), of_seeds in scores.items()
        for seed, (level, ranking) in enumerate(of_seeds)
    ]
    baseline = {"dataset": "films", "method": "item_mean", "kind": "baseline", "rmse": 0.95}
    baseline |= {"pair_accuracy": 0.61} if pairs else {}
    return [*rows, baseline | {"users": 9, "rows": 90, "seconds": 1.0}]


def table2_report(rows):
    study_report = {"study": "table2", "command": "c", "date": "d", "rows": rows}
    study_report |= {"missing": [], "failed": {}, "summary": summary(rows)}
    differences = differences_over_trainings(get_study("table2"), rows)
    return study_report | {"differences": differences}


def test_shares_over_trainings_are_ratios_of_mean_gains():
    rows = rows_of_table2()
    lines = shares_of_rows(get_study("table2"), rows, methods_of(rows))
    of_puma = {
        (line["reference"], line["metric"]): line
        for line in lines
        if line["method"] == "PUMA, all users"
    }
    level = of_puma["random", "rmse"]
    assert level["kept"] == pytest.approx(0.13 / 0.14) and level["over"] == "trainings"
    assert level["kept_low"] < level["kept"] < level["kept_high"] and level["seeds"] == 3
    ranking = of_puma["random", "pair_accuracy"]
    assert ranking["kept"] == pytest.approx((0.56 - 1.51 / 3) / (0.61 - 1.51 / 3))
    assert of_puma["item_mean", "rmse"]["kept"] == pytest.approx(0.10 / 0.11)
    # Full retraining does not surely order better than the item mean.
    assert of_puma["item_mean", "pair_accuracy"]["kept"] is None
    assert not any(line["method"] == "retrained" for line in lines)


def test_tables_have_ranking_and_shares_where_they_are_measured():
    text = markdown(table2_report(rows_of_table2()))
    (line,) = [line for line in text.splitlines() if line.startswith("| PUMA, all users")]
    assert "pair accuracy" in text and "0.5600" in line
    assert "RMSE 93 %" in line and "pair accuracy: no sure gain" in line
    older = markdown(table2_report(rows_of_table2(pairs=False)))
    (line,) = [line for line in older.splitlines() if line.startswith("| PUMA, all users")]
    assert "RMSE 93 %" in line and "pair accuracy" not in older
