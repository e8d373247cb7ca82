"""Who would train the adapter: a strategy and a budget, and how they cover the groups of users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import figures, job_cards, map_figures, page_states, query_params
from dashboard.components.glossary import term
from dashboard.components.map_data import Shown
from dashboard.engine import user_maps as read

TRAINED = "trained"
VARIANCE_GROUPS = ("lowest variance", "low", "middle", "high", "highest variance")


def choose_strategy() -> str:
    """Let people choose a strategy, or the one that the migration was trained with."""
    labels = {name: f"{name}: {one.about}" for name, one in engine.STRATEGIES.items()}
    labels[TRAINED] = "as trained: the users of this migration"
    options = [TRAINED, *engine.STRATEGIES]
    return query_params.choose(
        "Strategy", options, "strategy", labels=labels, help=term("strategy")
    )


def choose_budget(shown: Shown, strategy: str) -> int:
    """The number of users of a strategy that is tried; what cannot be changed is shown, off."""
    users = shown.projection.summary["users"]
    if strategy in (TRAINED, "all"):
        trained = shown.migration.cost.get("users_trained", users)
        st.number_input(
            "Budget (users)", value=int(users if strategy == "all" else trained), disabled=True
        )
        return int(trained)
    return int(
        st.slider(
            "Budget (users)",
            1,
            users,
            max(1, users // 10),
            key="budget",
            bind="query-params",
            help=term("budget"),
        )
    )


def chosen_users(shown: Shown, strategy: str, budget: int) -> np.ndarray | None:
    """Who trains the adapter, [n] bool; None while only a job can tell."""
    n = len(shown.frame)
    if strategy == TRAINED:
        selection = shown.migration.inputs.get("selection")
        if selection is None:
            return np.ones(n, dtype=bool)
        return read.selected_by(engine.root(), selection, shown.projection.id)
    if read.can_preview(strategy, shown.source, n):
        scaled = max(1, round(budget * n / shown.projection.summary["users"]))
        return read.chosen(*shown.key, strategy, scaled)
    known = read.selection_run(shown.source.id, strategy, budget)
    return None if known is None else read.selected_by(engine.root(), known.id, shown.projection.id)


def show_coverage(shown: Shown, chosen: np.ndarray | None, strategy: str, budget: int) -> None:
    """How the chosen users are spread over clusters and variance groups."""
    st.header("Who would train the adapter", divider="gray")
    if chosen is None:
        _ask_for_selection(shown, strategy, budget)
        return
    cells = read.covered(shown.frame, chosen)
    st.text(summary(cells))
    if len(shown.frame) < shown.projection.summary["users"]:
        st.caption(
            "Tried on the users who are drawn, with the budget in proportion; a migration chooses among "
            "all users."
        )
    figures.show(
        map_figures.coverage_figure(cells, VARIANCE_GROUPS),
        cells.assign(cluster=cells["cluster"] + 1),
        "coverage",
        title="Each group of users: how many of it are chosen",
        x="cluster of source prompts",
        y="users by variance",
        height=300,
    )


def summary(cells: pd.DataFrame) -> str:
    """One sentence: how many are chosen, and which groups go without."""
    chosen, users = int(cells["chosen"].sum()), int(cells["users"].sum())
    by_cluster = cells.groupby("cluster")["chosen"].sum()
    reached = int((by_cluster > 0).sum())
    without = int((cells["chosen"] == 0).sum())
    return (
        f"{chosen:,} of {users:,} users ({chosen / users:.1%}) train the adapter. They come from "
        f"{reached} of {len(by_cluster)} clusters; {without} of {len(cells)} groups have nobody."
    )


def _ask_for_selection(shown: Shown, strategy: str, budget: int) -> None:
    """A strategy whose signals need the source model: a job finds them."""
    st.info(
        "This strategy looks at how the source model reacts to each user, which takes a job.",
        icon=":material/memory:",
    )
    job = read.selecting_job(shown.source.id, strategy, budget)
    if job is not None and job.status in ("queued", "running", "interrupted"):
        job_cards.watch_one(job)
        return
    if job is not None and job.status == "failed":
        page_states.failed("The selection failed.", job.error)
    if st.button("Select these users in a job", type="primary", icon=":material/play_arrow:"):
        read.select(shown.source, strategy, budget)
        st.rerun()
