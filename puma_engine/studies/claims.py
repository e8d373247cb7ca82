"""The claims of the paper, each with its study and the rule that decides its verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from puma_engine.defaults import MARGIN, PAPER_STRATEGY
from puma_engine.evaluation.metrics import METRICS
from puma_engine.studies.builder import ALL, SMALL_SHARE, few_by
from puma_engine.studies.differences import (
    Gap,
    Interval,
    Row,
    between,
    find,
    mean,
    rows_with,
    scores,
)

Verdict = Literal["reproduced", "not reproduced", "undecided", "no evidence"]
Report = dict[str, Any]

FEW, FEW_RANDOM = few_by(PAPER_STRATEGY), few_by("random")
SUFFICES = 0.02
CHEAP = 0.02
LOWEST_GAIN = 0.9856
BUDGET = re.compile(r"PUMA, (\d+)%")


@dataclass(frozen=True)
class Judged:
    """What a report says of a claim on one data set: the verdict, its figures, its seeds."""

    verdict: Verdict
    figures: str
    seeds: int


def decide(worse: Sequence[Interval], bar: float = 0.0) -> Verdict:
    """Judge intervals of a difference, turned so that more is worse, by the most allowed."""
    if all(high <= bar for _, high in worse):
        return "reproduced"
    return "not reproduced" if all(low > bar for low, _ in worse) else "undecided"


def all_users(report: Report, dataset: str) -> Judged | None:
    """PUMA on all users against full retraining."""
    found = _named(report, dataset, ALL)
    return _judged(found, decide(found.worse), "full retraining") if found else None


def few_users(report: Report, dataset: str) -> Judged | None:
    """PUMA on few users against full retraining."""
    found = _named(report, dataset, FEW)
    if found is None:
        return None
    again = found.scores[1]
    loss = found.sign * found.value / again
    verdict = decide(found.worse, SUFFICES * again)
    side = "worse" if loss > 0 else "better"
    return _judged(found, verdict, "full retraining", f"{_percent(abs(loss))} {side}")


def cost(report: Report, dataset: str) -> Judged | None:
    """Seconds of PUMA on few users over those of full retraining."""
    few, again = (
        {row["seed"]: row for row in rows_with(report, {"dataset": dataset, "method": name})}
        for name in (FEW, "retrained")
    )
    pairs = [(few[seed], again[seed]) for seed in sorted(few.keys() & again)]
    rows = [row for pair in pairs for row in pair]
    known = all(row.get("seconds") and row.get("device") for row in rows)
    if not known or len({row["device"] for row in rows}) != 1:
        return None
    shares = [one["seconds"] / other["seconds"] for one, other in pairs]
    least, most = min(shares), max(shares)
    verdict: Verdict = "undecided" if least <= CHEAP < most else "reproduced"
    seconds = _totals(pairs, "seconds")
    first, second = (one / len(pairs) for one in seconds)
    figures = (
        f"{_percent(1 - first / second)} less: {first:.1f} s against {second:.1f} s of full "
        f"retraining on {rows[0]['device']}"
    )
    if all(row.get("flops") for row in rows):
        work = _totals(pairs, "flops")
        figures += f", and {_percent(1 - work[0] / work[1])} less arithmetic"
    text = _with_size(figures, len(pairs), rows[0]["users"])
    return Judged("not reproduced" if least > CHEAP else verdict, text, len(pairs))


def selection(report: Report, dataset: str) -> Judged | None:
    """The strategy kmeans-variance against random users."""
    found = find(report, dataset, lambda line: line["method"] == PAPER_STRATEGY)
    if not found:
        return None
    line, own = min(found, key=lambda one: _far(one[0]["share"]))
    others = [
        f"{_percent(one['share'], 0)} {gap.value:+.4f} {_spread(gap)}"
        for one, gap in sorted(found, key=lambda one: one[0]["share"])
        if one["share"] != line["share"]
    ]
    more = "; on ".join([f"on {_percent(line['share'], 0)} of the users", *others])
    verdict = decide(own.worse) if own.over_seeds is not None else "undecided"
    return _judged(own, verdict, "random users", more)


def taste(report: Report, dataset: str) -> Judged | None:
    """A migration against the same one with shuffled prompts."""
    whole = _named(report, dataset, FEW_RANDOM)
    mixed = _named(report, dataset, "shuffled control")
    found = between(whole, mixed) if whole and mixed else None
    return _judged(found, decide(found.worse), "the shuffled control") if found else None


def pairs(report: Report, dataset: str) -> Judged | None:
    """The mean over all ordered pairs of models against full retraining."""
    lines = find(report, dataset, lambda line: line["method"] == "migrated")
    found = mean([one for _, one in lines])
    if found is None:
        return None
    gains = [_gain(one) for _, one in lines]
    lost = sum(line["real"] and one.sign * one.value > 0 for line, one in lines)
    won = sum(line["real"] and one.sign * one.value < 0 for line, one in lines)
    verdict = decide(found.worse)
    if verdict == "reproduced" and min(gains) < LOWEST_GAIN:
        verdict = "undecided"
    more = (
        f"means of {_count(len(lines), 'pair', 'pairs')}, whose gains are {min(gains):.3f} to "
        f"{max(gains):.3f}; {won} are better and {lost} worse by more than chance"
    )
    return _judged(found, verdict, "full retraining", more)


def sources(report: Report, dataset: str) -> Judged | None:
    """The mean of several sources against that of single ones."""
    single, several = (
        mean([one for _, one in find(report, dataset, wanted)])
        for wanted in (
            lambda line: line.get("sources") == 1,
            lambda line: (line.get("sources") or 0) > 1,
        )
    )
    found = between(several, single) if single and several else None
    if found is None:
        return None
    return _judged(found, decide(found.worse), "one source", "means of all combinations")


def chains(report: Report, dataset: str) -> Judged | None:
    """Every chain against a direct migration to its end."""
    found = find(report, dataset, lambda line: line["method"] == "chain")
    if not found:
        return None
    # In shares of what is allowed, so that chains of all lengths meet one bar.
    shares = [
        [(low / allowed, high / allowed) for low, high in one.worse]
        for line, one in found
        for allowed in (MARGIN * (line["hops"] - 1) * one.scores[1],)
    ]
    single = [decide(one, 1.0) for one in shares]
    parts = [
        f"{line['hops']} hops {one.value:+.4f} {_spread(one)}"
        for line, one in sorted(found, key=lambda pair: pair[0]["hops"])
    ]
    seeds, users = min(len(one.seeds) for _, one in found), found[0][1].users
    name = found[0][1].metric
    figures = f"{METRICS[name].label} against a direct migration: {', '.join(parts)}"
    lost = "not reproduced" in single
    verdict = "not reproduced" if lost else decide([one for own in shares for one in own], 1.0)
    return Judged(verdict, _with_size(figures, seeds, users), seeds)


def equal_cost(report: Report, dataset: str) -> Judged | None:
    """PUMA on few users against retraining that takes as long."""

    def of(kind: str) -> list[tuple[Row, Gap]]:
        return find(report, dataset, lambda line: line["kind"] == kind)

    budgets = [
        (_far(int(named[1]) / 100), line, one)
        for line, one in of("migrated")
        if (named := BUDGET.fullmatch(line["method"]))
    ]
    if not budgets:
        return None
    _, line, moved = min(budgets, key=lambda one: one[0])
    seconds = _seconds(report, dataset, line["method"])
    reference = line["against"]["method"]
    stopped: dict[str, Gap | None] = {reference: moved}
    stopped |= {one["method"]: between(moved, gap) for one, gap in of("retrained")}
    costs = {name: _seconds(report, dataset, name) for name in stopped}
    enough = [name for name in stopped if costs[name] >= seconds]
    if not enough:
        return None
    name = min(enough, key=costs.__getitem__)
    found = stopped[name]
    if found is None:
        return None
    more = f"{line['method']} in {seconds:.1f} s, {name} in {costs[name]:.1f} s"
    return _judged(found, decide(found.worse), name, more)


def _named(report: Report, dataset: str, method: str) -> Gap | None:
    found = find(report, dataset, lambda line: line["method"] == method)
    return found[0][1] if found else None


def _judged(found: Gap, verdict: Verdict, against: str, more: str = "") -> Judged:
    """Say a gap with its intervals, and how many seeds and users it is of."""
    first, second = found.scores
    text = (
        f"{METRICS[found.metric].label} {first:.4f} against {second:.4f} of {against}: "
        f"{found.value:+.4f} {_spread(found)}"
    )
    text += f"; {more}" if more else ""
    return Judged(verdict, _with_size(text, len(found.seeds), found.users), len(found.seeds))


def _with_size(text: str, seeds: int, users: int) -> str:
    return f"{text}; {_count(seeds, 'seed', 'seeds')}, {users:,} users"


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _spread(found: Gap) -> str:
    """The intervals that decide, and what each is over."""
    parts = []
    if found.direct or found.over_seeds is None:
        parts.append(f"{_ends((found.low, found.high))} over users")
    if found.over_seeds is not None:
        parts.append(f"{_ends(found.over_seeds)} over trainings")
    return " and ".join(parts)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _ends(interval: Interval) -> str:
    return f"[{interval[0]:+.4f}, {interval[1]:+.4f}]"


def _gain(one: Gap) -> float:
    moved, again = one.scores
    return again / moved if one.sign > 0 else moved / again


def _far(share: float) -> float:
    return abs(math.log(share / SMALL_SHARE))


def _seconds(report: Report, dataset: str, method: str) -> float:
    found = scores(report, {"dataset": dataset, "method": method}, "seconds")
    return sum(found.values()) / len(found)


def _totals(pairs: Sequence[tuple[Row, Row]], name: str) -> tuple[float, float]:
    first, second = (sum(float(pair[place][name]) for pair in pairs) for place in (0, 1))
    return first, second


INTERVALS = (
    "An interval is the 95 % one over resampled users; from three seeds on, the 95 % one over "
    "trainings (Student's t) must agree, or nothing is decided. Fewer seeds tell nothing of how "
    "another training would have gone."
)
APART = (
    "The report holds no interval of this difference: from three seeds on, that over trainings "
    "decides; with fewer, the intervals of the two must not overlap."
)
FEW_WORDS = f"{100 * SMALL_SHARE:g} % of the users"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the study that answers it, and its rule in words and as code.

    judge returns None where the report has no rows that could tell.
    """

    name: str
    text: str
    study: str
    rule: str
    judge: Callable[[Report, str], Judged | None]


CLAIMS = (
    Claim(
        "all-users",
        "A migration trained on all users is at least as good as full retraining.",
        "table2",
        "Reproduced if the interval of the difference from full retraining lies at zero or on the "
        "better side; not reproduced if it lies on the worse side.",
        all_users,
    ),
    Claim(
        "few-users",
        "A few well-chosen users suffice.",
        "table2",
        f"Training on {FEW_WORDS}, by clusters and variance. Reproduced if the "
        f"interval of the loss lies within {100 * SUFFICES:g} % of full retraining's figure; not "
        "reproduced if it lies beyond.",
        few_users,
    ),
    Claim(
        "cost",
        "A migration costs up to 98 % less.",
        "table2",
        f"Seconds of training on {FEW_WORDS}, choosing them included, over "
        "those of full retraining on the same device, neither with the search for settings. "
        f"Reproduced if at most {100 * CHEAP:g} % with every seed; not reproduced if more with every seed.",
        cost,
    ),
    Claim(
        "selection",
        "Clusters and variance choose better users than chance.",
        "table4",
        f"The strategy {PAPER_STRATEGY} against random users at the budget nearest {FEW_WORDS}. "
        "Reproduced if the interval of the difference lies on the better side; not reproduced if "
        "it lies on the worse side; undecided with fewer than three seeds, since trainings on few "
        "users lie as far apart as strategies do.",
        selection,
    ),
    Claim(
        "taste",
        "Source prompts carry each user's taste into the new model.",
        "table2",
        "A migration against the same one with the source prompts shuffled between users. "
        f"Reproduced if it is better. {APART}",
        taste,
    ),
    Claim(
        "pairs",
        f"Migrating gains between models of all families (Figure 4: {LOWEST_GAIN} to 1.0299).",
        "figure4",
        "The mean difference from full retraining over all ordered pairs. Reproduced if its "
        f"interval lies at zero or on the better side and no pair's gain is below {LOWEST_GAIN}, "
        "the paper's lowest; not reproduced if it lies on the worse side. The ends are the means "
        "of the pairs' own, which is at least as wide.",
        pairs,
    ),
    Claim(
        "sources",
        "Several sources beat a single one (Figure 6).",
        "figure6",
        "The mean of all fusions of two or three sources against the mean of all single sources. "
        f"Reproduced if it is better; not reproduced if it is worse. {APART}",
        sources,
    ),
    Claim(
        "chains",
        "Chains lose little a hop (Figure 5).",
        "figure5",
        "Every chain against a direct migration to its last model. Reproduced if the intervals of "
        f"all lie within {100 * MARGIN:g} % of its figure for each hop after the first; not reproduced "
        "if that of any chain lies beyond.",
        chains,
    ),
    Claim(
        "equal-cost",
        "At equal cost a migration is better than retraining (Table 3).",
        "table3",
        f"PUMA at the budget nearest {FEW_WORDS} against the retraining, stopped early or "
        "not, that takes the fewest seconds of those that take at least as many. Reproduced if "
        f"the migration is better; not reproduced if it is worse. {APART}",
        equal_cost,
    ),
)
