"""How users fare under each method of a comparison: worked out once, when it is made, and kept.

Four tables of the comparison run, told apart by the column "evaluation": "effects" has one row
a method (users, rows, threshold, spread, the check on other rows as repeated, repeated_low,
repeated_high and repeated_users, and the shares of users better and worse off);
"effects_users" has the users most likely to regress (part "likely") and a seeded sample of
all (part "drawn"); "effects_bars" counts users by how far they move; "effects_groups" has the
difference in fifths of users by "variance" and "train_rows" (column "by"). Methods that need
no language model are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.evaluation.metrics import Interval
from puma_engine.evaluation.user_effects import (
    LIKELY,
    UserEffects,
    by_group,
    difference_bins,
    quantile_groups,
    user_effects,
    with_values,
)
from puma_engine.store import Run, Workspace

MOST_DRAWN = 20_000
MOST_LISTED = 200
BINS = 60
GROUPED_BY = ("variance", "train_rows")
SUMMARY, USERS, BARS, GROUPS = "effects", "effects_users", "effects_bars", "effects_groups"


@dataclass(frozen=True)
class UserImpact:
    """How users fare under a method against the comparison's reference.

    effects: its frame holds the users most likely to regress alone. better, worse: shares of
    users with a lower and a higher loss. drawn: a seeded sample of users, as that frame. bars:
    how many users differ by how much (see difference_bins). groups: by_group in fifths, by
    GROUPED_BY.
    """

    effects: UserEffects
    better: float
    worse: float
    drawn: pd.DataFrame
    bars: pd.DataFrame
    groups: dict[str, pd.DataFrame]


def effects_between(users: pd.DataFrame, evaluation: str, reference: str) -> UserEffects:
    """How users fare under an evaluation against the comparison's reference, by evaluation ids."""
    own = {f"{name}_{evaluation}": name for name in ("loss", "sd", "half")}
    frame = users[["user_id", "n", *own]].rename(columns=own)
    return user_effects(frame.assign(reference=users[f"loss_{reference}"]))


def measure_user_impact(
    users: pd.DataFrame, evaluation: str, reference: str, *, ratings: bool
) -> UserImpact:
    """Work out from a comparison's table "users" what is told of all of them."""
    effects = effects_between(users, evaluation, reference)
    frame = effects.frame
    gaps = with_values(frame, ratings=ratings)["gap"].to_numpy()
    fifths = {name: quantile_groups(users.set_index("user_id")[name]) for name in GROUPED_BY}
    kept = max(MOST_LISTED, len(effects.worse(LIKELY)))
    return UserImpact(
        replace(effects, frame=frame.head(kept)),
        float((gaps < 0).mean()),
        float((gaps > 0).mean()),
        frame.sample(min(MOST_DRAWN, len(frame)), random_state=0),
        difference_bins(gaps, BINS),
        {name: by_group(frame, labels, root=ratings) for name, labels in fifths.items()},
    )


def store_user_impact(
    ws: Workspace,
    run_id: str,
    users: pd.DataFrame,
    evaluations: Sequence[str],
    reference: str,
    *,
    ratings: bool,
) -> None:
    """Work out how users fare under these evaluations and keep it with a running comparison."""
    parts: dict[str, list[pd.DataFrame]] = {SUMMARY: [], USERS: [], BARS: [], GROUPS: []}
    for evaluation in evaluations:
        found = measure_user_impact(users, evaluation, reference, ratings=ratings)
        for name, frame in _frames(found).items():
            parts[name].append(frame.assign(evaluation=evaluation))
    for name, frames in parts.items():
        if frames:
            ws.put_table(run_id, name, pd.concat(frames, ignore_index=True))


def load_user_impact(ws: Workspace, run: Run, evaluation: str) -> UserImpact | None:
    """Read what a comparison keeps of an evaluation; None if it keeps nothing (older ones)."""
    if not any(file["name"] == SUMMARY for file in ws.artifacts(run.id)):
        return None
    own = {"evaluation": [evaluation]}
    summary, users, bars, groups = (
        ws.get_table(run.id, name, where=own).drop(columns="evaluation")
        for name in (SUMMARY, USERS, BARS, GROUPS)
    )
    if summary.empty:
        return None
    facts: dict[str, Any] = dict(summary.iloc[0])
    parts = {name: frame.drop(columns="part") for name, frame in users.groupby("part")}
    by = {str(name): frame.drop(columns="by") for name, frame in groups.groupby("by")}
    return UserImpact(
        UserEffects(
            parts["likely"].reset_index(drop=True),
            float(facts["threshold"]),
            float(facts["spread"]),
            _repeated(facts),
            int(facts["users"]),
            int(facts["rows"]),
        ),
        float(facts["better"]),
        float(facts["worse"]),
        parts["drawn"].reset_index(drop=True),
        bars,
        {name: by[name].reset_index(drop=True) for name in GROUPED_BY},
    )


def _frames(found: UserImpact) -> dict[str, pd.DataFrame]:
    effects = found.effects
    seen = effects.repeated or Interval(np.nan, np.nan, np.nan, 0)
    facts = {"users": effects.users, "rows": effects.rows, "threshold": effects.threshold}
    facts |= {"spread": effects.spread, "repeated": seen.value, "repeated_low": seen.low}
    facts |= {"repeated_high": seen.high, "repeated_users": seen.n_users}
    facts |= {"better": found.better, "worse": found.worse}
    people = [effects.frame.assign(part="likely"), found.drawn.assign(part="drawn")]
    groups = [frame.assign(by=name) for name, frame in found.groups.items()]
    return {
        SUMMARY: pd.DataFrame([facts]),
        USERS: pd.concat(people, ignore_index=True),
        BARS: found.bars,
        GROUPS: pd.concat(groups, ignore_index=True),
    }


def _repeated(facts: dict[str, Any]) -> Interval | None:
    if not facts["repeated_users"]:
        return None
    value, low, high = (facts[name] for name in ("repeated", "repeated_low", "repeated_high"))
    return Interval(float(value), float(low), float(high), int(facts["repeated_users"]))
