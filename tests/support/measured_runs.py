"""Measured runs with chosen rates, for tests of the cost model."""

from puma_engine.evaluation.cost_model import MeasuredRun


def ran(rate, batch_size=256, preparation=0.0, epochs=2, rows=1000):
    examples = rows * epochs
    seconds = examples / rate
    return MeasuredRun(
        "r", "run", "cpu", batch_size, epochs, examples, seconds, seconds + preparation * rows
    )
