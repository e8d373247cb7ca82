"""Users: where everybody lies before and after a migration, and who would train the adapter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    density_map,
    figures,
    job_cards,
    map_figures,
    map_selection,
    page_states,
    query_params,
    row_selection,
    selection_preview,
)
from dashboard.components.glossary import show_glossary, term
from dashboard.components.map_data import Shown, table_of, values_of
from dashboard.components.map_selection import Pick
from dashboard.engine import large_maps
from dashboard.engine import user_maps as read

COLOURS = {
    "cluster": "Cluster",
    "chosen": "Chosen for training",
    "variance": "Variance",
    "loss": "Loss on the source",
    "gain": "Gain of migrating",
}
VIEWS = {"density": "All users, counted", "sample": "A sample, as points"}
TITLES = (
    "Source: users as the old model sees them",
    "Migrated: the same users on the new model",
)
MOUSE = {"lasso": "Lasso", "pan": "Click"}
MOST_SHOWN = 1000
LITTLE = 0.2
LITTLE_IN_COMMON = " **The two models group users differently**: few near users stay near, so compare users, not places."


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Users")
    st.caption(
        "Each user lies where the soft prompt does: close ones are users whom a model sees alike."
    )
    migrations = read.migrations()
    if not migrations:
        page_states.empty(
            "No migration yet",
            "A map shows users before and after a migration. Launch one, and come back.",
            icon=":material/scatter_plot:",
        )
        pages.link("plan", label="Plan a migration")
        return
    source, migration = _choose(migrations)
    newer = read.newer(migration)
    if newer:
        page_states.stale("A newer migration of these prompts to the same model is in the list.")
    found = read.projection(source.id, migration.id)
    if found is None:
        _draw_it(source, migration)
        return
    _map(source, migration, found)
    show_glossary("soft prompt", "cluster", "variance", "strategy", "budget", "gain", "migration")


def _choose(migrations: list[engine.Run]) -> tuple[engine.Run, engine.Run]:
    """Which migration, and which of its sources; both in the address."""
    left, right = st.columns(2)
    by_id = {run.id: run for run in migrations}
    with left:
        labels = {run.id: f"{run.name} ({run.id[:6]})" for run in migrations}
        chosen = query_params.choose(
            "Migration",
            list(by_id),
            "migration",
            labels=labels,
            default=read.drawn_last(migrations),
            help=term("migration"),
        )
    sources = {run.id: run for run in read.sources_of(by_id[chosen])}
    with right:
        labels = {run.id: run.name for run in sources.values()}
        first = query_params.choose(
            "Source prompts", list(sources), "source", labels=labels, help=term("source prompts")
        )
    return sources[first], by_id[chosen]


def _draw_it(source: engine.Run, migration: engine.Run) -> None:
    """No map yet: one click queues it; a running or failed job is shown instead."""
    job = read.drawing_job(source.id, migration.id)
    if job is not None and job.status in ("queued", "running", "interrupted"):
        page_states.loading("The map is being drawn by a job; you may close the page.")
        job_cards.watch_one(job)
        return
    if job is not None and job.status == "failed":
        page_states.failed("The map could not be drawn.", job.error)
        if st.button("Try again", type="primary", icon=":material/refresh:"):
            engine.retry(job.id)
            st.rerun()
        return
    page_states.empty(
        "No map of these prompts yet",
        "A job lays the prompts out in the plane, before and after the migration. It is done once, in "
        "the background.",
        icon=":material/scatter_plot:",
    )
    if st.button("Draw the map", type="primary", icon=":material/draw:"):
        read.draw(source, migration)
        st.rerun()


@st.cache_resource(max_entries=2, show_spinner=False)
def _everybody(root: str, projection_id: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """All users of a large map, and where they are."""
    frame = large_maps.everybody(root, projection_id)
    return frame, map_selection.grid(frame)


def _map(source: engine.Run, migration: engine.Run, found: engine.Run) -> None:
    try:
        drawn, shown = _read(source, migration, found)
    except engine.StoreError as error:
        _damaged(source, migration, found, error)
        return
    columns = st.columns([2, 3, 3])
    with columns[0]:
        if shown.everybody:
            colour = density_map.choose_shade()
        else:
            colour = query_params.choose("Colour by", list(COLOURS), "colour", labels=COLOURS)
    with columns[1]:
        strategy = selection_preview.choose_strategy()
    with columns[2]:
        budget = selection_preview.choose_budget(drawn, strategy)
    chosen = selection_preview.chosen_users(drawn, strategy, budget)
    _facts(shown)
    pick = _pick(shown)
    rows = map_selection.picked_rows(pick, shown.frame, shown.points)
    _pickers(shown, pick)
    if shown.everybody:
        density_map.charts(shown, colour, pick, rows, TITLES)
    else:
        _charts(shown, colour, chosen, pick, rows)
    _picked(shown, None if shown.everybody else chosen, pick, rows)
    selection_preview.show_coverage(drawn, chosen, strategy, budget)


def _read(source: engine.Run, migration: engine.Run, found: engine.Run) -> tuple[Shown, Shown]:
    """The drawn users of a map, and those that the chosen view shows."""
    key = engine.root(), found.id
    frame = read.users(*key)
    drawn = Shown(source, migration, found, frame, {})
    if not large_maps.has_everybody(found):
        drawn = replace(drawn, points=map_selection.grid(frame))
        return drawn, drawn
    if query_params.segment("Show", VIEWS, "view") == "density":
        everybody, points = _everybody(*key)
        return drawn, replace(drawn, frame=everybody, points=points, everybody=True)
    # On the scale of all users, so that an outline means the same in both views.
    drawn = replace(drawn, points=map_selection.grid(frame, large_maps.extent(*key)))
    return drawn, drawn


def _damaged(
    source: engine.Run, migration: engine.Run, found: engine.Run, error: engine.StoreError
) -> None:
    """The map's files are not what was written: it can be drawn again from the prompts."""
    page_states.failed("This map is damaged.", error)
    st.caption("A map is made from the prompts alone, so nothing is lost by drawing it again.")
    if st.button("Draw it again", type="primary", icon=":material/refresh:"):
        read.draw_again(found, source, migration)
        st.rerun()


def _facts(shown: Shown) -> None:
    """How far the map may be trusted, beside it."""
    facts = shown.projection.summary
    measured = (
        f"Measured on {facts['trust_users']:,} users and {facts['trust_neighbours']} neighbours."
    )
    trust = (
        "Trustworthiness: 1 if whoever is near on the map is near among the prompts themselves; "
        f"0.5 is chance. {measured}"
    )
    cells = st.columns(4)
    cells[0].metric("Trust in the source map", f"{facts['trust_source']:.2f}", help=trust)
    cells[1].metric("Trust in the migrated map", f"{facts['trust_migrated']:.2f}", help=trust)
    cells[2].metric(
        "Nearest users kept",
        f"{facts['shared_neighbours']:.0%}",
        help="Of a user's nearest users among the source prompts, the share that are nearest among the "
        f"migrated ones too. {measured}",
    )
    cells[3].metric(
        "Misfit of the maps",
        f"{facts['misfit']:.0%}",
        help="Share of the source map's spread that the migrated map misses after it was shifted, "
        "turned, mirrored and scaled as a whole onto it.",
    )
    n, users = facts["drawn"], facts["users"]
    who = (
        f"All {n:,} users are drawn"
        if n == users
        else f"A random {n:,} of {users:,} users are drawn"
    )
    if shown.everybody:
        others = {
            "umap": "the others are put among the drawn users whose prompts are nearest",
            "pca": "the others are put where the same components put them",
        }[facts["method"]]
        who = f"All {users:,} users are counted in cells; a random {n:,} made the map, {others}"
    how = {"umap": "UMAP of", "pca": "the first two of"}[facts["method"]]
    st.caption(
        f"{who}: {how} the principal components, one fit for each model. Axes have no unit; "
        "distances far apart mean little."
        + (LITTLE_IN_COMMON if facts["shared_neighbours"] < LITTLE else "")
    )


def _pick(shown: Shown) -> Pick:
    """What is picked: the latest lasso or click, else what the address names."""
    clusters = int(shown.frame["cluster"].max()) + 1
    for name in map_selection.MAPS:
        key = f"{'crowd' if shown.everybody else 'map'}-{name}"
        selection = (st.session_state.get(key) or {}).get("selection") or {}
        mark = map_selection.signature(selection)
        if mark and mark != st.session_state.get(f"seen-{key}"):
            st.session_state[f"seen-{key}"] = mark
            area, rows = map_selection.event(selection, name)
            if shown.everybody and rows and not area:  # a click on a cell
                area, rows = Pick(area=density_map.corners_of(rows[-1]), on=name), []
            rows = [row for row in rows if 0 <= row < len(shown.frame)][: map_selection.MOST_IDS]
            _write(area or Pick(users=tuple(shown.frame["user_id"].iloc[rows])))
    asked = query_params.read_many("users", lambda _user: True)[: map_selection.MOST_IDS]
    known = set(shown.frame["user_id"]) if asked else set()
    users = tuple(user for user in asked if user in known)
    if len(users) < len(asked):
        st.warning("Not every user that was asked for is on this map.", icon=":material/link_off:")
    corners = query_params.read_many("area", map_selection.is_corner)[: map_selection.MOST_CORNERS]
    on = query_params.read("on", map_selection.MAPS, map_selection.MAPS[0]) or map_selection.MAPS[0]
    cluster = query_params.read("cluster", [str(number + 1) for number in range(clusters)])
    if users:
        return Pick(users=users)
    if len(corners) > 2:
        return Pick(area=tuple(map_selection.corner(one) for one in corners), on=on)
    return Pick(cluster=None if cluster is None else int(cluster) - 1)


def _write(pick: Pick) -> None:
    """Put a pick into the address; nothing of an earlier one stays."""
    query_params.write("users", list(pick.users))
    query_params.write("area", [f"{x},{y}" for x, y in pick.area])
    query_params.write("on", pick.on if pick.area else None)
    query_params.write("cluster", None if pick.cluster is None else str(pick.cluster + 1))


def _charts(
    shown: Shown, colour: str, chosen: np.ndarray | None, pick: Pick, rows: np.ndarray
) -> None:
    values, label, missing = values_of(shown, colour)
    if colour == "chosen" and chosen is None:
        missing = "Who would be chosen is not known yet; see below."
    if missing:
        st.info(missing, icon=":material/help:")
        colour = "cluster"
    marked = rows if pick else None
    scale = None
    if colour == "cluster":
        layers = map_figures.cluster_layers(shown.frame["cluster"].to_numpy(), marked)
    elif colour == "chosen" and chosen is not None:
        layers = map_figures.chosen_layers(chosen, marked)
    else:
        layers = map_figures.value_layers(values, marked)
        scale = map_figures.value_scale(values, label, differences=colour == "gain")
    if scale is not None and not np.isfinite(values).all():
        unknown = int((~np.isfinite(values)).sum())
        st.caption(f"{unknown:,} users without a measurement are grey.")
    data = shown.frame.assign(**({} if chosen is None else {"chosen": chosen}))
    for column, name, title in zip(st.columns(2), map_selection.MAPS, TITLES, strict=True):
        figure = map_figures.map_figure(
            shown.points[name],
            layers,
            scale,
            pick.area if pick.on == name else (),
            st.session_state["mouse"] or "lasso",
        )
        with column:
            figures.show(
                figure,
                data,
                f"map-{name}",
                title=title,
                x="map axis 1 (no unit)",
                y="map axis 2 (no unit)",
                height=map_figures.HEIGHT,
                select=("points", "box", "lasso"),
            )


def _pickers(shown: Shown, pick: Pick) -> None:
    """Ways to pick users: with the mouse, a cluster, an id, or nobody."""
    clusters = [str(number + 1) for number in range(int(shown.frame["cluster"].max()) + 1)]
    st.session_state["pick-cluster"] = None if pick.cluster is None else str(pick.cluster + 1)
    st.session_state["pick-user"] = pick.users[0] if len(pick.users) == 1 else ""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Pick on a map by",
            list(MOUSE),
            format_func=MOUSE.__getitem__,
            default="lasso",
            key="mouse",
        )
        st.selectbox(
            "Pick a cluster",
            clusters,
            index=None,
            key="pick-cluster",
            placeholder="none",
            width=160,
            help=term("cluster"),
            on_change=_pick_cluster,
        )
        st.text_input("Pick a user id", key="pick-user", width=200, on_change=_pick_user)
        st.button("Pick nobody", on_click=_write, args=(Pick(),), disabled=not pick)


def _picked(shown: Shown, chosen: np.ndarray | None, pick: Pick, rows: np.ndarray) -> None:
    """The picked users as a table."""
    if not pick:
        st.caption("Draw around users on one map, or click one, to find them on the other map.")
        return
    st.markdown(f"##### {len(rows):,} of {len(shown.frame):,} users picked")
    table = table_of(shown, chosen, rows[:MOST_SHOWN])
    event = st.dataframe(
        table,
        key="picked-users",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height=row_selection.height(len(table), 280),
    )
    marked = event.selection.rows if event else []
    if len(table) == 1 or marked:
        user = table["User"].iloc[marked[0] if marked else 0]
        pages.link("user", label="Open this user", user=str(user))
    if len(rows) > MOST_SHOWN:
        st.caption(f"The first {MOST_SHOWN:,} are shown; the download holds all.")
    figures.downloads(lambda: table_of(shown, chosen, rows), "picked-users-table")


def _pick_cluster() -> None:
    value = st.session_state["pick-cluster"]
    _write(Pick(cluster=None if value is None else int(value) - 1))


def _pick_user() -> None:
    value = st.session_state["pick-user"].strip()
    _write(Pick(users=(value,) if value else ()))
