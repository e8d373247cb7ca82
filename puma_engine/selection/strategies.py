"""The strategies of the paper's Table 4 and our own, each made of a space, strata and a draw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from puma_engine.errors import SelectionError
from puma_engine.selection import sampling
from puma_engine.selection.clustering import clusters as cluster
from puma_engine.selection.clustering import strata
from puma_engine.selection.quotas import bell, shares, with_minimum
from puma_engine.selection.signals import Signals, unit
from puma_engine.selection.space import reduced


@dataclass(frozen=True)
class Strategy:
    """How users are grouped and drawn.

    space: what is clustered (None: no clusters); stratum: the number whose quantile groups
    divide each cluster (None: none); draw: who is taken from each: "random", the "farthest"
    points, "active" (a chance by train rows), "most-active", or "facility" location in the
    space, which covers it as a whole without clusters.
    """

    name: str
    about: str
    space: Literal["embedding", "pca", "activations"] | None = None
    stratum: Literal["variance", "loss"] | None = None
    draw: Literal["random", "farthest", "active", "most-active", "facility"] = "random"

    @property
    def needs(self) -> set[str]:
        """Signals that it reads besides the prompts."""
        space = {"activations"} if self.space == "activations" else set()
        activity = {"activity"} if self.draw in ("active", "most-active") else set()
        return space | activity | ({self.stratum} if self.stratum else set())

    @property
    def clustered(self) -> bool:
        """Whether its space is divided into clusters."""
        return self.space is not None and self.draw != "facility"


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("all", "every user"),
        Strategy("random", "users drawn evenly"),
        Strategy("variance", "strata of outcome variance", stratum="variance"),
        Strategy("loss", "strata of source loss", stratum="loss"),
        Strategy("kmeans", "prompt clusters, by size", "embedding"),
        Strategy("kmeans-pca", "clusters of prompts after PCA, by size", "pca"),
        Strategy("kmeans-farthest", "prompt clusters, farthest points", "pca", draw="farthest"),
        Strategy("kmeans-loss", "prompt clusters and loss strata", "pca", "loss"),
        Strategy(
            "kmeans-variance", "prompt clusters and variance strata (PUMA)", "pca", "variance"
        ),
        Strategy("ffn-kmeans", "clusters of FFN activations, by size", "activations"),
        Strategy("ffn-loss", "FFN clusters and loss strata", "activations", "loss"),
        Strategy("ffn-variance", "FFN clusters and variance strata", "activations", "variance"),
        Strategy("facility", "users whose prompts stand for all", "pca", draw="facility"),
        Strategy("activity", "users drawn by their number of train rows", draw="active"),
        Strategy("most-active", "users with most train rows", draw="most-active"),
        Strategy("kmeans-activity", "prompt clusters, drawn by train rows", "pca", draw="active"),
    )
}


@dataclass(frozen=True)
class Groups:
    """How a strategy divides n users, in the order of their ids.

    space [n, k] is where users are compared, if anywhere; cluster and stratum are labels [n]
    int; activity [n] is there if the draw goes by it.
    """

    plan: Strategy
    user_ids: np.ndarray
    space: np.ndarray | None
    cluster: np.ndarray
    stratum: np.ndarray
    activity: np.ndarray | None = None


@dataclass(frozen=True)
class Selection:
    """The chosen users (sorted), and every candidate's groups aligned with the signals."""

    user_ids: np.ndarray
    strategy: str
    seed: int
    budget: int
    group: dict[str, np.ndarray]
    report: dict[str, Any] = field(default_factory=dict)


def select_users(
    strategy: str,
    signals: Signals,
    budget: int,
    *,
    seed: int = 0,
    clusters: int = 15,
    groups: int = 5,
    min_cluster: int = 50,
) -> Selection:
    """Choose exactly `budget` users; the result does not depend on the users' order.

    clusters, groups and min_cluster have the paper's defaults. Raises SelectionError.
    """
    # Before the slow half: what cannot be drawn need not be grouped.
    _checked_budget(get_strategy(strategy), budget, len(signals.user_ids), min_cluster)
    found = group_users(strategy, signals, seed=seed, clusters=clusters, groups=groups)
    chosen = draw_users(found, budget, seed=seed, min_cluster=min_cluster)
    back = np.searchsorted(found.user_ids, np.asarray(signals.user_ids, dtype=str))
    return replace(chosen, group={name: label[back] for name, label in chosen.group.items()})


def group_users(
    strategy: str,
    signals: Signals,
    *,
    seed: int = 0,
    clusters: int = 15,
    groups: int = 5,
    known: np.ndarray | None = None,
) -> Groups:
    """Divide users as a strategy does: the slow half of a selection, whatever the budget.

    known: the labels [n] of its clusters, row i for signals.user_ids[i], if they were found
    before with this seed.
    """
    plan = get_strategy(strategy)
    if clusters < 1 or groups < 1:
        raise SelectionError(
            f"A selection needs 1 or more clusters and groups, not {clusters} and {groups}."
        )
    n = len(signals.user_ids)
    ordered = signals.by_id()
    space = _space(plan, ordered, seed)
    if space is None or not plan.clustered:
        label = np.zeros(n, np.int64)
    elif known is None:
        label = cluster(space, clusters, seed)
    else:
        order = np.argsort(np.asarray(signals.user_ids, dtype=str), kind="stable")
        label = np.asarray(known, dtype=np.int64)[order]
    stratum = np.zeros(n, np.int64)
    if plan.stratum:
        stratum = strata(ordered.need(plan.stratum, strategy), groups)
    activity = ordered.need("activity", strategy) if "activity" in plan.needs else None
    return Groups(plan, np.asarray(ordered.user_ids, dtype=str), space, label, stratum, activity)


def draw_users(groups: Groups, budget: int, *, seed: int = 0, min_cluster: int = 50) -> Selection:
    """Choose exactly `budget` users of groups; their labels are in the groups' order."""
    plan, label, stratum = groups.plan, groups.cluster, groups.stratum
    budget = _checked_budget(plan, budget, len(groups.user_ids), min_cluster)
    quota = _quotas(plan, label, stratum, budget, min_cluster)
    rows = _draw(groups, quota, np.random.default_rng(seed))
    chosen = np.sort(groups.user_ids[rows])
    report = {
        "cluster_sizes": np.bincount(label).tolist(),
        "cluster_chosen": np.bincount(label[rows], minlength=label.max() + 1).tolist(),
    }
    group = {"cluster": label, "stratum": stratum}
    return Selection(chosen, plan.name, seed, budget, group, report)


def _checked_budget(plan: Strategy, budget: int, n: int, min_cluster: int) -> int:
    budget = n if plan.name == "all" else int(budget)
    if not 1 <= budget <= n:
        raise SelectionError(f"The budget must be from 1 to the {n} users there are, not {budget}.")
    if min_cluster < 0:
        raise SelectionError(f"A cluster is given 0 or more users at least, not {min_cluster}.")
    return budget


def get_strategy(name: str) -> Strategy:
    """Return a strategy by name, or raise SelectionError that lists the names."""
    if name not in STRATEGIES:
        raise SelectionError(
            f"There is no strategy {name!r}; the strategies are {', '.join(STRATEGIES)}."
        )
    return STRATEGIES[name]


def _space(plan: Strategy, signals: Signals, seed: int) -> np.ndarray | None:
    if plan.space is None:
        return None
    if plan.space == "activations":
        return reduced(unit(signals.need("activations", plan.name)), seed)
    if plan.space == "pca" and signals.space is not None:
        return signals.need("space", plan.name)
    values = signals.need("embedding", plan.name)
    return reduced(values, seed) if plan.space == "pca" else values


def _quotas(
    plan: Strategy, label: np.ndarray, stratum: np.ndarray, budget: int, minimum: int
) -> dict[tuple[int, int], int]:
    size = np.bincount(label)
    per_cluster = with_minimum(size, budget, minimum if plan.clustered else 0)
    found: dict[tuple[int, int], int] = {}
    weights = bell(int(stratum.max()) + 1)
    for number, total in enumerate(per_cluster):
        inside = np.bincount(stratum[label == number], minlength=len(weights))
        weight = weights * inside if plan.stratum else inside.astype(float)
        for group, quota in enumerate(shares(weight, inside, int(total))):
            found[number, group] = int(quota)
    return found


def _draw(
    groups: Groups, quota: dict[tuple[int, int], int], generator: np.random.Generator
) -> np.ndarray:
    rows = [np.empty(0, np.int64)]
    for (number, group), count in quota.items():
        if count:
            members = np.flatnonzero((groups.cluster == number) & (groups.stratum == group))
            rows.append(members[_draw_of(groups, members, count, generator)])
    return np.concatenate(rows)


def _draw_of(
    groups: Groups, members: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Which of some members are drawn, as positions among them."""
    draw, space, activity = groups.plan.draw, groups.space, groups.activity
    if space is not None and draw == "farthest":
        return sampling.farthest(space[members], count)
    if space is not None and draw == "facility":
        return sampling.facilities(space[members], count, generator)
    if activity is not None and draw == "active":
        return sampling.weighted(activity[members], count, generator)
    if activity is not None and draw == "most-active":
        return sampling.largest(activity[members], count, generator)
    return generator.choice(len(members), count, replace=False)
