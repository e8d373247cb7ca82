"""How many seeds would decide a claim: the same test over trainings, with that many of them."""

import numpy as np
import pytest
from claim_reports import main_results, moved, report, retrained

from puma_engine.studies.claims import CLAIMS
from puma_engine.studies.differences import PairedDifference, paired_t_test
from puma_engine.studies.seeds_needed import MOST_SEEDS, seeds_for_claim, seeds_to_decide

ASSESS = {claim.name: claim.assess for claim in CLAIMS}


def losses(count, mean, sd):
    """Losses of trainings with exactly this mean and standard deviation."""
    values = np.arange(count) - (count - 1) / 2
    return list(mean + sd * values / np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("mean", "sd", "limit"), [(0.01, 0.02, 0.0), (-0.003, 0.01, 0.0), (0.01, 0.004, 0.012)]
)
def test_the_interval_over_so_many_trainings_excludes_the_limit_and_over_one_less_does_not(
    mean, sd, limit
):
    needed = seeds_to_decide(losses(5, mean, sd), limit)
    assert needed > 5

    def excludes(count):
        test = paired_t_test(losses(count, mean, sd))
        return test.high < limit or test.low > limit

    assert excludes(needed) and not excludes(needed - 1)


def test_more_spread_needs_more_seeds_and_a_mean_at_the_limit_is_never_decided():
    counts = [seeds_to_decide(losses(5, 0.01, sd)) for sd in (0.001, 0.01, 0.02, 0.05)]
    assert counts == sorted(counts) and counts[0] == 5
    assert seeds_to_decide(losses(5, 0.01, 0.02), 0.01) is None
    assert seeds_to_decide([0.01]) is None
    # Two trainings say how far they lie apart, but a verdict takes three.
    assert seeds_to_decide([0.01, 0.0100001]) == 3


def difference(mean, sd, *, users=None, metric="rmse"):
    """A difference whose interval over users lies around its mean, unless it is given."""
    first = dict(enumerate(losses(5, mean, sd)))
    low, high = users or (mean - 1e-4, mean + 1e-4)
    return PairedDifference(metric, first, dict.fromkeys(first, 0.0), low, high, 100)


def test_seeds_do_not_help_where_users_lie_on_both_sides_of_the_limit():
    assert seeds_for_claim([(difference(0.01, 0.02), 0.0)]) > 5
    assert seeds_for_claim([(difference(0.01, 0.02, users=(-0.01, 0.03)), 0.0)]) is None
    # A gain of uAUC is a loss below zero.
    parts = [(difference(0.01, 0.02, users=(0.005, 0.02), metric="uauc"), 0.0)]
    assert seeds_for_claim(parts) == seeds_for_claim([(difference(-0.01, 0.02), 0.0)])


def test_all_parts_must_lie_within_their_limits_and_one_beyond_its_own_decides():
    near, far = difference(-0.01, 0.02), difference(-0.01, 0.05)
    beyond, more = difference(0.01, 0.03), difference(0.01, 0.06)

    def seeds(*parts):
        return seeds_for_claim([(part, 0.0) for part in parts])

    assert seeds(near, far) == seeds(far) > seeds(near)
    assert seeds(near, beyond) == seeds(beyond)
    assert seeds(beyond, more) == seeds(beyond)
    assert seeds(near, difference(-0.01, 5.0)) is None


def test_an_undecided_claim_says_how_many_more_seeds_would_settle_it():
    scores = [score - 0.005 for score in losses(5, 0.84, 0.006)]
    scattered = moved(-0.005, seeds=5)
    scattered["scores"], scattered["ends"] = scores, (-0.006, -0.004)
    judged = ASSESS["all-users"](report("table2", [retrained(5), scattered]), "goodbooks")
    assert judged.verdict == "undecided" and 0 < judged.more_seeds < MOST_SEEDS
    expected = f"About {judged.more_seeds} more seed"
    assert judged.outlook.startswith(expected)
    # With the same mean and spread, that many further seeds do settle it.
    again = moved(-0.005, seeds=5 + judged.more_seeds)
    again["ends"] = scattered["ends"]
    base = retrained(5 + judged.more_seeds)
    apart = np.subtract(scores, retrained(5)["scores"])
    of_more = losses(len(base["scores"]), apart.mean(), apart.std(ddof=1))
    again["scores"] = list(np.add(base["scores"], of_more))
    judged = ASSESS["all-users"](report("table2", [base, again]), "goodbooks")
    assert judged.verdict == "reproduced" and judged.outlook == "" and judged.more_seeds is None


def test_a_claim_that_users_leave_open_says_that_seeds_alone_do_not_help():
    judged = ASSESS["all-users"](main_results(0.0), "goodbooks")
    assert judged.verdict == "undecided" and judged.more_seeds is None
    assert judged.outlook == "More seeds alone are unlikely to settle it."
