"""The claims of the paper, each with its study and the rule for its verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from puma_engine.defaults import MARGIN, PAPER_STRATEGY
from puma_engine.evaluation.formatting import format_count
from puma_engine.evaluation.metrics import METRICS
from puma_engine.studies.builder import ALL_USERS, SMALL_SHARE, few_users
from puma_engine.studies.differences import (
    MIN_TRAININGS,
    Bounds,
    PairedDifference,
    Report,
    Row,
    find_differences,
    indirect_difference,
    mean_difference,
    rows_with,
    scores_by_seed,
)
from puma_engine.studies.seeds_needed import seeds_for_claim

Verdict = Literal["reproduced", "not reproduced", "undecided", "no evidence"]

FEW_USERS, FEW_RANDOM_USERS = few_users(PAPER_STRATEGY), few_users("random")
# "A few users suffice" allows this loss, as a share of full retraining's score.
FEW_USERS_MARGIN = 0.02
# "Up to 98 % less" allows this share of full retraining's seconds.
COST_SHARE = 0.02
# The smallest gain of a pair in Figure 4.
LOWEST_GAIN = 0.9856
_BUDGET = re.compile(r"PUMA, (\d+)%")
# Migrations of table2 on few users by the paper's strategy; see few_users.
_SHARE = re.compile(rf"PUMA, (\d+)% \({PAPER_STRATEGY}\)")


@dataclass(frozen=True)
class DecidingInterval:
    """An interval of a difference that decides a claim, with the sign of the figures.

    label: the difference, and whether the interval is over users or trainings. value: the
    difference. limit: the difference up to which the claim holds.
    """

    label: str
    value: float
    low: float
    high: float
    limit: float = 0.0


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict of a report on a claim for one data set: the verdict, its figures, its seeds.

    intervals: those that decide. axis: title and unit of their axis. more_seeds: about how many
    further seeds would decide an undecided claim, if mean and spread stay the same; None: no number
    is likely to.
    """

    verdict: Verdict
    figures: str
    seeds: int
    intervals: tuple[DecidingInterval, ...] = ()
    axis: str = ""
    more_seeds: int | None = None

    @property
    def outlook(self) -> str:
        """Sentence with the number of seeds that would decide an undecided claim; empty for a decided one."""
        if self.verdict != "undecided":
            return ""
        if self.seeds < MIN_TRAININGS:
            return f"A verdict needs at least {MIN_TRAININGS} seeds."
        if self.more_seeds is None:
            return "More seeds alone are unlikely to settle it."
        return (
            f"About {format_count(self.more_seeds, 'more seed')} would settle it, if their mean and spread stay "
            "as measured."
        )


Assess = Callable[[Report, str], ClaimVerdict | None]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the study that tests it, and its rule in words and as code.

    assess: takes a report and a data set, and returns None if the report lacks the rows. ranking:
    whether the rule can also be applied to differences in ranking, because it has no margin of the
    primary metric.
    """

    name: str
    text: str
    study: str
    rule: str
    assess: Assess
    ranking: bool = False

    def assess_ranking(self, report: Report, dataset: str) -> ClaimVerdict | None:
        """Assess a claim by the report's differences in ranking; None if it has none."""
        if not self.ranking or not report.get("ranking_differences"):
            return None
        return self.assess(report | {"differences": report["ranking_differences"]}, dataset)


INTERVALS = (
    "Intervals are 95 %, over resampled users and over trainings (Student's t). Both must agree, or the claim is "
    "undecided. It is undecided, too, with fewer than three seeds, which do not show how far trainings lie apart."
)
IN_RANKING = (
    "A verdict is about the main metric, RMSE or uAUC. Where a report has pair accuracy, the ranking of ratings, claims "
    "without a margin have a second verdict, about that, by the same rule."
)
NO_INTERVAL = "The report holds no interval of this difference over users, so the interval over trainings decides."
FEW = f"{100 * SMALL_SHARE:g} % of the users"

CLAIMS: list[Claim] = []


def _claim(
    name: str, text: str, study: str, rule: str, *, ranking: bool = False
) -> Callable[[Assess], Assess]:
    """Declare a claim by the function that assesses it."""

    def declare(assess: Assess) -> Assess:
        CLAIMS.append(Claim(name, text, study, rule, _with_enough_seeds(assess), ranking))
        return assess

    return declare


def _with_enough_seeds(assess: Assess) -> Assess:
    """Return a rule whose verdicts on too few seeds are undecided."""

    def assess_seeds(report: Report, dataset: str) -> ClaimVerdict | None:
        verdict = assess(report, dataset)
        if verdict is None or verdict.seeds >= MIN_TRAININGS:
            return verdict
        more = max(verdict.more_seeds or 0, MIN_TRAININGS - verdict.seeds)
        return replace(verdict, verdict="undecided", more_seeds=more)

    return assess_seeds


def decide(loss_intervals: Sequence[Bounds], margin: float = 0.0) -> Verdict:
    """Return the verdict from intervals of a loss: reproduced if all are at or below the margin, not if all are above."""
    if all(high <= margin for _, high in loss_intervals):
        return "reproduced"
    return "not reproduced" if all(low > margin for low, _ in loss_intervals) else "undecided"


@_claim(
    "all-users",
    "A migration trained on all users is at least as good as full retraining.",
    "table2",
    "Reproduced if the interval of the difference from full retraining lies at zero or on the "
    "better side; not reproduced if it lies on the worse side.",
    ranking=True,
)
def assess_all_users(report: Report, dataset: str) -> ClaimVerdict | None:
    difference = _difference_of(report, dataset, ALL_USERS)
    if difference is None:
        return None
    return _verdict(difference, decide(difference.loss_intervals), "full retraining")


@_claim(
    "few-users",
    "A few well-chosen users suffice.",
    "table2",
    f"Training on {FEW}, by clusters and variance. Reproduced if the "
    f"interval of the loss lies within {100 * FEW_USERS_MARGIN:g} % of full retraining's figure; not "
    "reproduced if it lies beyond.",
)
def assess_few_users(report: Report, dataset: str) -> ClaimVerdict | None:
    difference = _difference_of(report, dataset, FEW_USERS)
    if difference is None:
        return None
    limit = FEW_USERS_MARGIN * difference.scores[1]
    verdict = decide(difference.loss_intervals, limit)
    return _verdict(difference, verdict, "full retraining", _loss_share(difference), limit)


@_claim(
    "cost",
    "A migration costs up to 98 % less.",
    "table2",
    "Training on a share of the users, chosen by clusters and variance, against full retraining: its arithmetic "
    "without the search for settings, or its seconds on the same device in reports that count no arithmetic. "
    f"Reproduced if a share costs at most {100 * COST_SHARE:g} % with every seed and its loss lies within "
    f"{100 * FEW_USERS_MARGIN:g} %; not reproduced if every share costs more with every seed or loses more.",
)
def assess_cost(report: Report, dataset: str) -> ClaimVerdict | None:
    budgets = [
        budget
        for line, difference in find_differences(report, dataset, _is_few_users)
        if (budget := _budget_cost(report, dataset, line["method"], difference)) is not None
    ]
    if not budgets:
        return None
    # The budget with the result nearest to the claim decides.
    order = ("reproduced", "undecided", "not reproduced")
    return min(
        budgets,
        key=lambda budget: (
            order.index(budget[0].verdict),
            order.index(budget[1]),
            budget[0].intervals[0].value,
        ),
    )[0]


def _is_few_users(line: Row) -> bool:
    return bool(_SHARE.fullmatch(line["method"]))


def _budget_cost(
    report: Report, dataset: str, method: str, difference: PairedDifference
) -> tuple[ClaimVerdict, Verdict] | None:
    """Return the verdict on the cost of one budget, and on its loss alone; None if it was not measured."""
    migrated, retrained = (
        {row["seed"]: row for row in rows_with(report, {"dataset": dataset, "method": name})}
        for name in (method, "retrained")
    )
    pairs = [(migrated[seed], retrained[seed]) for seed in sorted(migrated.keys() & retrained)]
    rows = [row for pair in pairs for row in pair]
    timed = all(row.get("seconds") and row.get("device") for row in rows)
    timed = timed and len({row["device"] for row in rows}) == 1
    counted = all(row.get("flops") for row in rows)
    if not rows or not (counted or timed):
        return None
    unit = "flops" if counted else "seconds"
    shares = [row[unit] / base[unit] for row, base in pairs]
    cost: Verdict = "undecided"
    if max(shares) <= COST_SHARE:
        cost = "reproduced"
    elif min(shares) > COST_SHARE:
        cost = "not reproduced"
    limit = FEW_USERS_MARGIN * difference.scores[1]
    loss = decide(difference.loss_intervals, limit)
    verdict: Verdict = "undecided"
    if cost == loss == "reproduced":
        verdict = "reproduced"
    elif "not reproduced" in (cost, loss):
        verdict = "not reproduced"

    def means(name: str) -> tuple[float, float]:
        first, second = (sum(float(row[name]) for row in side) for side in zip(*pairs, strict=True))
        return first / len(pairs), second / len(pairs)

    parts = []
    if counted:
        first, second = means("flops")
        parts.append(
            f"{_change(first, second, 'less')} arithmetic: {first / 1e12:.3g} TFLOP against "
            f"{second / 1e12:.3g} of full retraining"
        )
    if timed:
        first, second = means("seconds")
        parts.append(
            f"{_change(first, second, 'fewer')} seconds: {first:.1f} s against "
            f"{second:.1f} s{'' if counted else ' of full retraining'} on {rows[0]['device']}"
        )
    match = _SHARE.fullmatch(method)
    assert match is not None
    parts.append(f"on {match[1]} % of the users, {_loss_share(difference)}")
    text = _with_size("; ".join(parts), len(pairs), rows[0]["users"])
    mean = sum(shares) / len(shares)
    interval = DecidingInterval("all seeds", mean, min(shares), max(shares), COST_SHARE)
    axis = f"Share of full retraining's {'arithmetic' if counted else 'seconds'}, lowest to highest seed"
    more = _more_seeds(verdict, [(difference, limit)]) if cost == "reproduced" else None
    return ClaimVerdict(verdict, text, len(pairs), (interval,), axis, more), loss


@_claim(
    "selection",
    "Clusters and variance choose better users than chance.",
    "table4",
    f"The strategy {PAPER_STRATEGY} against random users, in the mean over the report's budgets. "
    "Reproduced if the interval of the difference lies on the better side; not reproduced if "
    "it lies on the worse side. The interval over users is the mean of those of the "
    "budgets, which is at least as wide as that of the mean.",
    ranking=True,
)
def assess_selection(report: Report, dataset: str) -> ClaimVerdict | None:
    lines = find_differences(report, dataset, lambda line: line["method"] == PAPER_STRATEGY)
    difference = mean_difference([pair for _, pair in lines])
    if difference is None:
        return None
    budgets = [
        f"{_percent(line['share'], 0)} {pair.value:+.4f} {_intervals(pair)}"
        for line, pair in sorted(lines, key=lambda pair: pair[0]["share"])
    ]
    details = f"mean over budgets: on {'; on '.join(budgets)}"
    return _verdict(difference, decide(difference.loss_intervals), "random users", details)


@_claim(
    "taste",
    "Source prompts carry each user's taste into the new model.",
    "table2",
    "A migration against the same one with the source prompts shuffled between users. "
    f"Reproduced if it is better. {NO_INTERVAL}",
    ranking=True,
)
def assess_taste(report: Report, dataset: str) -> ClaimVerdict | None:
    migrated = _difference_of(report, dataset, FEW_RANDOM_USERS)
    shuffled = _difference_of(report, dataset, "shuffled control")
    difference = indirect_difference(migrated, shuffled) if migrated and shuffled else None
    if difference is None:
        return None
    return _verdict(difference, decide(difference.loss_intervals), "the shuffled control")


@_claim(
    "pairs",
    f"Migrating gains between models of all families (Figure 4: RMSE ratios of {LOWEST_GAIN} to 1.0299).",
    "figure4",
    "The mean difference from full retraining over all ordered pairs. Reproduced if its "
    f"interval lies at zero or on the better side and no pair's gain is below {LOWEST_GAIN}, "
    "the paper's lowest; not reproduced if it lies on the worse side. Its ends are the means "
    "of those of the pairs, so it is at least as wide as the interval of the mean.",
)
def assess_pairs(report: Report, dataset: str) -> ClaimVerdict | None:
    lines = find_differences(report, dataset, lambda line: line["method"] == "migrated")
    difference = mean_difference([pair for _, pair in lines])
    if difference is None:
        return None
    gains = []
    for _, pair in lines:
        migrated, retrained = pair.scores
        gains.append(retrained / migrated if pair.loss_sign > 0 else migrated / retrained)
    worse = sum(line["real"] and pair.loss > 0 for line, pair in lines)
    better = sum(line["real"] and pair.loss < 0 for line, pair in lines)
    verdict = decide(difference.loss_intervals)
    if verdict == "reproduced" and min(gains) < LOWEST_GAIN:
        verdict = "undecided"
    details = (
        f"means of {format_count(len(lines), 'pair')}, whose gains are {min(gains):.3f} to "
        f"{max(gains):.3f}; {better} are better and {worse} worse by more than chance"
    )
    return _verdict(difference, verdict, "full retraining", details)


@_claim(
    "sources",
    "Several sources beat a single one (Figure 6).",
    "figure6",
    "The mean of all aggregations of two or three sources against the mean of all single sources. "
    f"Reproduced if it is better; not reproduced if it is worse. {NO_INTERVAL}",
    ranking=True,
)
def assess_sources(report: Report, dataset: str) -> ClaimVerdict | None:
    differences = find_differences(report, dataset, lambda line: bool(line.get("sources")))
    single = mean_difference([pair for line, pair in differences if line["sources"] == 1])
    several = mean_difference([pair for line, pair in differences if line["sources"] > 1])
    difference = indirect_difference(several, single) if single and several else None
    if difference is None:
        return None
    verdict = decide(difference.loss_intervals)
    return _verdict(difference, verdict, "one source", "means of all combinations")


@_claim(
    "chains",
    "Chains lose little a hop (Figure 5).",
    "figure5",
    "Every chain against a direct migration to its last model. Reproduced if the intervals of "
    f"all lie within {100 * MARGIN:g} % of its figure for each hop after the first; not reproduced "
    "if that of any chain lies beyond.",
)
def assess_chains(report: Report, dataset: str) -> ClaimVerdict | None:
    chains = find_differences(report, dataset, lambda line: line["method"] == "chain")
    if not chains:
        return None
    # Losses are in units of each chain's margin, so that the margin of all chains is 1.
    scaled, limits = [], []
    deciding: list[DecidingInterval] = []
    for line, pair in sorted(chains, key=lambda chain: chain[0]["hops"]):
        margin = MARGIN * (line["hops"] - 1) * pair.scores[1]
        limits.append((pair, margin))
        scaled.append([(low / margin, high / margin) for low, high in pair.loss_intervals])
        deciding += _deciding(pair, f"{line['hops']} hops, ", margin)
    verdict = decide([interval for intervals in scaled for interval in intervals], 1.0)
    if any(decide(intervals, 1.0) == "not reproduced" for intervals in scaled):
        verdict = "not reproduced"
    parts = [
        f"{line['hops']} hops {pair.value:+.4f} {_intervals(pair)}"
        for line, pair in sorted(chains, key=lambda chain: chain[0]["hops"])
    ]
    _, first = chains[0]
    figures = f"{METRICS[first.metric].label} against a direct migration: {', '.join(parts)}"
    seeds = min(len(pair.seeds) for _, pair in chains)
    text = _with_size(figures, seeds, first.users)
    axis = _axis(first, "a direct migration")
    more = _more_seeds(verdict, limits)
    return ClaimVerdict(verdict, text, seeds, tuple(deciding), axis, more)


@_claim(
    "equal-cost",
    "At equal cost a migration is better than retraining (Table 3).",
    "table3",
    f"PUMA at the budget nearest {FEW} against the retraining, stopped early or not, that costs the least of those "
    "that cost at least as much: in arithmetic, or in seconds in reports that count no arithmetic. Reproduced if "
    f"the migration is better; not reproduced if it is worse. {NO_INTERVAL}",
    ranking=True,
)
def assess_equal_cost(report: Report, dataset: str) -> ClaimVerdict | None:

    def of_kind(kind: str) -> list[tuple[dict, PairedDifference]]:
        return find_differences(report, dataset, lambda line: line["kind"] == kind)

    def mean(name: str, method: str) -> float:
        by_seed = scores_by_seed(report, {"dataset": dataset, "method": method}, name)
        return sum(by_seed.values()) / len(by_seed)

    def told(method: str) -> str:
        """Return the costs of a method as text."""
        time = f"in {mean('seconds', method):.1f} s"
        return (
            f"{method} for {mean('flops', method) / 1e12:.3g} TFLOP {time}"
            if counted
            else f"{method} {time}"
        )

    trained = [row for row in report["rows"] if row["kind"] in ("migrated", "retrained")]
    counted = all(row.get("flops") for row in trained if row["dataset"] == dataset)
    budgets = [
        (_distance(int(match[1]) / 100), line, pair)
        for line, pair in of_kind("migrated")
        if (match := _BUDGET.fullmatch(line["method"]))
    ]
    if not budgets:
        return None
    _, line, migrated = min(budgets, key=lambda budget: budget[0])
    differences: dict[str, PairedDifference | None] = {line["against"]["method"]: migrated}
    differences |= {
        other["method"]: indirect_difference(migrated, pair) for other, pair in of_kind("retrained")
    }
    unit = "flops" if counted else "seconds"
    needed = mean(unit, line["method"])
    costs = {name: mean(unit, name) for name in differences}
    affordable = [name for name in differences if costs[name] >= needed]
    if not affordable:
        return None
    name = min(affordable, key=costs.__getitem__)
    difference = differences[name]
    if difference is None:
        return None
    details = f"{told(line['method'])}, {told(name)}"
    return _verdict(difference, decide(difference.loss_intervals), name, details)


def _loss_share(difference: PairedDifference) -> str:
    """Return a difference in words, as a share of the second method's score."""
    side = "worse" if difference.loss > 0 else "better"
    return f"{_percent(abs(difference.loss / difference.scores[1]))} {side}"


def _difference_of(report: Report, dataset: str, method: str) -> PairedDifference | None:
    lines = find_differences(report, dataset, lambda line: line["method"] == method)
    return lines[0][1] if lines else None


def _verdict(
    difference: PairedDifference,
    verdict: Verdict,
    reference: str,
    details: str = "",
    limit: float = 0.0,
) -> ClaimVerdict:
    """Return a verdict with scores, difference, intervals, and the numbers of seeds and users."""
    first, second = difference.scores
    text = (
        f"{METRICS[difference.metric].label} {first:.4f} against {second:.4f} of {reference}: "
        f"{difference.value:+.4f} {_intervals(difference)}"
    )
    text += f"; {details}" if details else ""
    seeds = len(difference.seeds)
    return ClaimVerdict(
        verdict,
        _with_size(text, seeds, difference.users),
        seeds,
        _deciding(difference, "", limit),
        _axis(difference, reference),
        _more_seeds(verdict, [(difference, limit)]),
    )


def _more_seeds(verdict: Verdict, limits: Sequence[tuple[PairedDifference, float]]) -> int | None:
    """Return the number of further seeds that would decide an undecided claim; see `ClaimVerdict`."""
    needed = seeds_for_claim(limits) if verdict == "undecided" else None
    more = 0 if needed is None else needed - min(len(pair.seeds) for pair, _ in limits)
    return more or None


def _deciding(
    difference: PairedDifference, name: str, limit: float
) -> tuple[DecidingInterval, ...]:
    """Return the intervals that decide. limit: the largest loss with which the claim holds."""
    limit *= difference.loss_sign
    return tuple(
        DecidingInterval(f"{name}over {unit}", difference.value, low, high, limit)
        for (low, high), unit in _deciding_ends(difference)
    )


def _axis(difference: PairedDifference, reference: str) -> str:
    better = "below" if difference.loss_sign > 0 else "above"
    metric = METRICS[difference.metric].label
    return f"Difference from {reference} ({metric}; {better} zero is better)"


def _with_size(text: str, seeds: int, users: int) -> str:
    return f"{text}; {format_count(seeds, 'seed')}, {users:,} users"


def _intervals(difference: PairedDifference) -> str:
    return " and ".join(
        f"[{low:+.4f}, {high:+.4f}] over {unit}" for (low, high), unit in _deciding_ends(difference)
    )


def _deciding_ends(difference: PairedDifference) -> list[tuple[Bounds, str]]:
    """Return the intervals that decide, each with users or trainings as its sampling unit."""
    users, trainings = (difference.low, difference.high), difference.training_interval
    intervals = [] if trainings is None else [(trainings, "trainings")]
    if difference.over_users or trainings is None:
        intervals.insert(0, (users, "users"))
    return intervals


def _change(value: float, reference: float, less: str) -> str:
    """Return in words how far a value is below or above its reference. less: the word for below."""
    return f"{_percent(abs(1 - value / reference))} {less if value <= reference else 'more'}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _distance(share: float) -> float:
    return abs(math.log(share / SMALL_SHARE))
