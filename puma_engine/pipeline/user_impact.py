"""The effects of each method on users, computed when a comparison is made and stored with it.

Four tables of the comparison run, with a column "evaluation": "effects" has one row a method
(users, rows, threshold, spread, the check on other rows as repeated, repeated_low,
repeated_high and repeated_users, and the shares of users better and worse off);
"effects_users" has the users most likely to regress (part "likely") and a seeded sample of
all (part "drawn"); "effects_bars" is a histogram of differences; "effects_groups" has the
difference in quintiles of users by "variance" and "train_rows" (column "by"). Methods without
a language model are left out.
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

MAX_SAMPLED = 20_000
LISTED_USERS = 200
BINS = 60
GROUPED_BY = ("variance", "train_rows")
SUMMARY, USERS, BARS, GROUPS = "effects", "effects_users", "effects_bars", "effects_groups"


@dataclass(frozen=True)
class UserImpact:
    """The effects of a method on users against the comparison's reference.

    effects: its frame holds only the users most likely to regress. better, worse: shares of
    users with a lower and a higher loss. sample: a seeded sample of users, as that frame. bars:
    a histogram of differences (see difference_bins). groups: by_group in quintiles, by
    GROUPED_BY.
    """

    effects: UserEffects
    better: float
    worse: float
    sample: pd.DataFrame
    bars: pd.DataFrame
    groups: dict[str, pd.DataFrame]


def effects_between(users: pd.DataFrame, evaluation: str, reference: str) -> UserEffects:
    """Return the effects of an evaluation against the reference, from a comparison's table "users"."""
    columns = {f"{name}_{evaluation}": name for name in ("loss", "sd", "half")}
    frame = users[["user_id", "n", *columns]].rename(columns=columns)
    return user_effects(frame.assign(reference=users[f"loss_{reference}"]))


def groups_of(
    users: pd.DataFrame, effects: UserEffects, *, ratings: bool
) -> dict[str, pd.DataFrame]:
    """Return the differences in quintiles of users by GROUPED_BY; see `by_group`."""
    activity = users.set_index("user_id")
    return {
        name: by_group(effects.frame, quantile_groups(activity[name]), root=ratings)
        for name in GROUPED_BY
    }


def measure_user_impact(
    users: pd.DataFrame, evaluation: str, reference: str, *, ratings: bool
) -> UserImpact:
    """Compute the impact of an evaluation from a comparison's table "users"."""
    effects = effects_between(users, evaluation, reference)
    frame = effects.frame
    gaps = with_values(frame, ratings=ratings)["gap"].to_numpy()
    listed = max(LISTED_USERS, len(effects.worse(LIKELY)))
    return UserImpact(
        replace(effects, frame=frame.head(listed)),
        float((gaps < 0).mean()),
        float((gaps > 0).mean()),
        frame.sample(min(MAX_SAMPLED, len(frame)), random_state=0),
        difference_bins(gaps, BINS),
        groups_of(users, effects, ratings=ratings),
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
    """Compute the impact of these evaluations and store it with a running comparison."""
    tables: dict[str, list[pd.DataFrame]] = {SUMMARY: [], USERS: [], BARS: [], GROUPS: []}
    for evaluation in evaluations:
        impact = measure_user_impact(users, evaluation, reference, ratings=ratings)
        effects = impact.effects
        check = effects.repeated or Interval(np.nan, np.nan, np.nan, 0)
        summary = {
            "users": effects.users,
            "rows": effects.rows,
            "threshold": effects.threshold,
            "spread": effects.spread,
            "repeated": check.value,
            "repeated_low": check.low,
            "repeated_high": check.high,
            "repeated_users": check.n_users,
            "better": impact.better,
            "worse": impact.worse,
        }
        likely, sample = effects.frame.assign(part="likely"), impact.sample.assign(part="drawn")
        groups = [frame.assign(by=name) for name, frame in impact.groups.items()]
        frames = (
            pd.DataFrame([summary]),
            pd.concat([likely, sample]),
            impact.bars,
            pd.concat(groups),
        )
        for rows, frame in zip(tables.values(), frames, strict=True):
            rows.append(frame.assign(evaluation=evaluation))
    for name, rows in tables.items():
        if rows:
            ws.put_table(run_id, name, pd.concat(rows, ignore_index=True))


def load_user_impact(ws: Workspace, run: Run, evaluation: str) -> UserImpact | None:
    """Read the stored impact of an evaluation; None where a comparison stores none (older ones)."""
    if not any(file["name"] == SUMMARY for file in ws.artifacts(run.id)):
        return None
    where = {"evaluation": [evaluation]}
    summary, users, bars, groups = (
        ws.get_table(run.id, name, where=where).drop(columns="evaluation")
        for name in (SUMMARY, USERS, BARS, GROUPS)
    )
    if summary.empty:
        return None
    facts: dict[str, Any] = dict(summary.iloc[0])
    check = None
    if facts["repeated_users"]:
        names = ("repeated", "repeated_low", "repeated_high")
        value, low, high = (float(facts[name]) for name in names)
        check = Interval(value, low, high, int(facts["repeated_users"]))
    parts = {
        name: frame.drop(columns="part").reset_index(drop=True)
        for name, frame in users.groupby("part")
    }
    by = {
        name: frame.drop(columns="by").reset_index(drop=True)
        for name, frame in groups.groupby("by")
    }
    return UserImpact(
        UserEffects(
            parts["likely"],
            float(facts["threshold"]),
            float(facts["spread"]),
            check,
            int(facts["users"]),
            int(facts["rows"]),
        ),
        float(facts["better"]),
        float(facts["worse"]),
        parts["drawn"],
        bars,
        {name: by[name] for name in GROUPED_BY},
    )
