"""The impact of each method on users, which is computed and stored with a comparison.

The comparison run has four tables with a column "evaluation": "effects" has one row for each method
(users, rows, threshold, spread, the check on other rows as repeated, repeated_low, repeated_high
and repeated_users, and the shares of users better and worse off); "effects_users" has the users
most likely to regress (part "likely") and a seeded sample of all (part "drawn"); "effects_bars" is
a histogram of differences; "effects_groups" has the difference in quintiles of users by "variance"
and "train_rows" (column "by"). Methods without a language model are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.evaluation.metrics import Interval
from puma_engine.evaluation.user_effects import (
    GROUPED_BY,
    UserEffects,
    UserImpact,
    measure_user_impact,
)
from puma_engine.store import Run, Workspace

SUMMARY, USERS, BARS, GROUPS = "effects", "effects_users", "effects_bars", "effects_groups"


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
        most_affected, sample = (
            effects.frame.assign(part="likely"),
            impact.sample.assign(part="drawn"),
        )
        groups = [frame.assign(by=name) for name, frame in impact.groups.items()]
        frames = (
            pd.DataFrame([summary]),
            pd.concat([most_affected, sample]),
            impact.bars,
            pd.concat(groups),
        )
        for rows, frame in zip(tables.values(), frames, strict=True):
            rows.append(frame.assign(evaluation=evaluation))
    for name, rows in tables.items():
        if rows:
            ws.put_table(run_id, name, pd.concat(rows, ignore_index=True))


def load_user_impact(ws: Workspace, run: Run, evaluation: str) -> UserImpact | None:
    """Read the stored impact of an evaluation; None for older comparisons, which store none."""
    if not any(file["name"] == SUMMARY for file in ws.artifacts(run.id)):
        return None
    where = {"evaluation": [evaluation]}
    summary, users, bars, groups = (
        ws.get_table(run.id, name, where=where).drop(columns="evaluation")
        for name in (SUMMARY, USERS, BARS, GROUPS)
    )
    if summary.empty:
        return None
    totals: dict[str, Any] = dict(summary.iloc[0])
    check = None
    if totals["repeated_users"]:
        names = ("repeated", "repeated_low", "repeated_high")
        value, low, high = (float(totals[name]) for name in names)
        check = Interval(value, low, high, int(totals["repeated_users"]))
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
            float(totals["threshold"]),
            float(totals["spread"]),
            check,
            int(totals["users"]),
            int(totals["rows"]),
        ),
        float(totals["better"]),
        float(totals["worse"]),
        parts["drawn"],
        bars,
        {name: by[name] for name in GROUPED_BY},
    )
