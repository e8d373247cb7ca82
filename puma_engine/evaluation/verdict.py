"""The verdict on a comparison: migrate, reuse and refine, retrain, or migrate all and refine some, with evidence.

A migration is as good as full retraining when the 95 % interval of its paired difference is below a
margin (default: 1 % of the retraining's value), which makes the comparison a non-inferiority test
(Piaggio et al., "Reporting of Noninferiority and Equivalence Randomized Trials", JAMA 2012). Of the
migrations that are as good and cost less, the cheapest is recommended. Cost is the arithmetic of
the trainings if it is known of all, since seconds depend on other work of the machine; otherwise it
is the measured seconds.

The primary metric decides. A caution says where the level of predictions and the order of each user's
items disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import ConfigError
from puma_engine.evaluation.formatting import (
    format_change,
    format_interval,
    format_percent,
    format_seconds,
    format_share,
    format_share_interval,
    format_users,
    method_names,
    round_up_percent,
)
from puma_engine.evaluation.metrics import METRICS, RANKING_METRIC
from puma_engine.evaluation.shares_kept import ASPECTS, COLUMNS, REFERENCES, aspect_label
from puma_engine.evaluation.source_changes import COLUMNS as CHANGE_COLUMNS
from puma_engine.evaluation.source_changes import SourceChange, source_change
from puma_engine.evaluation.user_effects import LIKELY, SURE, USER_MARGIN, UserEffects

# Refining a larger share of users costs nearly as much as a retraining.
MAX_REFINED_SHARE = 0.3
# If the migration is as good already, refining a smaller share of users changes little.
MIN_REFINED_SHARE = 0.01
# The largest margin of the slider, as a share of the retraining's value.
MAX_MARGIN = 0.2
# Distance of the margins at which decisions are computed.
MARGIN_STEP = 0.001
# With fewer users a verdict warns that intervals are rough.
FEW_USERS = 100
# Kinds of methods that are not on the target backbone.
WITHOUT_TARGET = ("source", "baseline")
# Kinds of the candidates: migrations, and prompts that were refined after one or without one.
MIGRATED = ("migrated", "refined")

Decision = Literal["migrate", "refine", "reuse", "retrain", "undecided", "incomplete"]
Measure = Literal["flops", "seconds"]
Relation = Literal["better", "equivalent", "not worse", "worse", "uncertain"]

RELATIONS: dict[Relation, str] = {
    "better": "measurably better than full retraining",
    "equivalent": "equivalent to full retraining within the margin",
    "not worse": "not worse than full retraining by the margin, maybe better",
    "worse": "worse than full retraining by more than the margin",
    "uncertain": "not measured well enough to say that it is within the margin",
}


@dataclass(frozen=True)
class MethodScore:
    """One method on the comparison's primary metric.

    loss, loss_low, loss_high: how much worse than the reference it is, in the metric's units, with
    its 95 % interval; below 0 it is better. seconds, flops: of its trainings, NaN where they were
    not measured. seed: NaN where it is unknown, as of prompts that were fitted elsewhere. is_reuse:
    whether prompts of another model or template were refined without a migration.
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
    flops: float = float("nan")
    is_reuse: bool = False

    def relation(self, margin: float) -> Relation:
        """Compare the method with the reference by its interval; margin is in metric units."""
        if self.loss_high < 0:
            return "better"
        if self.loss_high <= margin:
            return "equivalent" if self.loss_low >= -margin else "not worse"
        return "worse" if self.loss_low > margin else "uncertain"

    @property
    def noun(self) -> str:
        """What a sentence calls a candidate."""
        return plan_noun(is_reuse=self.is_reuse)

    @property
    def interval(self) -> str:
        """The value and its interval as text."""
        return format_interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class ComparisonData:
    """The input of a verdict: the tables of a comparison run.

    methods and scores: the tables "methods" (with a column backbone, if methods may belong to
    several, and flops and is_reuse, if they are known) and "comparison". margin: a share of the retraining's
    value. effects(method): the effects on users of a method against the reference, or None where
    predictions are missing. shares: the table of `puma_engine.evaluation.shares_kept`. changes:
    that of `puma_engine.evaluation.source_changes`. Raises ConfigError for a margin outside (0, 1).
    """

    methods: pd.DataFrame
    scores: pd.DataFrame
    metric: str
    users: int
    rows: int
    rows_left_out: int = 0
    margin: float = MARGIN
    effects: Callable[[str], UserEffects | None] = field(default=lambda _method: None)
    shares: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    changes: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(CHANGE_COLUMNS))
    )

    def __post_init__(self) -> None:
        check_margin(self.margin)


@dataclass(frozen=True)
class Verdict:
    """A decision with its sentences, and the numbers that it is based on.

    method: the candidate that was judged, is_reuse: whether it is a refinement without a migration;
    reference: the full retraining. margin, loss and its
    interval are in the metric's units; cost: measured seconds of the migration with refining, as a
    share of the retraining's; arithmetic: the same share of operations, None where it does not
    decide. refine: ids of the users to refine, the surest first. disagreement: the caution that
    level and ranking disagree, "" where they do not; it is one of the cautions, too. source: the
    comparison of all plans with the old model; its sentence comes first in the cautions if users
    would lose, otherwise in the evidence. Texts contain names that users gave to runs: show them as
    plain text.
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
    disagreement: str = ""
    source: SourceChange | None = None
    arithmetic: float | None = None
    is_reuse: bool = False

    @property
    def noun(self) -> str:
        """What a sentence calls the judged candidate."""
        return plan_noun(is_reuse=self.is_reuse)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON types (NaN where there is no figure)."""
        return asdict(self)


@dataclass(frozen=True)
class DecisionRange:
    """Margins from low to high, both included, with the same decision about the same migration."""

    low: float
    high: float
    decision: Decision
    method: str


def plan_noun(*, is_reuse: bool) -> str:
    """Return what a sentence calls a candidate."""
    return "refinement" if is_reuse else "migration"


def check_margin(margin: float) -> None:
    """Raise ConfigError unless a margin is a share above 0 and below 1."""
    if not 0 < margin < 1:
        raise ConfigError(
            f"The margin is a share of the retraining's value above 0 and below 1, not {margin!r}; "
            "0.01 means 1 %."
        )


def judge(data: ComparisonData) -> Verdict:
    """Return the verdict on the migrations of a comparison against its full retraining.

    The comparison's reference must be the retraining, since differences are paired with it. If it
    is another method, or there is no migration, the verdict is "incomplete".
    """
    scores = method_scores(data)
    base, candidates = _base_and_candidates(scores)
    if base is None or not candidates:
        remedies = {
            (False, False): "add a migration and the full retraining on the same backbone",
            (True, False): "add the full retraining on the target backbone to compare with",
            (False, True): "add a migration to the backbone of the retraining",
            (
                True,
                True,
            ): "differences are taken from another method; take them from full retraining",
        }
        kinds = {row.kind for row in scores}
        problem = remedies[not kinds.isdisjoint(MIGRATED), "retrained" in kinds]
        if scores and all(np.isnan(row.value) for row in scores):
            label = METRICS[data.metric].label
            problem = (
                f"{label} is undefined on these rows; compare on a split with more rows per user"
            )
        return Verdict("incomplete", f"No verdict yet: {problem}.", metric=data.metric)
    return _Judge(data, scores, base, cost_measure(base, candidates)).decide(candidates)


def decision_ranges(
    data: ComparisonData, *, max_margin: float = MAX_MARGIN
) -> tuple[DecisionRange, ...]:
    """Return ranges of margins with the same decision of `judge`, in steps of MARGIN_STEP.

    The cost of the recommended plan never rises with the margin.
    """
    scores = method_scores(data)
    base, candidates = _base_and_candidates(scores)
    if base is None or not candidates:
        return ()
    measure = cost_measure(base, candidates)
    plans = _plans(data, base, candidates, measure)
    ranges: list[DecisionRange] = []
    for number in range(1, round(max_margin / MARGIN_STEP) + 1):
        # Rounded to the number that a reader would enter.
        margin = round(number * MARGIN_STEP, 6)
        judge = _Judge(replace(data, margin=margin), scores, base, measure)
        decision, pick, _ = judge.choose(candidates, plans)
        if ranges and (ranges[-1].decision, ranges[-1].method) == (decision, pick.method):
            ranges[-1] = replace(ranges[-1], high=margin)
        else:
            ranges.append(DecisionRange(margin, margin, decision, pick.method))
    return tuple(ranges)


@dataclass(frozen=True)
class _Plan:
    """A migration and the users whom it refines afterwards.

    needed: the smallest margin that admits it, in metric units. cost: of both, see `cost_measure`.
    """

    row: MethodScore
    refine: tuple[str, ...]
    needed: float
    cost: float


def cost_measure(base: MethodScore, candidates: list[MethodScore]) -> Measure:
    """Return the measure by which the costs of migrations and of full retraining are compared.

    It is arithmetic if all of them have it; otherwise seconds, which a busy machine influences.
    """
    return "flops" if all(row.flops > 0 for row in (base, *candidates)) else "seconds"


def _plans(
    data: ComparisonData, base: MethodScore, candidates: list[MethodScore], measure: Measure
) -> list[_Plan]:
    """Return the plans that may be recommended at some margin: migrations, with or without refining.

    Refining costs the refined users' share of the retraining's cost.
    """
    base_cost = getattr(base, measure)

    def plan(row: MethodScore, users: tuple[str, ...], needed: float) -> _Plan:
        refining = len(users) / data.users * base_cost if users else 0.0
        # A migration of unknown cost comes last.
        migrating = np.nan_to_num(getattr(row, measure), nan=np.inf)
        return _Plan(row, users, needed, migrating + refining)

    def is_worth_refining(plan: _Plan) -> bool:
        is_small_share = 0 < len(plan.refine) <= MAX_REFINED_SHARE * data.users
        return is_small_share and plan.cost < base_cost

    plans = []
    for row in candidates:
        cheaper = getattr(row, measure) < base_cost
        if not cheaper and not row.loss_high < 0:
            continue
        if row.is_reuse:
            plans.append(plan(row, (), row.loss_high))  # All that it refines is in its cost.
            continue
        effects = data.effects(row.method)
        sure_users, likely_users = (
            _refinable(effects, probability) for probability in (SURE, LIKELY)
        )
        # A migration within the margin may still leave users who are worth refining.
        refined = plan(row, sure_users, row.loss_high)
        is_large_enough = len(sure_users) >= MIN_REFINED_SHARE * data.users
        is_worthwhile = is_large_enough and is_worth_refining(refined)
        plans.append(refined if is_worthwhile else plan(row, (), row.loss_high))
        if effects is not None and cheaper and data.metric == "rmse":
            gain = _gain_of_refining(effects, likely_users, row.value)
            closing = plan(row, likely_users, row.loss_high - gain)
            if is_worth_refining(closing):
                plans.append(closing)
    return plans


def _cheapest(plans: list[_Plan], margin: float) -> _Plan | None:
    """Return the cheapest plan within a margin in metric units; None without one."""
    within = [plan for plan in plans if plan.needed <= margin]
    return min(within, key=lambda plan: (plan.cost, plan.needed), default=None)


def _gain_of_refining(effects: UserEffects, users: tuple[str, ...], rmse: float) -> float:
    """Return by how much refining users would improve a migration's RMSE.

    It follows from posterior mean differences, which do not exaggerate the losses of users who were
    picked for their large losses. Only RMSE follows from losses of users.
    """
    frame = effects.frame
    chosen = frame["user_id"].isin(users)
    squared_error_saved = float((frame["expected"] * frame["n"])[chosen].sum() / effects.rows)
    return rmse - float(np.sqrt(max(rmse**2 - squared_error_saved, 0.0)))


def _base_and_candidates(
    scores: list[MethodScore],
) -> tuple[MethodScore | None, list[MethodScore]]:
    """Return the full retraining, if it is the reference, and the migrations compared with it."""
    base = next((row for row in scores if row.kind == "retrained" and np.isnan(row.loss)), None)
    return base, [row for row in scores if row.kind in MIGRATED and not np.isnan(row.loss)]


def methods_on_target(methods: pd.DataFrame) -> pd.DataFrame:
    """Return the methods on the backbone of the full retraining that is the reference, and sources.

    methods: the table "methods", with a column backbone. If the reference is another method, all
    are returned.
    """
    if "backbone" not in methods:
        return methods
    base = methods[methods["is_baseline"].astype(bool) & (methods["kind"] == "retrained")]
    on_target = methods["backbone"].isin(base["backbone"]) | methods["kind"].isin(WITHOUT_TARGET)
    return methods[on_target | base.empty]


def method_scores(data: ComparisonData, metric: str | None = None) -> list[MethodScore]:
    """Return the methods of a comparison on the reference's backbone, in its order.

    metric: one that the comparison has (default: the primary one).
    """
    metric = metric or data.metric
    methods = methods_on_target(data.methods)
    table = data.scores[data.scores["metric"] == metric].set_index("method")
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    scores = []
    for row in methods.to_dict("records"):
        score: dict[Any, Any] = dict(table.loc[row["method"]])
        low, high = sorted((sign * score["difference_low"], sign * score["difference_high"]))
        numbers = {name: float(score[name]) for name in ("value", "low", "high")} | {
            name: float("nan") if row.get(name) is None else float(row[name])
            for name in ("seconds", "users_trained", "seed", "flops")
        }
        scores.append(
            MethodScore(
                method=row["method"],
                kind=row["kind"],
                device=row["device"],
                loss=float(sign * score["difference"]),
                loss_low=float(low),
                loss_high=float(high),
                is_reuse=bool(row.get("is_reuse", False)),
                **numbers,
            )
        )
    return scores


def user_sentences(effects: UserEffects | None) -> tuple[str, ...]:
    """Return sentences on how many users regress, and with what certainty."""
    if effects is None:
        return ()
    n_sure, n_likely = len(effects.worse(SURE)), len(effects.worse(LIKELY))
    sentences = [
        f"{n_sure:,} of {format_users(effects.users)} regress with a probability of {format_share(SURE)} or more, "
        f"{n_likely:,} with {format_share(LIKELY)} or more. A user regresses when the true loss grows by more than "
        f"{effects.threshold:.3f}, {format_share(USER_MARGIN)} of the retraining's mean loss."
    ]
    if effects.repeated is not None:
        check = effects.repeated
        verb = "repeats" if check.low > 0 else "does not measurably repeat"
        sentences.append(
            f"Check on other rows: the {check.n_users:,} users who are worst on one half of their "
            f"rows lose {format_interval(check.value, check.low, check.high, sign=True)} on the other "
            f"half; the regression {verb}."
        )
    return tuple(sentences)


@dataclass(frozen=True)
class _Judge:
    """The decision on a comparison whose reference `base` is the full retraining.

    measure: of `cost_measure`.
    """

    data: ComparisonData
    scores: list[MethodScore]
    base: MethodScore
    measure: Measure

    @property
    def margin(self) -> float:
        """The margin in the metric's units."""
        return self.data.margin * abs(self.base.value)

    @property
    def label(self) -> str:
        return METRICS[self.data.metric].label

    @property
    def task(self) -> str:
        return METRICS[self.data.metric].task

    def name(self, method: str) -> str:
        """Return a method's name in plain words."""
        return method_names(self.data.methods["method"])[method]

    def change(self, row: MethodScore) -> str:
        """Return a method's loss in percent of the retraining's value, in words."""
        metric = METRICS[self.data.metric]
        noun = metric.label if metric.higher_is_better else "error"
        return format_change(
            row.loss,
            row.loss_low,
            row.loss_high,
            self.base.value,
            noun=noun,
            higher_is_better=metric.higher_is_better,
            reference="full retraining",
        )

    def difference(self, row: MethodScore) -> str:
        """Return a method's score minus the retraining's with its interval, and the better direction, as text."""
        higher = METRICS[self.data.metric].higher_is_better
        value, low, high = (-1 if higher else 1) * np.array([row.loss, row.loss_low, row.loss_high])
        text = format_interval(value, min(low, high), max(low, high), sign=True)
        return f"{text} {self.label} ({'above' if higher else 'below'} 0 is better)"

    def decide(self, candidates: list[MethodScore]) -> Verdict:
        """Decide between the candidates and full retraining, and say why."""
        plans = _plans(self.data, self.base, candidates, self.measure)
        decision, pick, refine = self.choose(candidates, plans)
        headline = {
            "migrate": lambda: self.migrate_headline(pick),
            "reuse": lambda: self.migrate_headline(pick),
            "refine": lambda: self.refine_headline(pick, refine),
            "undecided": lambda: self.undecided_headline(pick, plans),
            "retrain": lambda: self.retrain_headline(pick, candidates),
        }[decision]()
        return self.verdict(decision, headline, pick, refine)

    def choose(
        self, candidates: list[MethodScore], plans: list[_Plan]
    ) -> tuple[Decision, MethodScore, tuple[str, ...]]:
        """Return the decision, the candidate that it is about, and the users to refine.

        The cheapest plan within the margin is recommended. A larger margin admits the same plans
        and more, so its recommended plan never costs more.
        """
        if (best := _cheapest(plans, self.margin)) is not None:
            if best.row.is_reuse:
                return "reuse", best.row, ()
            return ("refine" if best.refine else "migrate"), best.row, best.refine
        cheaper = [row for row in candidates if self.is_cheaper(row)]
        if plausible := [row for row in cheaper if row.loss < self.margin]:
            return "undecided", min(plausible, key=lambda row: row.loss), ()
        non_inferior = [row for row in candidates if row.loss_high <= self.margin]
        return "retrain", min(non_inferior or candidates, key=lambda row: row.loss), ()

    def is_cheaper(self, row: MethodScore) -> bool:
        return bool(getattr(row, self.measure) < getattr(self.base, self.measure))

    def migrate_headline(self, pick: MethodScore) -> str:
        """Return the headline for a candidate that is as good and cheaper."""
        return (
            f"{'Reuse and refine' if pick.is_reuse else 'Migrate'}: {self.name(pick.method)} has {self.change(pick)}, within "
            f"the {format_percent(self.data.margin)} that you accept, and took "
            f"{self.cost_in_words(pick)}."
        )

    def refine_headline(self, pick: MethodScore, refine: tuple[str, ...]) -> str:
        """Return the headline for refining users: those who regress, or because the migration falls short."""
        name, users = self.name(pick.method), format_users(self.data.users)
        cost = self.cost_in_words(pick, len(refine))
        beginning = f"Migrate all and refine {format_users(len(refine))}: {name}"
        if pick.loss_high <= self.margin:
            return (
                f"{beginning} has {self.change(pick)}, but {len(refine):,} of "
                f"{users} surely regress; together {cost}."
            )
        return (
            f"{beginning} alone is not surely as good as full retraining, and refining the "
            f"{len(refine):,} of {users} who likely regress is expected to close the gap, at {cost}."
        )

    def undecided_headline(self, best: MethodScore, plans: list[_Plan]) -> str:
        """Return the headline for a migration that is likely, but not surely, within the margin."""
        # The width of an interval shrinks with the square root of the number of users.
        ratio = (best.loss_high - best.loss) / (self.margin - best.loss)
        needed = int(np.ceil(ratio**2 * self.data.users))
        return (
            f"Not settled yet: {self.name(best.method)} has {self.change(best)}, "
            f"against {format_percent(self.data.margin)} that you accept. It would be settled by "
            f"measuring about {format_users(needed)}, or by accepting "
            f"{self.settling_margin(best, plans)}."
        )

    def settling_margin(self, best: MethodScore, plans: list[_Plan]) -> str:
        """Return in words the smallest margin with a recommendation, and its plan if that is not `best` alone."""
        needed = min(plan.needed for plan in plans)
        accepted = round_up_percent(needed / abs(self.base.value))
        plan = _cheapest(plans, max(accepted * abs(self.base.value), needed))
        assert plan is not None  # the one that needs the smallest margin is within it
        text = format_percent(accepted)
        if plan.row.method != best.method:
            text += f", which recommends {self.name(plan.row.method)}"
        return text + (f", with {format_users(len(plan.refine))} refined" if plan.refine else "")

    def retrain_headline(self, pick: MethodScore, candidates: list[MethodScore]) -> str:
        """Return the headline for a retraining: no candidate is as good, or those that are save nothing."""
        cost = self.cost_in_words(pick)
        if pick.loss_high <= self.margin:
            return (
                f"Retrain: {self.name(pick.method)} is as good ({self.label} within the margin of "
                f"{self.margin:.4f}), but took {cost}; here it saves nothing."
            )
        certainty = (
            "surely"
            if pick.loss_low > self.margin
            else "likely"
            if pick.loss > self.margin
            else "maybe"
        )
        costs_more = not self.is_cheaper(pick)
        same_kind = all(row.is_reuse == pick.is_reuse for row in candidates)
        return (
            f"Retrain: the best {pick.noun if same_kind else 'alternative'}, "
            f"{self.name(pick.method)}, has {self.change(pick)}, "
            f"{certainty} more of a loss than the {format_percent(self.data.margin)} that you "
            f"accept{f', and took {cost}' if costs_more else ''}."
        )

    def share(self, pick: MethodScore, measure: Measure, refined: int = 0) -> float:
        """Cost of a migration, and of refining `refined` users, as a share of the retraining's."""
        base_cost = getattr(self.base, measure)
        if not base_cost > 0:
            return float("nan")
        return float(getattr(pick, measure) / base_cost + refined / self.data.users)

    def cost_in_words(self, pick: MethodScore, refined: int = 0) -> str:
        """Return the cost in words: the measure that decides, and in any case the time."""
        time = format_share(self.share(pick, "seconds", refined))
        if self.measure == "seconds":
            return f"{time} of the retraining's time"
        arithmetic = format_share(self.share(pick, "flops", refined))
        return f"{arithmetic} of the retraining's arithmetic ({time} of its time)"

    def verdict(
        self, decision: Decision, headline: str, pick: MethodScore, refine: tuple[str, ...] = ()
    ) -> Verdict:
        """Add evidence, cautions and numbers to a decision."""
        disagreement, source = self.disagreement(pick), self.source_change()
        evidence = self.evidence(pick)
        cautions = (*((disagreement,) if disagreement else ()), *self.cautions(pick))
        if source is not None and source.warns:
            cautions = (source.sentence, *cautions)
        elif source is not None:
            evidence = (source.sentence, *evidence)
        return Verdict(
            decision,
            headline,
            evidence,
            cautions,
            self.data.metric,
            self.margin,
            pick.relation(self.margin),
            pick.method,
            self.base.method,
            pick.loss,
            pick.loss_low,
            pick.loss_high,
            self.share(pick, "seconds", len(refine)),
            refine,
            disagreement,
            source,
            self.share(pick, "flops", len(refine)) if self.measure == "flops" else None,
            pick.is_reuse,
        )

    def source_change(self) -> SourceChange | None:
        """Compare migrations and retrainings on the new model with the old model."""
        plans = {
            row.method: self.name(row.method)
            for row in self.scores
            if row.kind in (*MIGRATED, "retrained")
        }
        return source_change(self.data.changes, plans, self.data.metric)

    def evidence(self, pick: MethodScore) -> tuple[str, ...]:
        """Return the sentences that the verdict is based on."""
        base, data = self.base, self.data
        trained = pick.users_trained
        trainers = "all users" if math.isnan(trained) else format_users(int(trained))
        done = "were refined" if pick.is_reuse else "trained the adapter"
        sentences = [
            f"{self.label} {pick.interval} {'refined' if pick.is_reuse else 'migrated'} against {base.interval} retrained, over "
            f"{format_users(data.users)} and {data.rows:,} rows.",
            f"The {pick.noun} has {self.change(pick)}: "
            f"{self.difference(pick)}, paired over users. "
            f"The margin is {self.margin:.4f}, the {format_percent(data.margin)} that you accept. It is "
            f"{RELATIONS[pick.relation(self.margin)]}.",
            f"Measured time: {format_seconds(pick.seconds)} for the {pick.noun}, "
            f"{format_seconds(base.seconds)} for full retraining "
            f"({format_share(self.share(pick, 'seconds'))}); {trainers} {done}.",
        ]
        if self.measure == "flops":
            sentences.append(
                f"Arithmetic of the trainings: {format_share(self.share(pick, 'flops'))} of full "
                "retraining's. It decides what is cheaper; times depend on what else a machine does."
            )
        sentences += self.share_sentences(pick)
        return (*sentences, *user_sentences(data.effects(pick.method)))

    def share_sentences(self, pick: MethodScore) -> list[str]:
        """Return sentences on what the migration keeps of full retraining's gains, and on uncertain gains."""
        shares, sentences = self.data.shares, []
        of_pick = shares[shares["method"] == pick.method]
        for reference, name in REFERENCES.items():
            rows = list(of_pick[of_pick["reference"] == reference].itertuples())
            labels = {row.aspect: aspect_label(self.task, row.aspect) for row in rows}
            parts = [
                f"{format_share_interval(row.share, row.share_low, row.share_high)} of "
                f"the {labels[row.aspect]}"
                for row in rows
                if not math.isnan(row.share)
            ]
            if parts:
                sentences.append(
                    f"Of what full retraining gains over {name}, it keeps {' and '.join(parts)}."
                )
            sentences += [
                f"Full retraining has no sure gain over {name} in {labels[row.aspect]}: "
                f"{format_interval(row.gain, row.gain_low, row.gain_high, sign=True)}. So no share "
                "of it is given."
                for row in rows
                if math.isnan(row.share) and not math.isnan(row.gain)
            ]
        return sentences

    def disagreement(self, pick: MethodScore) -> str:
        """Return the caution that level and ranking disagree, or "".

        They disagree if the migration is surely behind full retraining in one of them, maybe by
        more than the margin, and in the other is within the margin or keeps a surely larger share.
        """
        rows: dict[str, tuple[MethodScore, MethodScore]] = {}
        for aspect, metric in ASPECTS.items():
            if metric[self.task] not in set(self.data.scores["metric"]):
                return ""
            scores = {row.method: row for row in method_scores(self.data, metric[self.task])}
            rows[aspect] = scores[pick.method], scores[self.base.method]
        for kept_aspect, lost_aspect in (("level", "ranking"), ("ranking", "level")):
            (lost_score, lost_base), (kept_score, kept_base) = rows[lost_aspect], rows[kept_aspect]
            margin = self.data.margin * abs(lost_base.value)
            behind = lost_score.loss_low > 0 and lost_score.loss_high > margin
            within = kept_score.loss_high <= self.data.margin * abs(kept_base.value)
            shares = self.shares_of_both(pick.method, kept_aspect, lost_aspect)
            keeps_more = shares is not None and shares[0]["share_low"] > shares[1]["share_high"]
            if not behind or not (within or keeps_more):
                continue
            labels = [aspect_label(self.task, aspect) for aspect in (kept_aspect, lost_aspect)]
            by_how_much = (
                "by more than the margin" if lost_score.loss_low > margin else "beyond chance"
            )
            where = f"behind full retraining {by_how_much}: {lost_score.value:.4f} against {lost_base.value:.4f}"
            if shares is None:
                return f"It is within the margin in {labels[0]}, but in {labels[1]} it is {where}."
            first, second = (
                format_share(share["share"]) if share["share"] > 0 else "none" for share in shares
            )
            return (
                f"It keeps {first} of the {labels[0]} that full retraining gains over "
                f"{REFERENCES[shares[0]['reference']]}, but {second} of the {labels[1]}, where it is "
                f"{where}."
            )
        return ""

    def shares_of_both(self, method: str, *aspects: str) -> list[dict[str, Any]] | None:
        """Return the rows of both aspects' shares from the first reference that has both, or None."""
        measured = self.data.shares[self.data.shares["share"].notna()]
        measured = measured[measured["method"] == method]
        for reference in REFERENCES:
            rows = measured[measured["reference"] == reference].to_dict("records")
            by_aspect: dict[str, dict[Any, Any]] = {row["aspect"]: row for row in rows}
            if by_aspect.keys() >= set(aspects):
                return [by_aspect[aspect] for aspect in aspects]
        return None

    def cautions(self, pick: MethodScore) -> tuple[str, ...]:
        """Return sentences that limit what can be concluded from the verdict."""
        data, cautions = self.data, []
        for row in self.scores:
            behind = pick.loss_high < row.loss_low
            # The shuffled control checks an adapter, which reused prompts do not have.
            if row.kind == "shuffled" and not behind and not pick.is_reuse:
                cautions.append(
                    f"The check with prompts swapped between users ({row.value:.4f}) is not measurably behind the migration "
                    f"({pick.value:.4f}): the adapter may use little of what the old prompts hold."
                )
            elif row.kind == "random" and not behind:
                cautions.append(
                    f"Random prompts ({row.value:.4f}) are not measurably behind the {pick.noun}: the "
                    "prompts may not matter here."
                )
        competitive = [
            row for row in self.scores if row.kind == "baseline" and row.loss_low <= pick.loss_high
        ]
        if competitive:
            best = min(competitive, key=lambda row: row.loss)
            cautions.append(
                f"{best.method}, which needs no language model, reaches {best.value:.4f} and is not "
                f"measurably behind the {pick.noun} ({pick.value:.4f})."
            )
        ranking = RANKING_METRIC[self.task]
        if ranking not in set(data.scores["metric"]):
            cautions.append(
                f"The order of each user's items ({METRICS[ranking].label}) is not measured here."
            )
        if data.users < FEW_USERS:
            cautions.append(f"Only {format_users(data.users)} were measured; intervals are rough.")
        if data.rows_left_out:
            cautions.append(
                f"{data.rows_left_out:,} rows that not every method predicted are left out."
            )
        if pick.device != self.base.device:
            cautions.append(
                f"Times are not comparable: the {pick.noun} ran on {pick.device}, the retraining on "
                f"{self.base.device}."
            )
        seeds = {row.seed for row in self.scores if row.kind in (*MIGRATED, "retrained")}
        same_seed = len(seeds) == 1 and not any(math.isnan(seed) for seed in seeds)
        scope = "One seed" if same_seed else "Each figure is of one training"
        cautions.append(f"{scope}: the intervals hold for other users, not for other trainings.")
        return tuple(cautions)


def _refinable(effects: UserEffects | None, probability: float) -> tuple[str, ...]:
    """Return users who regress, if regressions on one half of the rows repeat on the other; else none."""
    if effects is None or effects.repeated is None or effects.repeated.low <= 0:
        return ()
    return tuple(effects.worse(probability)["user_id"])
