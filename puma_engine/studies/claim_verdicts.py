"""How a report is judged: one function a claim, each with a verdict and the figures behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from puma_engine.defaults import MARGIN, PAPER_STRATEGY
from puma_engine.evaluation.metrics import NAMES
from puma_engine.studies import gaps
from puma_engine.studies.builder import ALL, SMALL_SHARE, few_by
from puma_engine.studies.gaps import Gap, Interval, Row

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
        {row["seed"]: row for row in gaps.rows(report, {"dataset": dataset, "method": name})}
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
    found = gaps.find(report, dataset, lambda line: line["method"] == PAPER_STRATEGY)
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
    found = gaps.between(whole, mixed) if whole and mixed else None
    return _judged(found, decide(found.worse), "the shuffled control") if found else None


def pairs(report: Report, dataset: str) -> Judged | None:
    """The mean over all ordered pairs of models against full retraining."""
    lines = gaps.find(report, dataset, lambda line: line["method"] == "migrated")
    found = gaps.mean([one for _, one in lines])
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
        gaps.mean([one for _, one in gaps.find(report, dataset, wanted)])
        for wanted in (
            lambda line: line.get("sources") == 1,
            lambda line: (line.get("sources") or 0) > 1,
        )
    )
    found = gaps.between(several, single) if single and several else None
    if found is None:
        return None
    return _judged(found, decide(found.worse), "one source", "means of all combinations")


def chains(report: Report, dataset: str) -> Judged | None:
    """Every chain against a direct migration to its end."""
    found = gaps.find(report, dataset, lambda line: line["method"] == "chain")
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
    figures = f"{NAMES[name]} against a direct migration: {', '.join(parts)}"
    lost = "not reproduced" in single
    verdict = "not reproduced" if lost else decide([one for own in shares for one in own], 1.0)
    return Judged(verdict, _with_size(figures, seeds, users), seeds)


def equal_cost(report: Report, dataset: str) -> Judged | None:
    """PUMA on few users against retraining that takes as long."""

    def of(kind: str) -> list[tuple[Row, Gap]]:
        return gaps.find(report, dataset, lambda line: line["kind"] == kind)

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
    stopped |= {one["method"]: gaps.between(moved, gap) for one, gap in of("retrained")}
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
    found = gaps.find(report, dataset, lambda line: line["method"] == method)
    return found[0][1] if found else None


def _judged(found: Gap, verdict: Verdict, against: str, more: str = "") -> Judged:
    """Say a gap with its intervals, and how many seeds and users it is of."""
    first, second = found.scores
    text = (
        f"{NAMES[found.metric]} {first:.4f} against {second:.4f} of {against}: "
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
    found = gaps.scores(report, {"dataset": dataset, "method": method}, "seconds")
    return sum(found.values()) / len(found)


def _totals(pairs: Sequence[tuple[Row, Row]], name: str) -> tuple[float, float]:
    first, second = (sum(float(pair[place][name]) for pair in pairs) for place in (0, 1))
    return first, second
