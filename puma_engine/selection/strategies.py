"""The selection strategies of the paper's Table 4 and further ones: a space, strata and a draw each."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from puma_engine.defaults import CLUSTERS, MIN_CLUSTER, STRATA
from puma_engine.errors import SelectionError
from puma_engine.selection import sampling
from puma_engine.selection.clustering import kmeans, principal_components, quantile_strata
from puma_engine.selection.quotas import apportion, apportion_with_minimum, stratum_weights
from puma_engine.selection.signals import Signals


@dataclass(frozen=True)
class Strategy:
    """A strategy: how users are grouped and sampled.

    space: what is clustered by k-means (None: no clusters); stratum: the signal by whose quantiles
    each cluster is divided (None: no strata); draw: how users are chosen in each group: "random",
    "farthest" points, "active" (with probability by train rows), "most-active", or "facility"
    location, which covers the space as a whole, without clusters.
    """

    name: str
    description: str
    space: Literal["embedding", "pca", "activations"] | None = None
    stratum: Literal["variance", "loss"] | None = None
    draw: Literal["random", "farthest", "active", "most-active", "facility"] = "random"

    @property
    def needs(self) -> set[str]:
        """Names of the signals that the strategy reads besides the prompts."""
        space = {"activations"} if self.space == "activations" else set()
        activity = {"activity"} if self.draw in ("active", "most-active") else set()
        return space | activity | ({self.stratum} if self.stratum else set())

    @property
    def clustered(self) -> bool:
        """Whether the space is divided into clusters."""
        return self.space is not None and self.draw != "facility"


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("all", "every user"),
        Strategy("random", "users drawn uniformly"),
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
        Strategy(
            "facility",
            "representative users (facility location over prompts)",
            "pca",
            draw="facility",
        ),
        Strategy("activity", "users drawn by their number of train rows", draw="active"),
        Strategy("most-active", "users with the most train rows", draw="most-active"),
        Strategy("kmeans-activity", "prompt clusters, drawn by train rows", "pca", draw="active"),
    )
}


@dataclass(frozen=True)
class Groups:
    """The groups of n users by a strategy, in the order of their ids.

    space [n, k]: in which users are compared, or None; cluster, stratum: labels [n] int; activity
    [n]: None unless the draw needs it.
    """

    strategy: Strategy
    user_ids: np.ndarray
    space: np.ndarray | None
    cluster: np.ndarray
    stratum: np.ndarray
    activity: np.ndarray | None = None


@dataclass(frozen=True)
class Selection:
    """The chosen user ids (sorted), and the labels of all candidates.

    group: cluster and stratum, [n] int, aligned with the signals; report: sizes of the clusters,
    and how many users of each were chosen.
    """

    user_ids: np.ndarray
    group: dict[str, np.ndarray]
    report: dict[str, Any] = field(default_factory=dict)


def get_strategy(name: str) -> Strategy:
    """Return a strategy by name. Raises SelectionError that lists the names."""
    if name not in STRATEGIES:
        raise SelectionError(
            f"There is no strategy {name!r}; the strategies are {', '.join(STRATEGIES)}."
        )
    return STRATEGIES[name]


def check_groups(strategy: str, *, clusters: int, strata: int, min_cluster: int) -> None:
    """Raise SelectionError for an unknown strategy, or for options of groups that it does not form.

    Default values pass, since the caller may not have given them.
    """
    plan = get_strategy(strategy)
    given = {
        "clusters": plan.clustered or clusters == CLUSTERS,
        "strata": plan.stratum is not None or strata == STRATA,
        "min_cluster": plan.clustered or min_cluster == MIN_CLUSTER,
    }
    unused = [name for name, usable in given.items() if not usable]
    if unused:
        what = "strata" if "strata" in unused else "clusters"
        forming = [
            other.name
            for other in STRATEGIES.values()
            if (other.stratum is not None if what == "strata" else other.clustered)
        ]
        raise SelectionError(
            f"The strategy {strategy!r} forms no {what}, so {' and '.join(unused)} would change nothing; "
            f"leave it out, or choose one of {', '.join(forming)}."
        )


def select_users(
    strategy: str,
    signals: Signals,
    budget: int,
    *,
    seed: int = 0,
    clusters: int = CLUSTERS,
    strata: int = STRATA,
    min_cluster: int = MIN_CLUSTER,
    groups: int | None = None,
) -> Selection:
    """Choose exactly `budget` users; the result does not depend on the users' order.

    clusters: of k-means; strata: of each cluster; min_cluster: minimum number of users from each
    cluster, if it has so many. Their defaults are the paper's. groups: deprecated name of strata.
    Raises SelectionError for an unknown strategy, an impossible budget (of "all": another than the
    number of users), sizes of groups that the strategy does not form, and missing signals.
    """
    # Checked before the slow part.
    _check_budget(get_strategy(strategy), budget, len(signals.user_ids), min_cluster)
    strata = strata if groups is None else groups
    check_groups(strategy, clusters=clusters, strata=strata, min_cluster=min_cluster)
    grouped = group_users(strategy, signals, seed=seed, clusters=clusters, strata=strata)
    selection = draw_users(grouped, budget, seed=seed, min_cluster=min_cluster)
    rows = np.searchsorted(grouped.user_ids, np.asarray(signals.user_ids, dtype=str))
    group = {name: labels[rows] for name, labels in selection.group.items()}
    return replace(selection, group=group)


def group_users(
    strategy: str,
    signals: Signals,
    *,
    seed: int = 0,
    clusters: int = CLUSTERS,
    strata: int = STRATA,
    cluster_labels: np.ndarray | None = None,
) -> Groups:
    """Divide users into the groups of a strategy: the slow part of a selection, independent of the budget.

    cluster_labels: [n], for signals.user_ids, computed before with this seed. Raises SelectionError
    for an unknown strategy, less than one cluster or stratum, and missing signals.
    """
    plan = get_strategy(strategy)
    if clusters < 1 or strata < 1:
        raise SelectionError(
            f"A selection needs 1 or more clusters and strata, not {clusters} and {strata}."
        )
    ordered = signals.by_id()
    space = None
    if plan.space == "activations":
        activations = ordered.require("activations", strategy)
        norm = np.linalg.norm(activations, axis=1, keepdims=True)
        space = principal_components(activations / np.where(norm > 0, norm, 1), seed)
    elif plan.space == "pca" and ordered.space is not None:
        space = ordered.require("space", strategy)
    elif plan.space is not None:
        space = ordered.require("embedding", strategy)
        if plan.space == "pca":
            space = principal_components(space, seed)
    label = stratum = np.zeros(len(signals.user_ids), np.int64)
    if space is not None and plan.clustered:
        if cluster_labels is None:
            label = kmeans(space, clusters, seed)
        else:
            order = np.argsort(np.asarray(signals.user_ids, dtype=str), kind="stable")
            label = np.asarray(cluster_labels, dtype=np.int64)[order]
    if plan.stratum:
        stratum = quantile_strata(ordered.require(plan.stratum, strategy), strata)
    activity = ordered.require("activity", strategy) if "activity" in plan.needs else None
    return Groups(plan, np.asarray(ordered.user_ids, dtype=str), space, label, stratum, activity)


def draw_users(
    groups: Groups, budget: int, *, seed: int = 0, min_cluster: int = MIN_CLUSTER
) -> Selection:
    """Choose exactly `budget` users from groups; labels are in the groups' order.

    The quota of a cluster follows from its size, that of a stratum from its size and the paper's
    weights. Raises SelectionError for an impossible budget.
    """
    plan, label, stratum = groups.strategy, groups.cluster, groups.stratum
    budget = _check_budget(plan, budget, len(groups.user_ids), min_cluster)
    generator = np.random.default_rng(seed)
    sizes = np.bincount(label)
    weights = stratum_weights(int(stratum.max()) + 1)
    minimum = min_cluster if plan.clustered else 0
    parts = []
    for cluster, total in enumerate(apportion_with_minimum(sizes, budget, minimum)):
        size = np.bincount(stratum[label == cluster], minlength=len(weights))
        weight = weights * size if plan.stratum else size.astype(float)
        quotas = apportion(weight, size, int(total))
        for number in np.flatnonzero(quotas):
            members = np.flatnonzero((label == cluster) & (stratum == number))
            parts.append(members[_draw(groups, members, int(quotas[number]), generator)])
    rows = np.concatenate(parts)
    report = {
        "cluster_sizes": sizes.tolist(),
        "cluster_chosen": np.bincount(label[rows], minlength=len(sizes)).tolist(),
    }
    group = {"cluster": label, "stratum": stratum}
    return Selection(np.sort(groups.user_ids[rows]), group, report)


def _check_budget(plan: Strategy, budget: int, n: int, min_cluster: int) -> int:
    budget = int(budget)
    if plan.name == "all" and budget != n:
        raise SelectionError(
            f"The strategy 'all' takes all {n} users, not {budget}; choose a strategy that selects "
            "users, such as random."
        )
    if not 1 <= budget <= n:
        raise SelectionError(f"The budget must be from 1 to the {n} users there are, not {budget}.")
    if min_cluster < 0:
        raise SelectionError(f"min_cluster must be 0 or more users, not {min_cluster}.")
    return budget


def _draw(
    groups: Groups, members: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the positions [count] of the drawn users among members [m]."""
    draw, space, activity = groups.strategy.draw, groups.space, groups.activity
    if space is not None and draw == "farthest":
        return sampling.farthest_points(space[members], count)
    if space is not None and draw == "facility":
        return sampling.facility_location(space[members], count, generator)
    if activity is not None and draw == "active":
        return sampling.weighted_sample(activity[members], count, generator)
    if activity is not None and draw == "most-active":
        return sampling.top_values(activity[members], count, generator)
    return generator.choice(len(members), count, replace=False)


def coverage(cluster: np.ndarray, stratum: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """Count users and chosen users in each cell of cluster and stratum.

    cluster, stratum: labels [n] int; chosen: [n] bool. Returns one row for each cell that has
    users: cluster, stratum, users, chosen, share (of the cell's users who were chosen, in [0, 1]).
    """
    frame = pd.DataFrame({"cluster": cluster, "stratum": stratum, "chosen": chosen.astype(int)})
    cells = frame.groupby(["cluster", "stratum"], as_index=False).agg(
        users=("chosen", "size"), chosen=("chosen", "sum")
    )
    return cells.assign(share=cells["chosen"] / cells["users"])
