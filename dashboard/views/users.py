"""Users: maps of users before and after a migration, and the users an adapter is trained on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    figures,
    job_cards,
    map_figures,
    map_selection,
    page_states,
    published,
    query_params,
    selection_preview,
    tables,
)
from dashboard.components.formatting import short
from dashboard.components.glossary import show_glossary, term
from dashboard.components.map_selection import MapSelection
from dashboard.engine import METRICS, user_maps
from dashboard.engine.user_maps import UserMap

COLOURS = {
    "cluster": "Cluster",
    "chosen": "Selected for training",
    "variance": "Variance",
    "loss": "Loss on the source",
    "gain": "Gain of migrating",
}
CELL_COLOURS = {"users": "Number of users"} | {
    name: f"Mean {COLOURS[name].lower()}" for name in ("variance", "loss", "gain")
}
VIEWS = {"density": "All users, counted", "sample": "A sample, as points"}
TITLES = (
    "Source: users by their prompts for the old model",
    "Migrated: the same users by their prompts for the new model",
)
DRAG_MODES = {"lasso": "Lasso", "pan": "Click"}
MAX_ROWS = 1000
FEW_NEIGHBOURS = 0.2


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("People")
    st.caption("The position of a user is from the soft prompt: near users have similar prompts.")
    migrations = user_maps.migrations()
    if not migrations:
        page_states.empty(
            "No migration yet",
            "A map shows users before and after a migration. Launch a migration first.",
            icon=":material/scatter_plot:",
        )
        pages.link("plan", label="Plan a migration")
        return
    left, right = st.columns(2)
    with left:
        migration = query_params.choose_run(
            "Migration",
            migrations,
            "migration",
            default=user_maps.first_with_map(migrations),
            help=term("migration"),
        )
    with right:
        source = query_params.choose_run(
            "Source prompts",
            user_maps.sources_of(migration),
            "source",
            help=term("source prompts"),
        )
    published.mark(migration)
    if user_maps.newer_migration(migration):
        page_states.stale("A newer migration of these prompts to the same model is in the list.")
    projection = user_maps.projection(source.id, migration.id)
    if projection is None:
        _no_map(source, migration)
        return
    root = engine.root()
    try:
        sample = shown = UserMap(
            source, migration, projection, user_maps.users(root, projection.id), {}
        )
        extent = None
        if projection.summary.get("placed"):
            if query_params.segment("Show", VIEWS, "view") == "density":
                frame, points = _all_users(root, projection.id)
                shown = replace(sample, frame=frame, points=points, all_users=True)
            else:
                # On the scale of all users, so that an outline means the same in both views.
                extent = user_maps.extent(root, projection.id)
        if not shown.all_users:
            sample.points = map_selection.grid(sample.frame, extent)
    except engine.StoreError as error:
        page_states.failed("This map is damaged.", error)
        st.caption("A map is made from the prompts alone, so nothing is lost by making it again.")
        if page_states.action("Make it again", type="primary", icon=":material/refresh:"):
            engine.workspace().delete(projection.id)
            user_maps.project(source, migration)
            st.rerun()
        return
    _map(sample, shown)
    show_glossary("soft prompt", "cluster", "variance", "strategy", "budget", "gain", "migration")


def _no_map(source: engine.Run, migration: engine.Run) -> None:
    """Show the job that makes the map, or a button that queues it."""
    job = user_maps.latest_job("project", source=source.id, migrated=migration.id)
    if job is not None and job.status in ("queued", "running", "interrupted"):
        page_states.loading("A job makes the map; it continues when you close the page.")
        job_cards.watch_one(job)
        return
    if job is not None and job.status == "failed":
        page_states.failed("The map could not be made.", job.error)
        if page_states.action("Try again", type="primary", icon=":material/refresh:"):
            engine.retry(job.id)
            st.rerun()
        return
    page_states.empty(
        "No map of these prompts yet",
        "A job projects the prompts onto the plane, before and after the migration. It runs once, "
        "in the background.",
        icon=":material/scatter_plot:",
    )
    if page_states.action("Make the map", type="primary", icon=":material/draw:"):
        user_maps.project(source, migration)
        st.rerun()


@st.cache_resource(max_entries=2, show_spinner=False)
def _all_users(root: str, projection_id: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    frame = user_maps.all_users(root, projection_id)
    return frame, map_selection.grid(frame)


def _map(sample: UserMap, shown: UserMap) -> None:
    columns = st.columns([2, 3, 3])
    labels, name = (CELL_COLOURS, "shade") if shown.all_users else (COLOURS, "colour")
    with columns[0]:
        colour = query_params.choose("Colour by", list(labels), name, labels=labels)
    with columns[1]:
        strategy = selection_preview.choose_strategy()
    with columns[2]:
        budget = selection_preview.choose_budget(sample, strategy)
    trained = selection_preview.selected_users(sample, strategy, budget)
    _quality(shown)
    selection = _selection(shown)
    rows = map_selection.selected_rows(selection, shown.frame, shown.points)
    _selection_widgets(shown, selection)
    st.header("Maps", divider="gray")
    _charts(shown, colour, trained, selection, rows)
    _selected_table(shown, None if shown.all_users else trained, selection, rows)
    selection_preview.show(sample, trained, strategy, budget)


def _quality(shown: UserMap) -> None:
    """Show how well the map represents the prompts."""
    summary = shown.projection.summary
    measured = f"Measured on {summary['trust_users']:,} users and {summary['trust_neighbours']} neighbours."
    trust = (
        "Trustworthiness: 1 if neighbours on the map are neighbours among the prompts; 0.5 is "
        f"chance. {measured}"
    )
    shared = (
        "Share of a user's nearest users among the source prompts that are also nearest among the "
        f"migrated prompts. {measured}"
    )
    misfit = (
        "Share of the source map's spread that the migrated map does not reproduce after shift, "
        "rotation, reflection and scaling (Procrustes)."
    )
    tables.metrics(
        {
            "Trust in the source map": (f"{summary['trust_source']:.2f}", trust),
            "Trust in the migrated map": (f"{summary['trust_migrated']:.2f}", trust),
            "Neighbours in common": (f"{summary['shared_neighbours']:.0%}", shared),
            "How much the layout changed": (f"{summary['misfit']:.0%}", misfit),
        }
    )
    n, users = summary["drawn"], summary["users"]
    who = f"{f'All {n:,}' if n == users else f'A random {n:,} of {users:,}'} users are drawn"
    if shown.all_users:
        others = {
            "umap": "the others are at the mean of their nearest drawn users",
            "pca": "the others are projected onto the same components",
        }[summary["method"]]
        who = f"All {users:,} users are counted in cells; a random {n:,} made the map, {others}"
    method = {"umap": "UMAP of", "pca": "the first two of"}[summary["method"]]
    few = ""
    if summary["shared_neighbours"] < FEW_NEIGHBOURS:
        few = (
            " **The two models group users differently**: few neighbours are in common, so compare "
            "users, not positions."
        )
    st.caption(
        f"{who}: {method} the principal components, one fit for each model. Axes have no unit; "
        f"large distances have little meaning.{few}"
    )


def _selection(shown: UserMap) -> MapSelection:
    """Return the selection in the address, after writing a new lasso or click into it."""
    for name in map_selection.MAPS:
        key = _chart_key(shown, name)
        event = (st.session_state.get(key) or {}).get("selection") or {}
        signature = map_selection.signature(event)
        if signature and signature != st.session_state.get(f"seen-{key}"):
            st.session_state[f"seen-{key}"] = signature
            area, rows = map_selection.event(event, name)
            if shown.all_users and rows and not area:  # a click on a cell
                area, rows = MapSelection(area=map_figures.cell_corners(rows[-1]), on=name), []
            rows = [row for row in rows if 0 <= row < len(shown.frame)][: map_selection.MAX_IDS]
            _write(area or MapSelection(users=tuple(shown.frame["user_id"].iloc[rows])))
    given = query_params.read_many("users", lambda _user: True)[: map_selection.MAX_IDS]
    known = set(shown.frame["user_id"]) if given else set()
    users = tuple(user for user in given if user in known)
    if len(users) < len(given):
        st.warning("Some users in the address are not on this map.", icon=":material/link_off:")
    corners = query_params.read_many("area", map_selection.is_corner)[: map_selection.MAX_CORNERS]
    on = query_params.read("on", map_selection.MAPS, map_selection.MAPS[0]) or map_selection.MAPS[0]
    cluster = query_params.read("cluster", _clusters(shown))
    if users:
        return MapSelection(users=users)
    if len(corners) > 2:
        outline = tuple((int(x), int(y)) for x, y in (text.split(",") for text in corners))
        return MapSelection(area=outline, on=on)
    return MapSelection(cluster=None if cluster is None else int(cluster) - 1)


def _chart_key(shown: UserMap, name: str) -> str:
    return f"{'density' if shown.all_users else 'map'}-{name}"


def _clusters(shown: UserMap) -> list[str]:
    return [str(number + 1) for number in range(int(shown.frame["cluster"].max()) + 1)]


def _write(selection: MapSelection) -> None:
    """Write a selection into the address in place of an earlier one."""
    query_params.write("users", list(selection.users))
    query_params.write("area", [f"{x},{y}" for x, y in selection.area])
    query_params.write("on", selection.on if selection.area else None)
    cluster = selection.cluster
    query_params.write("cluster", None if cluster is None else str(cluster + 1))


def _selection_widgets(shown: UserMap, selection: MapSelection) -> None:
    """Draw the widgets that select users by mouse, by cluster or by id, or clear the selection."""

    def write_cluster() -> None:
        value = st.session_state["pick-cluster"]
        _write(MapSelection(cluster=None if value is None else int(value) - 1))

    def write_user() -> None:
        value = st.session_state["pick-user"].strip()
        _write(MapSelection(users=(value,) if value else ()))

    cluster, users = selection.cluster, selection.users
    st.session_state["pick-cluster"] = None if cluster is None else str(cluster + 1)
    st.session_state["pick-user"] = users[0] if len(users) == 1 else ""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Select on a map by",
            list(DRAG_MODES),
            format_func=DRAG_MODES.__getitem__,
            default="lasso",
            key="mouse",
        )
        st.selectbox(
            "Select a cluster",
            _clusters(shown),
            index=None,
            key="pick-cluster",
            placeholder="none",
            width=160,
            help=term("cluster"),
            on_change=write_cluster,
        )
        st.text_input("Select a user id", key="pick-user", width=200, on_change=write_user)
        st.button("Clear", on_click=_write, args=(MapSelection(),), disabled=not selection)


def _charts(
    shown: UserMap,
    colour: str,
    trained: np.ndarray | None,
    selection: MapSelection,
    rows: np.ndarray,
) -> None:
    """Draw both maps, with the selected users highlighted."""
    values, label, missing = _values(shown, colour)
    if colour == "chosen" and trained is None:
        missing = "The selected users are not known yet; see below."
    if missing:
        st.info(missing, icon=":material/help:")
    dragmode = st.session_state["mouse"] or "lasso"
    data = shown.frame
    layers: list[map_figures.Layer] = []
    scale = None
    if shown.all_users:
        known = None if missing or not len(values) else values
        if known is not None:
            first = map_figures.cells(shown.points[map_selection.MAPS[0]], known, None)
            means = first["mean"].to_numpy()
            scale = map_figures.value_scale(means, f"mean {label}", differences=colour == "gain")
    else:
        selected = rows if selection else None
        if colour == "chosen" and trained is not None:
            layers = map_figures.selected_layers(trained, selected)
        elif colour in ("cluster", "chosen") or missing:
            layers = map_figures.cluster_layers(shown.frame["cluster"].to_numpy(), selected)
        else:
            layers = map_figures.value_layers(values, selected)
            scale = map_figures.value_scale(values, label, differences=colour == "gain")
            unknown = int((~np.isfinite(values)).sum())
            if unknown:
                st.caption(f"{unknown:,} users without a measurement are grey.")
        data = data.assign(**({} if trained is None else {"chosen": trained}))
    for column, name, title in zip(st.columns(2), map_selection.MAPS, TITLES, strict=True):
        points = shown.points[name]
        corners = selection.area if selection.on == name else ()
        figure: go.Figure
        if shown.all_users:
            background = map_figures.cells(points, known, None)
            data = map_figures.cells(points, known, rows) if selection else background
            figure = map_figures.density_map(
                data, background if selection else None, scale, corners, dragmode
            )
        else:
            figure = map_figures.point_map(points, layers, scale, corners, dragmode)
        with column:
            figures.show(
                figure,
                data,
                _chart_key(shown, name),
                title=title,
                x="map axis 1 (no unit)",
                y="map axis 2 (no unit)",
                height=map_figures.HEIGHT,
                select=("points", "box", "lasso"),
            )


def _values(shown: UserMap, colour: str) -> tuple[np.ndarray, str, str]:
    """Return a number per user to colour by, its label, and why there is none (or "")."""
    if colour == "variance":
        return shown.frame["variance"].to_numpy(), "variance of a user's train outcomes", ""
    if colour == "loss":
        values = shown.scores(shown.source)
        label = f"source prompts on held-out rows: {METRICS[shown.metric].axis}"
        missing = (
            "The loss is the source prompts' error on held-out rows. Evaluate the source prompts "
            "to show it."
        )
    elif colour == "gain":
        values = shown.gain()
        label = f"gain in {shown.metric}: above 0 migrating is better"
        missing = (
            "The gain needs evaluations of this migration and of a full retraining on its model."
        )
    else:
        return np.empty(0), "", ""
    return values, label, "" if np.isfinite(values).any() else missing


def _selected_table(
    shown: UserMap, trained: np.ndarray | None, selection: MapSelection, rows: np.ndarray
) -> None:
    """List the selected users."""
    if not selection:
        st.caption("Draw around users on one map, or click one, to find them on the other map.")
        return
    st.markdown(f"### {len(rows):,} of {len(shown.frame):,} users selected")
    table = _table(shown, trained, rows[:MAX_ROWS])
    event = tables.show(
        table,
        key="picked-users",
        on_select="rerun",
        selection_mode="single-row",
        height=tables.height(len(table), 280),
    )
    marked = event.selection.rows if event else []
    if len(table) == 1 or marked:
        user = table["User"].iloc[marked[0] if marked else 0]
        pages.link("user", label="Open this user", user=str(user))
    if len(rows) > MAX_ROWS:
        st.caption(f"The first {MAX_ROWS:,} are shown; the download holds all.")
    figures.downloads(lambda: _table(shown, trained, rows), "picked-users-table")


def _table(shown: UserMap, trained: np.ndarray | None, rows: np.ndarray) -> pd.DataFrame:
    frame = shown.frame.iloc[rows]
    columns = {
        "User": [short(user) for user in frame["user_id"]],
        "Cluster": frame["cluster"].to_numpy() + 1,
        "Variance": frame["variance"].to_numpy(),
        f"Source, {shown.metric}": shown.scores(shown.source, rows),
        f"Migrated, {shown.metric}": shown.scores(shown.migration, rows),
        "Gain over retraining": shown.gain(rows),
    }
    if shown.ranking != shown.metric:
        for name, prompts in (("Source", shown.source), ("Migrated", shown.migration)):
            label = f"{name}, {METRICS[shown.ranking].label}"
            columns[label] = shown.scores(prompts, rows, shown.ranking)
    if trained is not None:
        columns["Trains the adapter"] = trained[rows]
    return pd.DataFrame(columns)
