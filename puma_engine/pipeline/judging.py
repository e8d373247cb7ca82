"""The verdict on a comparison run, from its tables."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pandas as pd

from puma_engine.errors import DataError, StoreError
from puma_engine.pipeline.comparing import comparison_users
from puma_engine.pipeline.stage import Reference, find
from puma_engine.settings import MARGIN
from puma_engine.store import Run, Workspace
from puma_engine.user_effects import UserEffects, user_effects
from puma_engine.verdict import Question, Verdict, judge


def judge_comparison(ws: Workspace, comparison: Reference, *, margin: float = MARGIN) -> Verdict:
    """Return what a comparison means; margin is a share of the full retraining's value.

    Raises ConfigError for a margin outside (0, 1), NotFoundError or StoreError for a run
    that is no finished comparison.
    """
    return judge(question_of(ws, comparison, margin=margin))


def question_of(ws: Workspace, comparison: Reference, *, margin: float = MARGIN) -> Question:
    """Return what `puma_engine.verdict.judge` weighs for a comparison run."""
    run = find(ws, comparison, "comparison")
    methods = with_backbones(ws, ws.get_table(run.id, "methods"))
    facts = run.summary
    return Question(
        methods,
        ws.get_table(run.id, "comparison"),
        facts["main_metric"],
        facts["users"],
        facts["rows"],
        facts.get("rows_left_out", 0),
        margin,
        _effects(ws, run, methods),
    )


def _effects(ws: Workspace, run: Run, methods: pd.DataFrame) -> Callable[[str], UserEffects | None]:
    """How users fare under a method, by its label; None where a file is gone."""
    evaluations = methods.set_index("method")["evaluation"]
    base = methods.loc[methods["is_baseline"].astype(bool), "evaluation"].iloc[0]

    @functools.cache
    def table() -> pd.DataFrame | None:
        try:
            return comparison_users(ws, run)
        except (StoreError, DataError):
            return None

    @functools.cache
    def effects(method: str) -> UserEffects | None:
        users = table()
        return None if users is None else effects_between(users, evaluations[method], base)

    return effects


def effects_between(users: pd.DataFrame, evaluation: str, reference: str) -> UserEffects:
    """How users fare under an evaluation against the comparison's reference, by evaluation ids."""
    own = {f"{name}_{evaluation}": name for name in ("loss", "sd", "half")}
    frame = users[["user_id", "n", *own]].rename(columns=own)
    return user_effects(frame.assign(reference=users[f"loss_{reference}"]))


def with_backbones(ws: Workspace, methods: pd.DataFrame) -> pd.DataFrame:
    """Add the column backbone: the name of the backbone that a method's prompts are for."""
    names = []
    for subject in methods["run"]:
        inputs = ws.run(subject).inputs if isinstance(subject, str) else {}
        names.append(ws.run(inputs["backbone"]).name if "backbone" in inputs else None)
    return methods.assign(backbone=pd.Series(names, index=methods.index, dtype=object))
