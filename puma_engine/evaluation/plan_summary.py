"""The plans of a comparison: the share that each keeps, its cost, and its seeds."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from puma_engine.evaluation.shares_kept import REFERENCES
from puma_engine.evaluation.summaries import SAME_KIND
from puma_engine.evaluation.verdict import MIGRATED, methods_on_target

# Kinds that a user can choose. Controls and methods without a language model are none.
CHOSEN_KINDS = ("source", *MIGRATED, "retrained")
# Columns of evaluated methods that are equal for trainings of one plan with different seeds.
PLAN_KEYS = ["strategy", "budget", "path", "sources", *SAME_KIND]


@dataclass(frozen=True)
class ComparisonSetup:
    """The subject of a comparison.

    source, target: names of models, "" where they are unknown. seeds: how many its trainings have, 0
    where that of one is unknown.
    """

    users: int
    source: str
    target: str
    data: str
    device: str
    seeds: int


def comparison_setup(
    plans: pd.DataFrame, method: str | None, users: int, data: str
) -> ComparisonSetup:
    """Return what a comparison is about: its users, models, data, devices and seeds.

    plans: of `plan_table`. method: the judged migration. data: the name of the data and split.
    """
    migration = plans[plans["method"] == method]
    retrained = plans[plans["is_baseline"].astype(bool)]
    trained = plans[plans["kind"].isin((*MIGRATED, "retrained"))]
    seeds = trained["seed"]
    devices = dict.fromkeys(str(name) for name in trained["device"].dropna())
    return ComparisonSetup(
        users,
        _first(migration["origin"]),
        _first(retrained["backbone"]) or _first(migration["backbone"]),
        data,
        ", ".join(devices),
        int(seeds.nunique()) if seeds.notna().all() else 0,
    )


def _first(names: pd.Series) -> str:
    return next((str(name) for name in names.dropna()), "")


def plan_table(
    methods: pd.DataFrame,
    scores: pd.DataFrame,
    shares: pd.DataFrame,
    metric: str,
    evaluated: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return one row for each method of a comparison: the share of full retraining's gain, and the cost.

    methods, scores: the comparison's tables "methods", with the column backbone, and "comparison".
    shares: the table of `puma_engine.evaluation.shares_kept`. metric: the primary one. evaluated:
    evaluation, origin and flops of evaluations, of `puma_engine.pipeline.method_survey`. Migrations
    to another model than that of the verdict are left out. Columns of methods, and: value (of the
    metric), origin (the model its prompts came from), flops, reference (from which gains are
    measured), kept, kept_low, kept_high (of the level) and ranking, ranking_low, ranking_high,
    which are shares, NaN where they are not measured.
    """
    frame = methods_on_target(methods).reset_index(drop=True)
    of_metric = scores[scores["metric"] == metric].set_index("method")["value"]
    frame["value"] = frame["method"].map(of_metric).astype(float)
    if evaluated is not None:
        costs = evaluated[["evaluation", "origin", "flops"]]
        # The methods of a verdict have these columns already.
        frame = frame.drop(columns=["origin", "flops"], errors="ignore")
        frame = frame.merge(costs, on="evaluation", how="left")
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, "origin", "flops"])))
    measured = shares.loc[shares["share"].notna(), "reference"].unique()
    reference = next((name for name in REFERENCES if name in measured), "")
    frame["reference"] = reference
    for aspect, prefix in (("level", "kept"), ("ranking", "ranking")):
        chosen = shares[(shares["reference"] == reference) & (shares["aspect"] == aspect)]
        by_method = chosen.set_index("method")
        for column, end in (("share", ""), ("share_low", "_low"), ("share_high", "_high")):
            frame[f"{prefix}{end}"] = frame["method"].map(by_method[column]).astype(float)
    return frame


def plan_costs(plans: pd.DataFrame) -> pd.DataFrame:
    """Return the plans that a user can choose, with their cost as a share of full retraining's cost.

    Columns are added: cost, and basis ("arithmetic" where it is known of all, else "time").
    Source prompts, which exist already, cost nothing; full retraining keeps all of its gain.
    """
    rows = plans[plans["kind"].isin(CHOSEN_KINDS)].copy()
    paid = rows["kind"] != "source"
    base = rows[rows["is_baseline"].astype(bool)]
    has_flops = rows.loc[paid, "flops"].notna().all()
    measure = "flops" if has_flops else "seconds"
    rows["basis"] = "arithmetic" if has_flops else "time"
    base_cost = float(base[measure].iloc[0]) if len(base) else float("nan")
    rows["cost"] = (rows[measure].astype(float) / base_cost).where(paid, 0.0)
    share_columns = ["kept", "kept_low", "kept_high"]
    rows.loc[rows["is_baseline"].astype(bool), share_columns] = 1.0
    return rows.dropna(subset=["cost", "kept"])


def best_baseline(plans: pd.DataFrame) -> pd.Series | None:
    """Return the row of the method without a language model that keeps most; None without one."""
    shares = plans.loc[plans["kind"] == "baseline", "kept"].dropna()
    return plans.loc[shares.idxmax()] if len(shares) else None


def seed_spread(evaluated: pd.DataFrame, plans: pd.DataFrame) -> tuple[int, int, float] | None:
    """Return how far trainings with different seeds are apart, among those evaluated on the same rows.

    evaluated: the table of `puma_engine.pipeline.method_survey`. plans: of `plan_table`; trainings
    for other models than theirs do not count. Returns the number of plans with two seeds or more,
    the largest number of seeds of one plan, and the largest distance between two seeds of a plan as
    a share of its value; None without such plans.
    """
    trained = evaluated["kind"].isin((*MIGRATED, "retrained")) & evaluated["seed"].notna()
    trained &= evaluated["backbone"].isin(plans.loc[plans["kind"] != "source", "backbone"])
    by_plan = evaluated[trained].groupby(["kind", *PLAN_KEYS], dropna=False)
    table = by_plan.agg(seeds=("seed", "nunique"), low=("value", "min"), high=("value", "max"))
    table = table[table["seeds"] > 1]
    if table.empty:
        return None
    return len(table), int(table["seeds"].max()), float((table["high"] / table["low"]).max() - 1)


def seed_losses(evaluated: pd.DataFrame, evaluation: str, *, higher_is_better: bool) -> list[float]:
    """Return how much worse a migration is than full retraining, one loss for each seed of both.

    evaluated: the table of `puma_engine.pipeline.method_survey`. evaluation: that of the migration.
    Losses are in the metric's units; of several trainings with one seed the latest counts. Empty where
    nothing has the same seed.
    """
    migration = evaluated[evaluated["evaluation"] == evaluation]
    if migration.empty:
        return []
    row = migration.index[0]
    plans = evaluated.groupby(["kind", *PLAN_KEYS], dropna=False).ngroup()
    comparable = evaluated.groupby(SAME_KIND, dropna=False).ngroup()
    retrained = (evaluated["kind"] == "retrained") & (comparable == comparable[row])
    migrated, base = (
        evaluated[chosen].dropna(subset="seed").drop_duplicates("seed").set_index("seed")["value"]
        for chosen in (plans == plans[row], retrained)
    )
    losses = (migrated - base).dropna().sort_index()
    return [float(loss) for loss in (-losses if higher_is_better else losses)]


def sources_of_migration(plans: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the source prompts that a migration started from; all if none is of its source models."""
    migrated = plans[plans["method"] == method]
    # A comparison may hold the prompts of several old models.
    origins = str(migrated["origin"].iloc[0]).split(" + ") if len(migrated) else []
    sources = plans[plans["kind"] == "source"]
    of_origin = sources[sources["backbone"].isin(origins)]
    return of_origin if len(of_origin) else sources
