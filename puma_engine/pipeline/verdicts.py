"""The verdict on a comparison run, from its tables."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import DataError, StoreError
from puma_engine.evaluation.user_effects import UserEffects
from puma_engine.evaluation.verdict import ComparisonData, Verdict, judge
from puma_engine.pipeline.comparing import comparison_users
from puma_engine.pipeline.stage import Reference, find
from puma_engine.pipeline.user_impact import UserImpact, load_user_impact, measure_user_impact
from puma_engine.store import Run, Workspace


def judge_comparison(ws: Workspace, comparison: Reference, *, margin: float = MARGIN) -> Verdict:
    """Return what a comparison means; margin is a share of the full retraining's value.

    Raises ConfigError for a margin outside (0, 1), NotFoundError or StoreError for a run
    that is no finished comparison.
    """
    return judge(question_of(ws, comparison, margin=margin))


def question_of(ws: Workspace, comparison: Reference, *, margin: float = MARGIN) -> ComparisonData:
    """Return what `puma_engine.evaluation.verdict.judge` weighs for a comparison run."""
    run = find(ws, comparison, "comparison")
    methods = with_backbones(ws, ws.get_table(run.id, "methods"))
    facts = run.summary
    return ComparisonData(
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

    @functools.cache
    def effects(method: str) -> UserEffects | None:
        found = user_impact_between(ws, run, evaluations[method])
        return None if found is None else found.effects

    return effects


def user_impact_between(ws: Workspace, run: Run, evaluation: str) -> UserImpact | None:
    """How users fare under an evaluation of a comparison; None where a file is gone.

    It is read where the comparison keeps it, and worked out for older ones.
    """
    try:
        kept = load_user_impact(ws, run, evaluation)
        if kept is not None:
            return kept
        users, ratings = comparison_users(ws, run), run.summary["task"] == "rating"
    except (StoreError, DataError):
        return None
    return measure_user_impact(users, evaluation, run.inputs["reference"], ratings=ratings)


def with_backbones(ws: Workspace, methods: pd.DataFrame) -> pd.DataFrame:
    """Add the column backbone: the name of the backbone that a method's prompts are for."""
    names = []
    for subject in methods["run"]:
        inputs = ws.run(subject).inputs if isinstance(subject, str) else {}
        names.append(ws.run(inputs["backbone"]).name if "backbone" in inputs else None)
    return methods.assign(backbone=pd.Series(names, index=methods.index, dtype=object))
