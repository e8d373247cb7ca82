"""The sentences of a verdict: plain text, every number with its unit, interval and count."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from puma_engine.evaluation.metrics import NAMES
from puma_engine.evaluation.user_effects import LIKELY, SURE, USER_MARGIN, UserEffects

if TYPE_CHECKING:
    from puma_engine.evaluation.verdict import ComparisonData, MethodScore, Relation

RELATIONS = {
    "better": "measurably better than full retraining",
    "equivalent": "equivalent to full retraining within the margin",
    "not worse": "not worse than full retraining by the margin, maybe better",
    "worse": "worse than full retraining by more than the margin",
    "uncertain": "not measured well enough to say that it is within the margin",
}
FEW_USERS = 100


def incomplete(rows: list[MethodScore], base: MethodScore | None) -> str:
    """Say what is missing for a verdict."""
    kinds = {row.kind for row in rows}
    if "migrated" not in kinds and "retrained" not in kinds:
        return "No verdict yet: add a migration and the full retraining on the same backbone."
    if "retrained" not in kinds:
        return "No verdict yet: add the full retraining on the target backbone to compare with."
    if "migrated" not in kinds:
        return "No verdict yet: add a migration to the backbone of the retraining."
    return (
        "No verdict yet: differences are taken from another method; take them from full retraining."
    )


def migrate(pick: MethodScore, relation: Relation, cost: float) -> str:
    """Say that migrating is enough."""
    return f"Migrate: {pick.method} is {RELATIONS[relation]} and took {percent(cost)} of its time."


def refine(pick: MethodScore, relation: Relation, refined: int, users: int, cost: float) -> str:
    """Say that migrating is enough for all but some users."""
    return (
        f"Migrate all and refine {people(refined)}: {pick.method} is {RELATIONS[relation]} overall, "
        f"but {refined:,} of {people(users)} surely regress; together {percent(cost)} of the "
        "retraining's time."
    )


def refine_to_close(pick: MethodScore, refined: int, users: int, cost: float) -> str:
    """Say that refining some users closes the gap."""
    return (
        f"Migrate all and refine {people(refined)}: {pick.method} alone is not surely as good as full "
        f"retraining, and refining the {refined:,} of {people(users)} who likely regress is expected "
        f"to close the gap, at {percent(cost)} of the retraining's time."
    )


def retrain(pick: MethodScore, base: MethodScore, metric: str, margin: float) -> str:
    """Say that no migration is as good."""
    sure = "surely" if pick.loss_low > margin else "likely" if pick.loss > margin else "maybe"
    slow = pick.seconds >= base.seconds
    saved = f", and took {percent(pick.seconds / base.seconds)} of its time" if slow else ""
    return (
        f"Retrain: the best migration, {pick.method}, loses "
        f"{between(pick.loss, pick.loss_low, pick.loss_high)} {NAMES[metric]} against full retraining, "
        f"{sure} more than the margin of {margin:.4f}{saved}."
    )


def no_saving(pick: MethodScore, base: MethodScore, metric: str, margin: float) -> str:
    """Say that migrating is as good but no cheaper."""
    return (
        f"Retrain: {pick.method} is as good ({NAMES[metric]} within the margin of {margin:.4f}), but "
        f"took {percent(pick.seconds / base.seconds)} of the retraining's time; here it saves nothing."
    )


def undecided(pick: MethodScore, metric: str, margin: float, needed: int) -> str:
    """Say that the measurement is too coarse."""
    return (
        f"Undecided: {pick.method} loses {between(pick.loss, pick.loss_low, pick.loss_high)} "
        f"{NAMES[metric]} against a margin of {margin:.4f}; about {people(needed)} would settle it."
    )


def evidence(
    question: ComparisonData,
    rows: list[MethodScore],
    base: MethodScore,
    pick: MethodScore,
    margin: float,
    relation: Relation,
    effects: UserEffects | None,
) -> tuple[str, ...]:
    """Return the sentences that a verdict rests on."""
    name = NAMES[question.metric]
    told = [
        f"{name} {between(pick.value, pick.low, pick.high)} migrated against "
        f"{between(base.value, base.low, base.high)} retrained, over {people(question.users)} and "
        f"{question.rows:,} rows.",
        f"The migration loses {between(pick.loss, pick.loss_low, pick.loss_high, sign=True)} "
        f"{name} (below 0: it gains), paired over users; the margin is {margin:.4f} "
        f"({percent(question.margin)} of the retraining's value). It is {RELATIONS[relation]}.",
        f"Measured time: {seconds(pick.seconds)} for the migration, {seconds(base.seconds)} for "
        f"full retraining ({percent(pick.seconds / base.seconds)}); "
        f"{_trained(pick)} trained the adapter.",
    ]
    told += _kept(rows, base, pick)
    return (*told, *user_sentences(effects))


def user_sentences(effects: UserEffects | None) -> tuple[str, ...]:
    """Say how many users regress, and how sure that is."""
    if effects is None:
        return ()
    total = effects.users
    sure, likely = len(effects.worse(SURE)), len(effects.worse(LIKELY))
    told = [
        f"{sure:,} of {people(total)} regress with a probability of {SURE:.0%} or more, {likely:,} "
        f"with {LIKELY:.0%} or more. A user regresses when the true loss grows by more than "
        f"{effects.threshold:.3f}, {USER_MARGIN:.0%} of the retraining's mean loss."
    ]
    if effects.repeated is not None:
        seen = effects.repeated
        verb = "repeats" if seen.low > 0 else "does not measurably repeat"
        told.append(
            f"Check on other rows: the {seen.n_users:,} users who are worst on one half of their "
            f"rows lose {between(seen.value, seen.low, seen.high, sign=True)} on the other half; "
            f"the regression {verb}."
        )
    return tuple(told)


def cautions(
    question: ComparisonData, rows: list[MethodScore], base: MethodScore, pick: MethodScore
) -> tuple[str, ...]:
    """Return what a reader must know before acting on the verdict."""
    told = [*_controls(rows, pick)]
    if question.users < FEW_USERS:
        told.append(f"Only {people(question.users)} were measured; intervals are rough.")
    if question.rows_left_out:
        told.append(
            f"{question.rows_left_out:,} rows that not every method predicted are left out."
        )
    if pick.device != base.device:
        told.append(
            f"Times are not comparable: the migration ran on {pick.device}, the retraining on "
            f"{base.device}."
        )
    seeds = {row.seed for row in rows if row.kind in ("migrated", "retrained")}
    if len(seeds) == 1:
        told.append("One seed: the intervals hold for other users, not for other trainings.")
    return tuple(told)


def _controls(rows: list[MethodScore], pick: MethodScore) -> list[str]:
    """What controls and baselines say about the migration."""
    told = []
    for row in rows:
        behind = pick.loss_high < row.loss_low
        if row.kind == "shuffled" and not behind:
            told.append(
                f"The shuffled control ({row.value:.4f}) is not measurably behind the migration "
                f"({pick.value:.4f}): the adapter may owe little to what the old prompts hold."
            )
        elif row.kind == "random" and not behind:
            told.append(
                f"Random prompts ({row.value:.4f}) are not measurably behind the migration: the "
                "prompts may not matter here."
            )
    simple = [row for row in rows if row.kind == "baseline" and row.loss_low <= pick.loss_high]
    if simple:
        best = min(simple, key=lambda row: row.loss)
        told.append(
            f"{best.method}, which needs no language model, reaches {best.value:.4f} and is not "
            f"measurably behind the migration ({pick.value:.4f})."
        )
    return told


def _kept(rows: list[MethodScore], base: MethodScore, pick: MethodScore) -> list[str]:
    """How much of what retraining gains over random prompts the migration keeps."""
    plain = next((row for row in rows if row.kind == "random"), None)
    if plain is None or plain.loss_low <= 0:
        return []
    return [
        f"It keeps {percent(1 - pick.loss / plain.loss)} of what full retraining gains over random "
        f"prompts ({plain.value:.4f})."
    ]


def _trained(row: MethodScore) -> str:
    return "all users" if math.isnan(row.users_trained) else people(int(row.users_trained))


def between(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """Return a value with its 95 % interval."""
    form = "+.4f" if sign else ".4f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def percent(share: float) -> str:
    """Return a share as percent with two digits that count."""
    if not math.isfinite(share):
        return "an unknown share"
    return f"{share:.0%}" if abs(share) >= 0.1 else f"{100 * share:.2g} %".replace(" %", "%")


def seconds(value: float) -> str:
    """Return a duration as people read it."""
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def people(count: int) -> str:
    """Return so many users."""
    return f"{count:,} user" if count == 1 else f"{count:,} users"
