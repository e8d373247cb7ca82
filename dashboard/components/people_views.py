"""People, its three views of the same users: where they are, what colours mean, who is selected."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import map_selection, query_params
from dashboard.components.map_selection import Axes, MapSelection
from dashboard.engine import METRICS, people, user_maps
from dashboard.engine.people import Key, Subject

VIEWS = {"behaviour": "Behaviour", "umap": "UMAP", "pca": "PCA"}
DRAWN = {"density": "All, counted", "sample": "A sample, as points"}
COLOURS = {
    "mean": "Mean rating",
    "records": "Records",
    "cluster": "Cluster",
    "gain": "Gain over retraining",
    "loss": "Error of the old model",
    "variance": "Variance",
    "chosen": "Selected for training",
}
AMOUNTS = ("mean", "records", "gain", "loss", "variance")


@dataclass(frozen=True)
class View:
    """A view that can be drawn. points: by panel, [n, 2] int16 from 0 to SCALE.

    all_users: frame and points hold all users, who are counted in cells, instead of a sample.
    """

    name: str
    key: Key
    frame: pd.DataFrame
    points: dict[str, np.ndarray]
    axes: Axes
    facts: dict[str, Any]
    all_users: bool = False


def key_of(subject: Subject, name: str, *, all_users: bool = False) -> Key | None:
    """Return the key of a view's positions; None if there is none yet."""
    if name == "behaviour":
        return people.behaviour_key(subject)
    key = people.map_key(subject, name, all_users=all_users)
    return people.components_key(subject) if key is None and name == "pca" else key


def load(subject: Subject, name: str, *, all_users: bool = False) -> View | None:
    """Return a view; None if there is none yet, or if its predictions are gone. Raises PumaError."""
    key = key_of(subject, name, all_users=all_users)
    if key is None:
        return None
    positions = people.positions(engine.root(), key)
    if positions is None:
        return None
    points, axes = _grid(engine.root(), key)
    return View(name, key, positions.frame, points, axes, positions.facts, all_users)


@st.cache_resource(max_entries=6, show_spinner=False)
def _grid(root: str, key: Key) -> tuple[dict[str, np.ndarray], Axes]:
    positions = people.positions(root, key)
    assert positions is not None
    covered = None
    if key[0] == "map" and positions.facts.get("placed") and key[-1] == "drawn":
        # On the scale of all users, so that an outline means the same in both drawings.
        extent = user_maps.extent(root, key[2])
        covered = {
            side: extent[[f"{side}_x", f"{side}_y"]].to_numpy() for side in ("source", "migrated")
        }
    return map_selection.to_grid(
        positions.points, square=key[0] not in ("behaviour", "anchors"), covered=covered
    )


def clusters(subject: Subject, view: View) -> np.ndarray | None:
    """Return the cluster of each user, [n] int, -1 where unknown; None before a map is made."""
    if "cluster" in view.frame:
        return view.frame["cluster"].to_numpy()
    run = people.projection(subject)
    return None if run is None else people.clusters(engine.root(), view.key, run.id)


def cluster_names(subject: Subject) -> list[str]:
    """Return the numbers of the clusters, from 1; empty before a map is made."""
    run = people.projection(subject)
    sizes = [] if run is None else run.summary.get("cluster_sizes", [])
    return [str(number + 1) for number in range(len(sizes))]


def values(subject: Subject, view: View, colour: str) -> tuple[np.ndarray, str, str]:
    """Return a number per user to colour by, its label, and why there is none (or "")."""
    rating = subject.task == "rating"
    if colour == "mean":
        label = "mean of a user's ratings (stars)" if rating else "share of records clicked"
        return view.frame["mean"].to_numpy(), label, ""
    if colour == "records":
        return view.frame["records"].to_numpy(), "records of a user", ""
    if colour == "variance":
        label = "variance of a user's ratings" if rating else "variance of a user's clicks"
        return view.frame["variance"].to_numpy(), label, ""
    axis = METRICS[subject.metric].axis
    if colour == "loss":
        label = f"source prompts on held-out rows: {axis}"
        missing = (
            "The error of the old model is not measured. Evaluate the source prompts to show it."
        )
        values = people.loss(subject, view.key, subject.source_evaluation)
    else:
        label = f"gain in {METRICS[subject.metric].label}: above 0 migrating is better"
        missing = "The gain needs evaluations of this method and of a full retraining on its model."
        values = people.gain(subject, view.key)
    return values, label, "" if np.isfinite(values).any() else missing


def chosen_view(subject: Subject, method_of_old_map: str | None) -> str:
    """Draw the widget of the view. An address of an earlier version means the map that it had."""
    if "map" not in st.query_params and method_of_old_map in VIEWS:
        query_params.write("map", method_of_old_map)
    first = "behaviour"
    if "map" not in st.query_params:
        first = next((name for name in VIEWS if _is_ready(subject, name)), first)
    return query_params.segment("View", VIEWS, "map", default=first, width=210)


def _is_ready(subject: Subject, name: str) -> bool:
    key = key_of(subject, name)
    if key is None or name != "behaviour":
        return key is not None
    return people.positions(engine.root(), key) is not None


def selection(subject: Subject, view: View) -> MapSelection:
    """Return the selection in the address, after a warning about users whom nobody knows."""
    requested = query_params.read_many("users", lambda _user: True)[: map_selection.MAX_IDS]
    users = tuple(user for user in requested if people.is_user(subject.dataset, user))
    if len(users) < len(requested):
        st.warning(
            "Some users in the address are not in this data set.", icon=":material/link_off:"
        )
    if users:
        return MapSelection(users=users)
    corners = query_params.read_many("area", map_selection.is_corner)[: map_selection.MAX_CORNERS]
    on = query_params.read("on", lambda text: True) or ""
    if ":" not in on:  # of an earlier version, which had one view
        on = f"{view.name if view.name != 'behaviour' else 'umap'}:{on or 'source'}"
    panels = {"behaviour": ("old", "migrated", "retrained")}
    name, _, panel = on.partition(":")
    known = name in VIEWS and panel in panels.get(name, ("source", "migrated"))
    if len(corners) > 2 and known:
        outline = tuple((int(x), int(y)) for x, y in (text.split(",") for text in corners))
        return MapSelection(area=outline, on=on)
    cluster = query_params.read("cluster", cluster_names(subject))
    return MapSelection(cluster=None if cluster is None else int(cluster) - 1)


def write(selection: MapSelection) -> None:
    """Write a selection into the address in place of an earlier one."""
    query_params.write("users", list(selection.users))
    query_params.write("area", [f"{x},{y}" for x, y in selection.area])
    query_params.write("on", selection.on if selection.area else None)
    cluster = selection.cluster
    query_params.write("cluster", None if cluster is None else str(cluster + 1))


def selected_rows(subject: Subject, view: View, selection: MapSelection) -> np.ndarray:
    """Return the rows of a view whose users are selected, on whatever view that was, [k] int."""
    if selection.cluster is not None:
        labels = clusters(subject, view)
        return np.flatnonzero(labels == selection.cluster) if labels is not None else _NONE
    if selection.area and selection.view != view.name:
        other = load(subject, selection.view)
        if other is None or selection.panel not in other.points:
            return _NONE
        rows = map_selection.selected_rows(selection, other.frame, other.points)
        return people.rows_of(view.frame, other.frame.iloc[rows])
    if selection.area and selection.panel not in view.points:
        return _NONE
    return map_selection.selected_rows(selection, view.frame, view.points)


_NONE = np.empty(0, dtype=np.int64)
