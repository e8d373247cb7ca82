"""The verdict on a comparison run, from its tables."""

from __future__ import annotations

import functools

import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import DataError, StoreError
from puma_engine.evaluation.metrics import PRIMARY_METRIC
from puma_engine.evaluation.user_effects import UserEffects, UserImpact, measure_user_impact
from puma_engine.evaluation.verdict import ComparisonData, Verdict, judge
from puma_engine.pipeline import stage
from puma_engine.pipeline.comparing import (
    cached_result,
    comparison_changes,
    comparison_scores,
    comparison_shares,
    comparison_users,
    method_cost,
)
from puma_engine.pipeline.evaluating import reuses_prompts
from puma_engine.pipeline.user_impact import load_user_impact
from puma_engine.store import Run, Workspace


def judge_comparison(
    ws: Workspace, comparison: stage.Reference, *, margin: float = MARGIN
) -> Verdict:
    """Return the verdict on a comparison; margin is a share of the full retraining's value.

    Raises ConfigError for a margin outside (0, 1), NotFoundError or StoreError for a run
    that is not a finished comparison.
    """
    return judge(comparison_data(ws, comparison, margin=margin))


def comparison_data(
    ws: Workspace, comparison: stage.Reference, *, margin: float = MARGIN
) -> ComparisonData:
    """Return the input of `puma_engine.evaluation.verdict.judge` for a comparison run.

    The primary metric is that of this version, not the one that the run names: older runs of clicks
    name AUC, but their tables also have uAUC. Raises the same errors as `judge_comparison`.
    """
    run = stage.find(ws, comparison, "comparison")
    methods = with_arithmetic(ws, with_backbones(ws, ws.get_table(run.id, "methods")))
    methods = methods.assign(is_reuse=[_is_reuse(ws, prompts) for prompts in methods["run"]])
    evaluations = methods.set_index("method")["evaluation"]

    @functools.cache
    def effects(method: str) -> UserEffects | None:
        impact = user_impact_between(ws, run, evaluations[method])
        return None if impact is None else impact.effects

    return ComparisonData(
        methods,
        comparison_scores(ws, run),
        PRIMARY_METRIC[run.summary["task"]],
        run.summary["users"],
        run.summary["rows"],
        run.summary.get("rows_left_out", 0),
        margin,
        effects,
        comparison_shares(ws, run),
        comparison_changes(ws, run),
    )


def user_impact_between(ws: Workspace, run: Run, evaluation: str) -> UserImpact | None:
    """Return the impact of an evaluation of a comparison on users; None if a file is missing.

    It is read from the comparison, or computed for an older one that does not store it.
    """

    def compute() -> UserImpact:
        users, ratings = comparison_users(ws, run), run.summary["task"] == "rating"
        return measure_user_impact(users, evaluation, run.inputs["reference"], ratings=ratings)

    try:
        impact = load_user_impact(ws, run, evaluation)
        if impact is None:
            impact = cached_result(ws, run, f"effects of {evaluation}", compute)
    except (StoreError, DataError):
        return None
    return impact


def with_arithmetic(ws: Workspace, methods: pd.DataFrame) -> pd.DataFrame:
    """Add the column flops: the arithmetic of a method's trainings, None if it was not measured."""
    runs = [ws.run(evaluation) for evaluation in methods["evaluation"]]
    flops = [method_cost(ws, run)["flops"] if run.status == "finished" else None for run in runs]
    return methods.assign(flops=pd.Series(flops, index=methods.index, dtype=object))


def _is_reuse(ws: Workspace, prompts: str | None) -> bool:
    """Return whether the prompts of a method, a run id, were refined without a migration."""
    run = ws.run(prompts) if isinstance(prompts, str) else None
    if run is None or "start" not in run.inputs:
        return False
    return reuses_prompts(run, ws.run(run.inputs["start"]))


def with_backbones(ws: Workspace, methods: pd.DataFrame) -> pd.DataFrame:
    """Add the column backbone: the name of the backbone that reads a method's prompts."""
    names = []
    for prompts_run, evaluation in zip(methods["run"], methods["evaluation"], strict=True):
        inputs = ws.run(prompts_run).inputs if isinstance(prompts_run, str) else {}
        inputs = inputs | ws.inputs_of(evaluation)
        names.append(ws.run(inputs["backbone"]).name if "backbone" in inputs else None)
    return methods.assign(backbone=pd.Series(names, index=methods.index, dtype=object))
