"""Cost predictions: proportional to measured runs, with their range and the break-even point."""

from dataclasses import replace

import pytest
from measured_runs import ran

from puma_engine.evaluation.cost_model import (
    break_even,
    money,
    predict_inference_time,
    predict_training_time,
)


def test_prediction_of_a_measured_run_equals_its_time():
    run = ran(500, preparation=0.004)
    prediction = predict_training_time(1000, 2, 256, [run])
    assert prediction.seconds == prediction.low == prediction.high == pytest.approx(run.seconds)
    assert prediction.evidence == (run,) and not prediction.other_batches


def test_predictions_are_predicted_by_their_items_and_pairs():
    run = replace(ran(500, preparation=0.004), items=50)
    assert predict_inference_time(run.examples, 50, [run]).seconds == pytest.approx(run.seconds)
    twice = predict_inference_time(2 * run.examples, 50, [run]).seconds
    assert twice - run.seconds == pytest.approx(run.training_seconds)
    more = predict_inference_time(run.examples, 100, [run]).seconds
    assert more - run.seconds == pytest.approx(run.seconds - run.training_seconds)
    assert predict_inference_time(1000, 50, [ran(500)]) is None  # a training
    short = replace(run, short=True, items=10)
    assert predict_inference_time(1000, 50, [run, short]).evidence == (run,)
    assert predict_inference_time(1000, 50, [short]).evidence == (short,)


def test_time_grows_with_rows_and_epochs():
    runs = [ran(500)]
    assert predict_training_time(3000, 4, 256, runs).seconds == pytest.approx(
        6 * predict_training_time(1000, 2, 256, runs).seconds
    )


def test_prediction_is_the_median_with_the_range_of_the_measured_runs():
    prediction = predict_training_time(
        1000, 1, 256, [ran(100), ran(1000), ran(500), ran(999, batch_size=8)]
    )
    assert (prediction.low, prediction.seconds, prediction.high) == pytest.approx((1, 2, 10))


def test_other_batch_sizes_are_used_only_without_closer_runs():
    prediction = predict_training_time(1000, 1, 64, [ran(100), ran(200)])
    assert prediction.other_batches and len(prediction.evidence) == 2
    assert not predict_training_time(1000, 1, 64, [ran(100), ran(200, batch_size=64)]).other_batches


def test_runs_with_equally_many_sources_are_preferred_and_full_runs_to_calibrations():
    merged = replace(ran(50), sources=2)
    short = replace(ran(25), sources=2, short=True)
    assert predict_training_time(1000, 1, 256, [ran(100), merged, short], 2).evidence == (merged,)
    assert predict_training_time(1000, 1, 256, [ran(100), short], 2).evidence == (short,)
    assert predict_training_time(1000, 1, 256, [ran(100)], 2).other_sources
    closer = replace(short, batch_size=64)
    assert predict_training_time(1000, 1, 64, [merged, closer], 2).evidence == (closer,)


def test_without_closer_runs_those_with_another_template_give_a_guess():
    slow = replace(ran(100), template="rating-item-first")
    fast = replace(ran(500), template="rating-prompt-last", batch_size=64)
    prediction = predict_training_time(1000, 1, 256, [slow, fast], template="rating-prompt-last")
    # The template decides before the batch size does.
    assert prediction.evidence == (fast,) and prediction.seconds == pytest.approx(2)
    assert prediction.mismatches == ["another batch size"]
    guess = predict_training_time(1000, 1, 256, [slow], template="rating-prompt-last")
    assert guess.mismatches == ["another prompt template"] and guess.seconds == pytest.approx(10)
    assert prediction.plus(guess).other_templates
    read = [replace(run, items=50) for run in (slow, fast)]
    assert predict_inference_time(1000, 50, read, "rating-prompt-last").evidence == (read[1],)
    assert predict_inference_time(1000, 50, read[:1], "rating-prompt-last").other_templates


def test_a_cost_without_measurements_is_unknown():
    assert predict_training_time(1000, 1, 64, []) is None


def test_break_even_is_where_both_costs_are_equal():
    users = break_even(600.0, 1000, 120.0)
    assert users == 200
    assert break_even(600.0, 1000, 120.0, all_train=True) == 1
    assert break_even(100.0, 1000, 120.0, all_train=True) is None


def test_hours_and_money_are_proportional_to_seconds():
    assert money(7200, 2.5) == 5


def test_chained_predictions_add_up():
    single = predict_training_time(1000, 1, 256, [ran(100), ran(200)])
    double = single.plus(single)
    assert double.seconds == 2 * single.seconds and double.high == 20 and len(double.evidence) == 2
