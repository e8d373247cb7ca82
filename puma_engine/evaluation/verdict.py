"""What a comparison means: migrate, retrain, or migrate all and refine some, with the evidence.

A migration is as good as the full retraining when the 95 % interval of its paired
difference stays below a margin that is stated (by default 1 % of the retraining's value).
Among migrations that are, and that cost less, the cheapest is recommended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import ConfigError
from puma_engine.evaluation import verdict_text as text
from puma_engine.evaluation.metrics import HIGHER_IS_BETTER
from puma_engine.evaluation.user_effects import LIKELY, SURE, UserEffects

# Refining more users than this is a retraining in all but name.
MOST_REFINED = 0.3
# Where the migration is as good already, refining a smaller share than this changes nothing.
FEWEST_REFINED = 0.01

# Kinds that stand on no backbone, or on the one that a migration leaves.
ELSEWHERE = ("source", "baseline")

Decision = Literal["migrate", "refine", "retrain", "undecided", "incomplete"]
Relation = Literal["better", "equivalent", "not worse", "worse", "uncertain"]


@dataclass(frozen=True)
class MethodScore:
    """One method on the comparison's main metric.

    loss, loss_low, loss_high: how much worse than the reference it is, in the metric's
    units, with its 95 % interval; below 0 it is better.
    """

    method: str
    kind: str
    value: float
    low: float
    high: float
    loss: float
    loss_low: float
    loss_high: float
    seconds: float
    users_trained: float
    seed: float
    device: str | None


# Kinds of prompts that a migration made: what is weighed against full retraining.
MOVED = ("migrated", "refined")


@dataclass(frozen=True)
class ComparisonData:
    """What is judged: a comparison's tables, as the comparison run keeps them.

    methods and scores: the tables "methods" (with a column backbone, if methods may stand
    on several) and "comparison". effects(method) tells how each user fares under a method
    against the reference, or None where predictions are missing.
    """

    methods: pd.DataFrame
    scores: pd.DataFrame
    metric: str
    users: int
    rows: int
    rows_left_out: int = 0
    margin: float = MARGIN
    effects: Callable[[str], UserEffects | None] = field(default=lambda _method: None)

    def __post_init__(self) -> None:
        check_margin(self.margin)


@dataclass(frozen=True)
class Verdict:
    """A decision in words, and the figures it rests on.

    method: the migration that was judged; reference: the full retraining. margin, loss and
    its interval are in the metric's units; cost is the migration's measured seconds, with
    refining, as a share of the retraining's. refine: ids of the users to refine, the
    surest first. Texts hold names that users gave to runs: show them as plain text.
    """

    decision: Decision
    headline: str
    evidence: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    metric: str = ""
    margin: float = float("nan")
    relation: Relation | None = None
    method: str | None = None
    reference: str | None = None
    loss: float = float("nan")
    loss_low: float = float("nan")
    loss_high: float = float("nan")
    cost: float = float("nan")
    refine: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON types (NaN where there is no figure)."""
        return asdict(self)


def check_margin(margin: float) -> None:
    """Raise ConfigError unless a margin is a share above 0 and below 1."""
    if not 0 < margin < 1:
        raise ConfigError(
            f"The margin is a share of the retraining's value above 0 and below 1, not {margin!r}; "
            "0.01 means 1 %."
        )


def judge(question: ComparisonData) -> Verdict:
    """Weigh the migrations of a comparison against its full retraining.

    The comparison's reference must be the retraining: differences are paired with it.
    """
    rows = scored(question)
    base = next((row for row in rows if row.kind == "retrained" and np.isnan(row.loss)), None)
    moved = [row for row in rows if row.kind in MOVED and not np.isnan(row.loss)]
    if base is None or not moved:
        return Verdict("incomplete", text.incomplete(rows, base), metric=question.metric)
    margin = question.margin * abs(base.value)
    good = [row for row in moved if row.loss_high <= margin]
    cheap = [row for row in good if row.seconds < base.seconds or row.loss_high < 0]
    if cheap:
        return _migrate(question, rows, base, min(cheap, key=lambda row: row.seconds), margin)
    affordable = [row for row in moved if row.seconds < base.seconds]
    told = _refine(question, rows, base, affordable, margin)
    told = told or _undecided(question, rows, base, affordable, margin)
    if told is not None:
        return told
    best = min(good or moved, key=lambda row: row.loss)
    words = text.no_saving if good else text.retrain
    headline = words(best, base, question.metric, margin)
    return _told(question, rows, base, best, margin, "retrain", headline)


def scored(question: ComparisonData) -> list[MethodScore]:
    """Return the methods of a comparison that share the reference's backbone, in its order."""
    methods = question.methods
    if "backbone" in methods:
        base = methods[methods["is_baseline"].astype(bool) & (methods["kind"] == "retrained")]
        same = methods["backbone"].isin(base["backbone"]) | methods["kind"].isin(ELSEWHERE)
        methods = methods[same | base.empty]
    scores = question.scores[question.scores["metric"] == question.metric].set_index("method")
    sign = -1.0 if HIGHER_IS_BETTER[question.metric] else 1.0
    return [
        _scored(dict(row), dict(scores.loc[row["method"]]), sign)
        for row in methods.to_dict("records")
    ]


def _scored(row: dict[Any, Any], score: dict[Any, Any], sign: float) -> MethodScore:
    low, high = sorted((sign * score["difference_low"], sign * score["difference_high"]))
    numbers = {
        name: float("nan") if row[name] is None else float(row[name])
        for name in ("seconds", "users_trained", "seed")
    }
    return MethodScore(
        method=row["method"],
        kind=row["kind"],
        value=float(score["value"]),
        low=float(score["low"]),
        high=float(score["high"]),
        loss=float(sign * score["difference"]),
        loss_low=float(low),
        loss_high=float(high),
        device=row["device"],
        **numbers,
    )


def relation_of(row: MethodScore, margin: float) -> Relation:
    """Say how a method stands to the reference, by its interval and the margin."""
    if row.loss_high < 0:
        return "better"
    if row.loss_high <= margin:
        return "equivalent" if row.loss_low >= -margin else "not worse"
    return "worse" if row.loss_low > margin else "uncertain"


def _migrate(
    question: ComparisonData,
    rows: list[MethodScore],
    base: MethodScore,
    pick: MethodScore,
    margin: float,
) -> Verdict:
    """A migration is as good and cheaper: some users may still be worth refining."""
    effects = question.effects(pick.method)
    sure = _refinable(effects, SURE)
    cost = _cost(pick, base, len(sure), question.users)
    relation = relation_of(pick, margin)
    if FEWEST_REFINED <= len(sure) / question.users <= MOST_REFINED and cost < 1:
        told = text.refine(pick, relation, len(sure), question.users, cost)
        return _told(question, rows, base, pick, margin, "refine", told, refine=sure)
    told = text.migrate(pick, relation, _cost(pick, base, 0, question.users))
    return _told(question, rows, base, pick, margin, "migrate", told)


def _refine(
    question: ComparisonData,
    rows: list[MethodScore],
    base: MethodScore,
    moved: list[MethodScore],
    margin: float,
) -> Verdict | None:
    """The best migration that falls short, if refining some users closes the gap."""
    for row in sorted(moved, key=lambda row: row.loss):
        users = _closing(question, row, base, margin)
        if users:
            cost = _cost(row, base, len(users), question.users)
            headline = text.refine_to_close(row, len(users), question.users, cost)
            return _told(question, rows, base, row, margin, "refine", headline, refine=users)
    return None


def _undecided(
    question: ComparisonData,
    rows: list[MethodScore],
    base: MethodScore,
    moved: list[MethodScore],
    margin: float,
) -> Verdict | None:
    """The best migration that is likely within the margin, but not surely."""
    open_ = [row for row in moved if row.loss < margin]
    if not open_:
        return None
    best = min(open_, key=lambda row: row.loss)
    needed = ((best.loss_high - best.loss) / (margin - best.loss)) ** 2 * question.users
    headline = text.undecided(best, question.metric, margin, int(np.ceil(needed)))
    return _told(question, rows, base, best, margin, "undecided", headline)


def _closing(
    question: ComparisonData, row: MethodScore, base: MethodScore, margin: float
) -> tuple[str, ...]:
    """Users whose refining would bring a migration within the margin; none if it cannot.

    The gain is counted by the shrunk differences, which do not flatter the users that
    were picked because they looked bad. Only RMSE follows from losses of users.
    """
    effects = question.effects(row.method) if question.metric == "rmse" else None
    users = _refinable(effects, LIKELY)
    cost = _cost(row, base, len(users), question.users)
    if effects is None or not 0 < len(users) <= MOST_REFINED * question.users or cost >= 1:
        return ()
    frame = effects.frame
    chosen = frame["user_id"].isin(users)
    saved = float((frame["expected"] * frame["n"])[chosen].sum() / effects.rows)
    better = np.sqrt(max(row.value**2 - saved, 0.0))
    return users if row.loss_high - (row.value - better) <= margin else ()


def _refinable(effects: UserEffects | None, probability: float) -> tuple[str, ...]:
    """Users who regress, if what one half of the rows shows repeats on the other half."""
    if effects is None or effects.repeated is None or effects.repeated.low <= 0:
        return ()
    return tuple(effects.worse(probability)["user_id"])


def _cost(pick: MethodScore, base: MethodScore, refined: int, users: int) -> float:
    return pick.seconds / base.seconds + refined / users if base.seconds > 0 else float("nan")


def _told(
    question: ComparisonData,
    rows: list[MethodScore],
    base: MethodScore,
    pick: MethodScore,
    margin: float,
    decision: Decision,
    headline: str,
    refine: tuple[str, ...] = (),
) -> Verdict:
    relation = relation_of(pick, margin)
    effects = question.effects(pick.method)
    return Verdict(
        decision,
        headline,
        text.evidence(question, rows, base, pick, margin, relation, effects),
        text.cautions(question, rows, base, pick),
        question.metric,
        margin,
        relation,
        pick.method,
        base.method,
        pick.loss,
        pick.loss_low,
        pick.loss_high,
        _cost(pick, base, len(refine), question.users),
        refine,
    )
