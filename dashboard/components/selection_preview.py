"""People, part "Who trains it": a strategy and budget, and the coverage of groups of users."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import figures, job_cards, map_figures, page_states, query_params
from dashboard.components.glossary import term
from dashboard.engine import Run, user_maps
from dashboard.engine.summary import format_percent
from dashboard.engine.user_maps import UserMap

TRAINED = "trained"
STRATA = ("lowest variance", "low", "middle", "high", "highest variance")


def choose_strategy() -> str:
    """Draw the widget for a strategy, or TRAINED for the users of the migration."""
    labels = {TRAINED: "as trained: the users of this migration"}
    labels |= {name: f"{name}: {item.description}" for name, item in engine.STRATEGIES.items()}
    return query_params.choose(
        "Strategy", list(labels), "strategy", labels=labels, help=term("strategy")
    )


def choose_budget(migration: Run, users: int, strategy: str) -> int:
    """Draw the widget for the number of users to select, disabled where it is given."""
    if strategy in (TRAINED, "all"):
        trained = migration.cost.get("users_trained", users)
        st.number_input(
            "Users who train it", value=int(users if strategy == "all" else trained), disabled=True
        )
        return int(trained)
    return int(
        st.slider(
            "Users who train it",
            1,
            max(users, 2),
            max(1, users // 10),
            key="budget",
            bind="query-params",
            help=term("budget"),
        )
    )


def selected_users(
    frame: pd.DataFrame, migration: Run, user_map: UserMap | None, strategy: str, budget: int
) -> np.ndarray | None:
    """Say for each user of a frame whether it is selected, [n] bool; None if that needs a job."""
    if strategy == TRAINED:
        selection = migration.inputs.get("selection")
        if selection is None:
            return np.ones(len(frame), dtype=bool)
        return user_maps.is_among(frame, user_maps.selected_ids(engine.root(), selection))
    if user_map is None:
        return None
    n_drawn = len(user_map.frame)
    if user_maps.can_preview(strategy, user_map.source, n_drawn):
        scaled = max(1, round(budget * n_drawn / user_map.projection.summary["users"]))
        selected = user_maps.preview(*user_map.key, strategy, scaled)
        return user_maps.is_among(frame, user_maps.ids_of(user_map.frame[selected]))
    run = user_maps.selection_run(user_map.source.id, strategy, budget)
    if run is None:
        return None
    return user_maps.is_among(frame, user_maps.selected_ids(engine.root(), run.id))


def show(user_map: UserMap, selected: np.ndarray | None, strategy: str, budget: int) -> None:
    """Draw how the selected users are spread over clusters and variance strata."""
    if selected is None:
        _offer_selection(user_map, strategy, budget)
        return
    frame = user_map.frame
    groups = user_maps.coverage(frame["cluster"].to_numpy(), frame["stratum"].to_numpy(), selected)
    st.text(summary(groups))
    if len(frame) < user_map.projection.summary["users"]:
        st.caption(
            "The strategy is applied to the drawn users, with the number of users in proportion. A migration "
            "selects among all users."
        )
    if selected.all():
        # Every cell would say the same.
        return
    figures.show(
        map_figures.coverage_figure(groups, STRATA),
        groups.assign(cluster=groups["cluster"] + 1),
        "coverage",
        title="Selected users of each group",
        x="cluster of source prompts",
        y="users by variance",
        height=300,
    )


def summary(groups: pd.DataFrame) -> str:
    """Return one sentence on the number of selected users and the groups without any."""
    selected, users = int(groups["chosen"].sum()), int(groups["users"].sum())
    by_cluster = groups.groupby("cluster")["chosen"].sum()
    without = int((groups["chosen"] == 0).sum())
    missed = (
        f"{without} of {len(groups)} groups have no selected user"
        if without
        else f"each of {len(groups)} groups has a selected user"
    )
    return (
        f"The adapter is trained on {selected:,} of {users:,} users "
        f"({format_percent(selected / users)}). They are from {int((by_cluster > 0).sum())} of "
        f"{len(by_cluster)} clusters; {missed}."
    )


def _offer_selection(user_map: UserMap, strategy: str, budget: int) -> None:
    """Show the job of a strategy whose signals need the source model, or a button that queues it."""
    st.info(
        "This strategy needs signals from the source model, which a job computes.",
        icon=":material/memory:",
    )
    job = user_maps.latest_job(
        "select", prompts=user_map.source.id, strategy=strategy, budget=budget
    )
    if job is not None and job.status in ("queued", "running", "interrupted"):
        job_cards.watch_one(job)
        return
    if job is not None and job.status == "failed":
        page_states.failed("The selection failed.", job.error)
    if page_states.action(
        "Select these users in a job", type="primary", icon=":material/play_arrow:"
    ):
        user_maps.select(user_map.source, strategy, budget)
        st.rerun()
