"""The time left as a range of measured speeds."""

import pytest

from puma_engine.jobs.time_left import TimeLeft, share_done


class Work:
    """Progress reports of simulated work, on a simulated clock."""

    def __init__(self):
        self.now = 0.0
        self.left = TimeLeft(lambda: self.now)

    def report(self, at, **report):
        self.now = at
        self.left.add(report)


def test_no_time_left_is_given_before_enough_is_measured():
    work = Work()
    work.report(0.0, stage="loading")
    assert work.left.seconds() is None
    for second in range(3):
        work.report(0.1 * second, stage="fit", step=second, total=100)
    assert work.left.seconds() is None  # three steps in 0.2 s are too few
    work.report(5.0, stage="fit", step=10, total=100)
    assert work.left.seconds() is not None


def test_a_steady_speed_gives_the_time_that_it_takes():
    work = Work()
    for second in range(11):
        work.report(float(second), stage="fit", step=second, total=100)
    assert work.left.seconds() == pytest.approx((90.0, 90.0))


def test_work_that_slows_down_lies_between_both_speeds():
    work = Work()
    for second in range(11):
        work.report(float(second), overall=0.02 * second)
    for second in range(11, 21):
        work.report(float(second), overall=0.2 + 0.01 * (second - 10))
    low, high = work.left.seconds()
    assert low == pytest.approx(0.7 / (0.3 / 20)) and high == pytest.approx(0.7 / 0.01)


def test_a_stalled_job_has_more_time_left_without_a_report():
    work = Work()
    for second in range(11):
        work.report(float(second), overall=0.05 * second)
    before = work.left.seconds()
    work.now = 30.0
    assert work.left.seconds()[1] > before[1] * 2


def test_unmeasured_stages_to_come_widen_the_range():
    work = Work()
    for second in range(11):
        work.report(float(second), overall=0.05 * second, unmeasured=1.0)
    assert work.left.seconds() == pytest.approx((5.0, 20.0))


def test_stages_with_guessed_times_are_not_estimated_from_the_first_short_ones():
    """A tenth of the work took 4 s and the rest takes 111 s: nothing is said before it is known."""
    work = Work()
    for second in range(5):
        work.report(float(second), overall=0.025 * second, unmeasured=1.0)
    assert work.left.seconds() is None
    speed, share, now = 0.9 / 111, 0.1, 4.0
    while share < 0.99:
        share, now = share + speed, now + 1.0
        work.report(now, overall=share, unmeasured=1.0)
        if (left := work.left.seconds()) is not None:
            low, high = left
            assert low <= 115.0 - now <= high
    assert left is not None
    # Steps of one training, or stages with measured times, are judged at once.
    steady = Work()
    for second in range(5):
        steady.report(float(second), overall=0.01 * second)
    assert steady.left.seconds() == pytest.approx((96.0, 96.0))


def test_a_resumed_job_is_judged_by_its_own_steps():
    work = Work()
    for second in range(6):
        work.report(float(second), stage="fit", step=50 + second, total=100)
    assert work.left.seconds() == pytest.approx((45.0, 45.0))


def test_steps_of_another_stage_do_not_count():
    work = Work()
    for second in range(6):
        work.report(float(second), stage="reading", step=second, total=5)
    work.report(6.0, stage="fit", step=0, total=100)
    assert work.left.seconds() is None


def test_many_reports_keep_the_estimate():
    work = Work()
    for step in range(5000):
        work.report(0.01 * step, stage="fit", step=step, total=10_000)
    low, high = work.left.seconds()
    assert low == pytest.approx(50.0, rel=0.02) and high == pytest.approx(50.0, rel=0.02)


@pytest.mark.parametrize(
    ("report", "share"),
    [({}, None), ({"step": 1, "total": 4}, 0.25), ({"overall": 0.5, "step": 1, "total": 4}, 0.5)],
)
def test_the_share_done_covers_all_stages_if_it_is_known(report, share):
    assert share_done(report) == share
