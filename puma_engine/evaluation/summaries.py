"""Summaries over many evaluated methods: model pairs, chains, aggregations, selection strategies.

Most functions take the table of evaluated methods of one data set and split that
`puma_engine.pipeline.method_survey` makes, and return a table to draw. Of several runs of the same
method, the one that trained on the most users counts; of these, the latest.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.evaluation.metrics import METRICS, RANKING_METRIC, Interval

# Columns that are equal for a migration and the full retraining that it is compared with.
SAME_KIND = ["backbone", "template", "item_tokens"]
SCORES = ["evaluation", "value", "low", "high", "users_trained", "seed", "seconds"]


def gain(reference: pd.DataFrame, other: pd.DataFrame, metric: str) -> Interval:
    """Return how much better `other` is than `reference`, as a ratio (above 1: better) with its 95 % interval.

    Both frames have user_id, n and the metric of each user (auc for uauc), and are joined
    by user id. The ratio is reference / other where lower is better, else other / reference.
    The interval is normal on the log scale, by the delta method from each user's influence.
    Raises DataError if the metric is not a sum over users, or fewer than two users are in both.
    """
    column = METRICS[metric].user_column or metric
    if metric in ("auc", "ndcg", "accuracy") or column not in reference or column not in other:
        raise DataError(
            "A gain with interval needs RMSE, MAE, pair accuracy, log loss or uAUC, "
            f"not {metric!r}."
        )
    names = ["user_id", "n", column]
    both = reference[names].merge(
        other[names], on="user_id", validate="one_to_one", suffixes=("_reference", "_other")
    )
    both = both.dropna()
    if len(both) < 2:
        raise DataError("The two evaluations have fewer than two users in common.")
    power = 0.5 if metric == "rmse" else 1.0
    sums = []
    for side in ("reference", "other"):
        values = both[f"{column}_{side}"].to_numpy(np.float64)
        weight = (
            1.0 if metric in RANKING_METRIC.values() else both[f"n_{side}"].to_numpy(np.float64)
        )
        sums.append(weight * (values**2 if metric == "rmse" else values))
    if METRICS[metric].higher_is_better:
        sums.reverse()
    top, bottom = sums
    log_ratio = power * np.log(top.sum() / bottom.sum())
    influence = power * (top / top.sum() - bottom / bottom.sum())
    count = len(both)
    error = 1.96 * np.sqrt((influence**2).sum() * count / (count - 1))
    value, low, high = np.exp([log_ratio, log_ratio - error, log_ratio + error])
    return Interval(float(value), float(low), float(high), count)


def model_pairs(methods: pd.DataFrame) -> pd.DataFrame:
    """Return one row per source and target backbone: the migration, and retraining on the target.

    Retraining has the template of the migration and the same number of item prompt tokens. Columns:
    origin, target, evaluation, value, users_trained, retrained (its evaluation) and
    retrained_value.
    """
    single = methods[(methods["kind"] == "migrated") & (methods["hops"] == 1)]
    single = _preferred(single[single["sources"] == 1], ["origin", *SAME_KIND])
    retrained = _preferred(methods[methods["kind"] == "retrained"], SAME_KIND)
    retrained = retrained[[*SAME_KIND, "evaluation", "value"]].rename(
        columns={"evaluation": "retrained", "value": "retrained_value"}
    )
    pairs = single.merge(retrained, on=SAME_KIND, validate="many_to_one")
    pairs = _preferred(pairs, ["origin", "backbone"]).rename(columns={"backbone": "target"})
    columns = ["origin", "target", "evaluation", "value", "users_trained"]
    return pairs[[*columns, "retrained", "retrained_value"]].sort_values(
        ["origin", "target"], ignore_index=True
    )


def chains(methods: pd.DataFrame) -> pd.DataFrame:
    """Return one row per step of a chain of two hops or more; step 0 is the source prompts.

    Columns: chain (a label), run, step, backbone and the scores; steps without an evaluation are
    absent. A chain that is part of a longer one is not repeated.
    """
    # Prompts that another model reads, and blends with a baseline, do not measure this step.
    scored = methods[methods["run"].notna() & ~methods["kind"].isin(["reused", "blended"])]
    by_run = _preferred(scored, ["run"]).set_index("run")
    final_hops = methods[(methods["kind"] == "migrated") & (methods["hops"] >= 2)]
    final_hops = final_hops[final_hops["sources"] == 1]
    inner_runs = {run for steps in final_hops["steps"] for run in steps[:-1]}
    rows = []
    for end in final_hops[~final_hops["run"].isin(inner_runs)].to_dict("records"):
        for step, run in enumerate(end["steps"]):
            if run in by_run.index:
                rows.append(
                    {"chain": " → ".join(end["path"]), "run": end["run"], "step": step}
                    | by_run.loc[run, ["backbone", *SCORES]].to_dict()
                )
    steps = pd.DataFrame(rows, columns=["chain", "run", "step", "backbone", *SCORES])
    return steps.drop_duplicates(["run", "step"], ignore_index=True)


def aggregations(methods: pd.DataFrame) -> pd.DataFrame:
    """Return aggregated migrations and the single migrations of their sources, by target.

    Columns: target, origin (names joined by " + "), sources (how many) and the scores.
    Targets without an aggregation, or without a single migration to compare it with, are left out.
    """
    migrated = methods[methods["kind"] == "migrated"]
    rows = []
    for target, group in migrated.groupby("backbone", sort=True):
        aggregated = _preferred(group[group["sources"] > 1], ["origin"])
        sources = {run for runs in aggregated["source_runs"] for run in runs}
        single = group[group["sources"] == 1]
        source = single["source_runs"].map(lambda runs: runs[0])
        single = _preferred(single[source.isin(sources)], ["origin"])
        if len(aggregated) and len(single):
            rows.append(pd.concat([single, aggregated]).assign(target=target))
    names = ["target", "origin", "sources", *SCORES]
    if not rows:
        return pd.DataFrame(columns=names)
    return pd.concat(rows)[names].reset_index(drop=True)


def budgets(methods: pd.DataFrame) -> pd.DataFrame:
    """Return one row per migration by one strategy with different numbers of users, all users included.

    Taken are the source prompts, target, template and strategy with the most different numbers of
    users. Columns: origin, target, template, item_tokens, strategy, budget (users who train the
    adapter), flops and the scores, by budget and seed.
    """
    kind = ["target", *SAME_KIND[1:]]
    names = ["origin", *kind, "strategy", "budget", "flops", *SCORES]
    single = _single(methods)
    if single.empty:
        return pd.DataFrame(columns=names)
    some = single[single["strategy"] != "all"]
    if some.empty:
        return pd.DataFrame(columns=names)
    plan = ["source", *SAME_KIND]
    tried = some.groupby([*plan, "strategy"], dropna=False)["budget"].nunique().reset_index()
    most = tried.loc[[tried["budget"].idxmax()]]
    curve = single.merge(most[plan], on=plan)
    curve = curve[curve["strategy"].isin([most["strategy"].item(), "all"])]
    curve = curve.rename(columns={"backbone": "target"})
    return curve[names].sort_values(["budget", "seed"], ignore_index=True)


def strategies(methods: pd.DataFrame) -> pd.DataFrame:
    """Return one row per single migration on selected users: strategy, budget and the scores.

    Taken are the source prompts and target with the most strategies; the columns origin and target
    name them. budget: users who train the adapter.
    """
    names = ["origin", "target", "strategy", "budget", *SCORES]
    single = _single(methods)
    if single.empty:
        return pd.DataFrame(columns=names)
    tried = single.groupby(["source", "backbone"])["strategy"].nunique()
    source, target = tried.index[int(np.argmax(tried.to_numpy()))]
    pair = single[(single["source"] == source) & (single["backbone"] == target)]
    pair = pair.rename(columns={"backbone": "target"})
    return pair[names].sort_values(["budget", "strategy", "seed"], ignore_index=True)


def _single(methods: pd.DataFrame) -> pd.DataFrame:
    """Return migrations of one source in one hop, with the run of their source."""
    single = methods[(methods["kind"] == "migrated") & (methods["hops"] == 1)]
    single = single[single["sources"] == 1]
    return single.assign(source=single["source_runs"].map(lambda runs: runs[0]))


def with_costs(methods: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Add the column cost, in the measure that verdicts use; return whether it is arithmetic.

    methods: kind, is_baseline, seconds and flops. cost: arithmetic of the trainings in percent of
    the baseline's, if the baseline and all trained methods have it; then methods that were not
    trained are left out. Otherwise measured seconds.
    """
    flops = methods["flops"].astype(float)
    trained = ~methods["kind"].isin(["source", "baseline"])
    base = flops[methods["is_baseline"].astype(bool)]
    if len(base) and base.iloc[0] > 0 and (flops[trained] > 0).all():
        has_cost = flops > 0
        return methods[has_cost].assign(cost=100 * flops[has_cost] / base.iloc[0]), True
    return methods.assign(cost=methods["seconds"]), False


def frontier(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the Pareto frontier of the column cost and quality, the cheapest method first."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    order = rows.assign(loss=sign * rows["value"]).sort_values(["cost", "loss"])
    best = order["loss"].cummin()
    return order[(order["loss"] <= best) & ~best.duplicated()]


def _preferred(methods: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Keep of rows with equal keys the one that trained on the most users; of these, the latest."""
    order = methods.sort_values(["users_trained", "created"], ascending=False, kind="stable")
    return order.drop_duplicates(keys)
