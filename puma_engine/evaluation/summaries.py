"""What many runs say together: model pairs, chains, fusions and selection strategies.

Most functions take the table of evaluated methods of one data set and split that
`puma_engine.pipeline.method_survey` makes, and return a table to draw. Where several
runs answer the same question, the one that trained on most users counts, then the latest.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.evaluation.metrics import METRICS, Interval

SCORES = ["evaluation", "value", "low", "high", "users_trained", "seed", "seconds"]


def gain(reference: pd.DataFrame, other: pd.DataFrame, metric: str) -> Interval:
    """How much better `other` is: a ratio above 1, with its 95 % interval over users.

    Both frames have user_id, n and the metric of each user (auc for uauc), and are joined
    by user id. The ratio is reference / other where lower is better, else other / reference.
    The interval is the normal one of the ratio's logarithm, from each user's influence.
    Raises DataError if the metric is not made of users' values, or no user is in both.
    """
    column = "auc" if metric == "uauc" else metric
    if metric in ("auc", "ndcg", "accuracy") or column not in reference or column not in other:
        raise DataError(f"A gain with interval needs RMSE, MAE, log loss or uAUC, not {metric!r}.")
    names = ["user_id", "n", column]
    both = reference[names].merge(
        other[names], on="user_id", validate="one_to_one", suffixes=("_reference", "_other")
    )
    both = both.dropna()
    if len(both) < 2:
        raise DataError("The two evaluations have fewer than two users in common.")
    power = 0.5 if metric == "rmse" else 1.0
    parts = []
    for side in ("reference", "other"):
        values = both[f"{column}_{side}"].to_numpy(np.float64)
        weight = 1.0 if metric == "uauc" else both[f"n_{side}"].to_numpy(np.float64)
        parts.append(weight * (values**2 if metric == "rmse" else values))
    if METRICS[metric].higher_is_better:
        parts.reverse()
    top, bottom = parts
    middle = power * np.log(top.sum() / bottom.sum())
    influence = power * (top / top.sum() - bottom / bottom.sum())
    count = len(both)
    error = 1.96 * np.sqrt((influence**2).sum() * count / (count - 1))
    value, low, high = np.exp([middle, middle - error, middle + error])
    return Interval(float(value), float(low), float(high), count)


def model_pairs(methods: pd.DataFrame) -> pd.DataFrame:
    """One row a source and target backbone: the direct migration, and retraining on the target.

    Columns: origin, target, evaluation, value, users_trained, retrained (its evaluation)
    and retrained_value.
    """
    moved = methods[(methods["kind"] == "migrated") & (methods["hops"] == 1)]
    moved = _first(moved[moved["sources"] == 1], ["origin", "backbone"])
    again = _first(methods[methods["kind"] == "retrained"], ["backbone"])
    again = again[["backbone", "evaluation", "value"]].rename(
        columns={"evaluation": "retrained", "value": "retrained_value"}
    )
    kept = moved[["origin", "backbone", "evaluation", "value", "users_trained"]]
    found = kept.merge(again, on="backbone", validate="many_to_one")
    return found.rename(columns={"backbone": "target"}).sort_values(
        ["origin", "target"], ignore_index=True
    )


def chains(methods: pd.DataFrame) -> pd.DataFrame:
    """One row a step of a chain of two hops or more, its source prompts being step 0.

    Columns: chain (a label), step, backbone and the scores; steps that nobody evaluated are
    absent. A chain that is part of a longer one is not repeated.
    """
    by_run = _first(methods[methods["run"].notna()], ["run"]).set_index("run")
    ends = methods[(methods["kind"] == "migrated") & (methods["hops"] >= 2)]
    ends = ends[ends["sources"] == 1]
    inner = {run for steps in ends["steps"] for run in steps[:-1]}
    rows = []
    for end in ends[~ends["run"].isin(inner)].to_dict("records"):
        for step, run in enumerate(end["steps"]):
            if run in by_run.index:
                rows.append(
                    {"chain": " → ".join(end["path"]), "run": end["run"], "step": step}
                    | by_run.loc[run, ["backbone", *SCORES]].to_dict()
                )
    found = pd.DataFrame(rows, columns=["chain", "run", "step", "backbone", *SCORES])
    return found.drop_duplicates(["run", "step"], ignore_index=True)


def fusions(methods: pd.DataFrame) -> pd.DataFrame:
    """One row a fusion or a single source of one, by target.

    Columns: target, origin (names joined by " + "), sources (how many) and the scores.
    Targets without a fusion, and fusions none of whose sources moved alone, are left out.
    """
    moved = methods[methods["kind"] == "migrated"]
    rows = []
    for target, own in moved.groupby("backbone", sort=True):
        joined = _first(own[own["sources"] > 1], ["origin"])
        parts = {run for runs in joined["source_runs"] for run in runs}
        single = own[own["sources"] == 1]
        first = single["source_runs"].map(lambda runs: runs[0])
        alone = _first(single[first.isin(parts)], ["origin"])
        if len(joined) and len(alone):
            rows.append(pd.concat([alone, joined]).assign(target=target))
    names = ["target", "origin", "sources", *SCORES]
    if not rows:
        return pd.DataFrame(columns=names)
    return pd.concat(rows)[names].reset_index(drop=True)


def strategies(methods: pd.DataFrame) -> pd.DataFrame:
    """One row a direct migration on chosen users: strategy, budget (users) and the scores.

    Only migrations from the source prompts to the backbone for which most strategies were
    tried; columns origin and target name them.
    """
    moved = methods[(methods["kind"] == "migrated") & (methods["hops"] == 1)]
    moved = moved[moved["sources"] == 1]
    names = ["origin", "target", "strategy", "budget", *SCORES]
    if moved.empty:
        return pd.DataFrame(columns=names)
    moved = moved.assign(source=moved["source_runs"].map(lambda one: one[0]))
    tried = moved.groupby(["source", "backbone"])["strategy"].nunique()
    source, target = tried.index[int(np.argmax(tried.to_numpy()))]
    own = moved[(moved["source"] == source) & (moved["backbone"] == target)]
    own = own.rename(columns={"backbone": "target"})
    return own[names].sort_values(["budget", "strategy", "seed"], ignore_index=True)


def frontier(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Methods that no other one beats in both seconds and quality, the cheapest first."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    order = rows.assign(loss=sign * rows["value"]).sort_values(["seconds", "loss"])
    best = order["loss"].cummin()
    return order[(order["loss"] <= best) & ~best.duplicated()]


def _first(methods: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Of the rows with equal keys, the one that trained on most users, then the latest."""
    order = methods.sort_values(["users_trained", "created"], ascending=False, kind="stable")
    return order.drop_duplicates(keys)
