"""Loss traces of jobs: the whole curve in a bounded number of points."""

import itertools

from puma_engine.jobs.runner import MAX_POINTS, LossTrace


def test_losses_are_subsampled_evenly_from_first_to_last():
    trace = LossTrace()
    for step in range(5000):
        trace.add({"stage": "training", "step": step, "loss": 1 / (step + 1)})
    steps = [step for step, _loss in trace.stages["training"]]
    assert steps[0] == 0 and steps[-1] > 4900 and 50 < len(steps) <= MAX_POINTS
    gaps = {b - a for a, b in itertools.pairwise(steps)}
    assert len(gaps) == 1


def test_losses_are_recorded_per_stage_and_reports_without_a_loss_are_ignored():
    trace = LossTrace()
    trace.add({"stage": "reading"})
    trace.add({"stage": "a", "step": 1, "loss": 2.0})
    trace.add({"stage": "b", "step": 1, "loss": 3.0})
    assert trace.stages == {"a": [(1, 2.0)], "b": [(1, 3.0)]}
