"""People, the maps: one chart a panel, what they say, how far to trust them, and the selection."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import NumberColumn

from dashboard import engine
from dashboard.components import figures, map_figures, map_selection, people_views, tables
from dashboard.components.formatting import escaped, percent, plotly_text, short
from dashboard.components.glossary import term
from dashboard.components.map_selection import MapSelection
from dashboard.components.people_views import View
from dashboard.engine import METRICS, people
from dashboard.engine.people import Subject

CELL_COLOURS = {"users": "Number of people"} | {
    name: f"Mean {people_views.COLOURS[name].lower()}" for name in people_views.AMOUNTS
}
DRAG_MODES = {"pan": "Open", "lasso": "Select"}
HEIGHT = 430
MAX_DRAWN = 3000  # points of one panel; larger views draw a random sample
MAX_ROWS = 1000
FEW_NEIGHBOURS = 0.2
MORE_ALIKE = 0.1  # of the agreement of orders, from which the page says so
ONE_DIMENSION = 0.8  # share of variance along one component from which the page says so
# Counts what was opened, so that a click on the same person opens it again.
OPENED = "people-opened"


def opened() -> int:
    """Return how often a person was opened, which is part of the keys of charts and lists."""
    return int(st.session_state.get(OPENED, 0))


def chart_key(view: View, panel: str) -> str:
    """Return the key of a panel's chart."""
    count = f"-{opened()}" if opened() else ""
    return f"people-{'density' if view.all_users else view.name}-{panel}{count}"


def read_events(view: View) -> str | None:
    """Write a new lasso into the address; return the user of a new click on a dot, or None."""
    for panel in view.points:
        key = chart_key(view, panel)
        event = (st.session_state.get(key) or {}).get("selection") or {}
        signature = map_selection.signature(event)
        if signature == st.session_state.get(f"seen-{key}", ""):
            continue
        st.session_state[f"seen-{key}"] = signature
        axes = view.axes if view.name == "behaviour" else None
        area, rows = map_selection.event(event, f"{view.name}:{panel}", axes)
        if view.all_users and rows and not area:  # a click on a cell
            corners = map_figures.cell_corners(rows[-1])
            area, rows = MapSelection(area=corners, on=f"{view.name}:{panel}"), []
        if area:
            people_views.write(area)
        rows = [row for row in rows if 0 <= row < len(view.frame)]
        if rows:
            return str(view.frame["user_id"].iloc[rows[-1]])
    return None


def titles(subject: Subject, view: View) -> dict[str, tuple[str, str]]:
    """Return the title of each panel and what it adds, as plain text."""
    model = _model(subject.run)
    old = _model(subject.source) if subject.source else ""
    if view.name == "behaviour":
        rating = subject.task == "rating"
        medians = {
            panel: f"median spread {value:.2f} ★"
            if rating
            else f"median spread {100 * value:.1f} %"
            for panel, value in view.facts["medians"].items()
        }
        for panel, value in view.facts.get("agreement", {}).items():
            if np.isfinite(value):
                medians[panel] += f" · orders alike {value:.2f}"
        names = {
            "old": f"Old model, {old}",
            "migrated": subject.participle.capitalize(),
            "retrained": "Retrained",
        }
        if subject.source is None:
            names["migrated"] = subject.label
        return {panel: (names[panel], medians[panel]) for panel in view.points}
    shares = view.facts.get("shares", {})
    details = {
        panel: f"{100 * share[0]:.0f} and {100 * share[1]:.0f} % of the variance"
        for panel, share in shares.items()
    }
    noun = f"{subject.participle.capitalize()} prompts" if subject.source else "Prompts"
    names = {"source": f"Old model, {old}", "migrated": f"{noun}, {model}"}
    return {panel: (names[panel], details.get(panel, "")) for panel in view.points}


def _model(run: engine.Run) -> str:
    """Return the name of the model of prompts, or of the run of vectors that no model made."""
    try:
        return engine.run(run.inputs.get("backbone", run.id)).name
    except engine.NotFoundError:
        return "a model that is gone"


def headline(subject: Subject, view: View) -> str:
    """Return one sentence on what the view shows, as plain text."""
    if view.name == "behaviour":
        return _behaviour_headline(subject, view.facts["medians"])
    if "shared_neighbours" in view.facts:
        shared = view.facts["shared_neighbours"]
        count = view.facts["trust_neighbours"]
        return f"Of a person's {count} nearest neighbours, the {subject.noun} keeps {100 * shared:.0f} %."
    if "misfit" in view.facts:
        return f"The {subject.noun} changed {100 * view.facts['misfit']:.0f} % of the layout of the old prompts."
    return "People whose prompts are similar are near each other."


def _behaviour_headline(subject: Subject, medians: dict[str, float]) -> str:
    """Compare how much the typical person's prompt tells titles apart, by the median spread."""
    other = next((name for name in ("retrained", "old") if name in medians), None)
    if other is None:
        return "How generous a prompt is, and how much it tells titles apart."
    rating = subject.task == "rating"
    values = [
        f"{medians[name]:.2f} ★" if rating else f"{100 * medians[name]:.1f} %"
        for name in ("migrated", other)
    ]
    subject_name = f"The {subject.noun}" if subject.source else "This method"
    against = "retraining" if other == "retrained" else "the old model"
    if values[0] == values[1]:
        return f"{subject_name} tells titles apart as much as {against} does: by {values[0]}."
    word = "less" if medians["migrated"] < medians[other] else "more"
    return f"{subject_name} tells titles apart {word} than {against}: by {values[0]}, against {values[1]}."


def trust(subject: Subject, view: View) -> None:
    """Draw what the positions mean and how far they can be trusted."""
    facts = view.facts
    if view.name == "behaviour":
        st.markdown(
            "**Horizontal**: a person's mean prediction, how generous the prompt is.\n\n"
            "**Vertical**: the standard deviation of the person's predictions, how much the prompt "
            "tells titles apart.\n\n" + _measured_on(view)
        )
        if "anchors" in facts:
            _anchor_table(subject, facts["anchors"])
        return
    if "trust_users" in facts:
        measured = f"Measured on {facts['trust_users']:,} users and {facts['trust_neighbours']} neighbours."
        explanation = (
            "Trustworthiness: 1 if neighbours on the map are neighbours among the prompts; 0.5 is "
            f"chance. {measured}"
        )
        shared = (
            "Share of a user's nearest users among the source prompts that are also nearest among "
            f"the {subject.participle} prompts. {measured}"
        )
        tables.metrics(
            {
                "Trust in the source map": (f"{facts['trust_source']:.2f}", explanation),
                f"Trust in the {subject.participle} map": (
                    f"{facts['trust_migrated']:.2f}",
                    explanation,
                ),
            }
        )
        tables.metrics(
            {
                "Neighbours in common": (percent(facts["shared_neighbours"]), shared),
                "How much the layout changed": (percent(facts["misfit"]), _MISFIT),
            }
        )
    elif "misfit" in facts:
        st.metric("How much the layout changed", percent(facts["misfit"]), help=_MISFIT)
    method = "UMAP of the principal components" if view.name == "umap" else "Principal components"
    st.caption(
        f"{method} of the prompts, computed for each model alone; the {subject.participle} map is shifted, "
        "turned and scaled onto the source map. Axes have no unit; large distances have little "
        "meaning."
        if subject.source
        else f"{method} of the prompts. Axes have no unit."
    )


def _measured_on(view: View) -> str:
    """Say what the predictions of the behaviour are of."""
    facts = view.facts
    if "anchors" in facts:
        over = (
            f"Both are over the same {len(facts['anchors'])} titles for everybody and every model"
        )
        over += f" (anchor items), of {len(view.frame):,} people. *Orders alike* is the mean rank "
        over += (
            "correlation between two people's orders of these titles: 1 is the same order for all."
        )
    else:
        over = (
            f"Both are over the {facts['rows']:,} held-out records that all panels predicted, of "
        )
        over += f"the {len(view.frame):,} people with two or more; each person's titles are others."
    return f"{over} They have units, so panels are compared without any alignment."


def _anchor_table(subject: Subject, items: list[str]) -> None:
    titles = people.anchor_titles(engine.root(), subject.dataset, tuple(items))
    rating = subject.task == "rating"
    mean = "Mean rating (stars)" if rating else "Share clicked (%)"
    table = pd.DataFrame(
        {
            "Title": [short(text, 60) for text in titles["text"]],
            "Records": titles["records"],
            mean: titles["mean"] if rating else 100 * titles["mean"],
        }
    )
    tables.show(table, {mean: NumberColumn(format="%.2f" if rating else "%.1f")}, height=220)


_MISFIT = (
    "Share of the source map's spread that the other map does not reproduce after shift, "
    "rotation, reflection and scaling (Procrustes)."
)


def notes(subject: Subject, view: View) -> str:
    """Say what limits the map of a view: few common neighbours, prompts along a line; or ""."""
    if view.name == "behaviour":
        return _order_note(subject, view)
    parts = []
    if view.facts.get("shared_neighbours", 1.0) < FEW_NEIGHBOURS:
        parts.append(
            "The two models group people differently: few neighbours are in common, so compare "
            "people, not positions."
        )
    return " ".join([*parts, _dimension_note(subject)]).strip()


def _order_note(subject: Subject, view: View) -> str:
    """Say so where people's orders of the same titles are more alike after the migration; or ""."""
    agreement = view.facts.get("agreement", {})
    other = next((name for name in ("retrained", "old") if name in agreement), None)
    if other is None or not agreement["migrated"] - agreement[other] >= MORE_ALIKE:
        return ""
    before = "after retraining" if other == "retrained" else "on the old model"
    return (
        f"After the {subject.noun}, people's orders of these titles are more alike: "
        f"{agreement['migrated']:.2f}, against {agreement[other]:.2f} {before}. 1 is the same order for everybody."
    )


def _dimension_note(subject: Subject) -> str:
    shares = people.one_dimensional(subject)
    names = {"source": "old prompts", "migrated": f"{subject.participle} prompts"}
    if subject.source is None:
        names["migrated"] = "prompts"
    flat = {panel: share for panel, share in shares.items() if share >= ONE_DIMENSION}
    if not flat:
        return ""
    tables = " and ".join(names[panel] for panel in flat)
    held = " and ".join(f"{100 * share:.0f} %" for share in flat.values())
    rest = [
        f", against {100 * share:.0f} % of that of the {names[panel]}"
        for panel, share in shares.items()
        if panel not in flat
    ]
    return (
        f"The {tables} are nearly one-dimensional: one direction holds {held} of their variance"
        f"{''.join(rest)}. A map of them shows little more than one number for each person."
    )


@dataclass(frozen=True)
class Highlights:
    """What maps show of users beside their places.

    colour: what their colour says. trained: whether each user trains the adapter; None if that is not
    known. selection and rows: who is selected.
    """

    colour: str
    trained: np.ndarray | None
    selection: MapSelection
    rows: np.ndarray


def charts(subject: Subject, view: View, shown: Highlights) -> None:
    """Draw the panels of a view side by side, with one legend, and the selected users highlighted."""
    colour, trained, selection, rows = shown.colour, shown.trained, shown.selection, shown.rows
    values, label, missing = _values(subject, view, colour, trained)
    if missing:
        st.info(missing, icon=":material/help:")
    dragmode = st.session_state.get("mouse") or "pan"
    known = None if missing or not len(values) else values
    scale = None
    layers: list[map_figures.Layer] = []
    hovering: map_figures.Hover | None = None
    if view.all_users:
        if known is not None:
            first = map_figures.cells(next(iter(view.points.values())), known, None)
            means = first["mean"].to_numpy()
            scale = map_figures.value_scale(means, f"mean {label}", differences=colour == "gain")
    else:
        layers, scale = _layers(subject, view, colour, trained, known, label, selection, rows)
        is_drawn = drawn_users(len(view.frame), rows if selection else _NONE)
        layers = map_figures.sampled(layers, is_drawn)
        hovering = hover(subject, view, is_drawn)
    named = titles(subject, view)
    panels = zip(st.columns(len(view.points)), view.points.items(), strict=True)
    for number, (column, (panel, points)) in enumerate(panels):
        corners = selection.area if selection.on == f"{view.name}:{panel}" else ()
        figure: go.Figure
        if view.all_users:
            background = map_figures.cells(points, known, None)
            cells = map_figures.cells(points, known, rows) if selection else background
            figure = map_figures.density_map(
                cells,
                background if selection else None,
                scale,
                corners,
                dragmode,
                legend=number == 0,
            )
        else:
            figure = map_figures.point_map(
                points,
                layers,
                scale,
                corners,
                dragmode,
                axes=view.axes if view.name == "behaviour" else None,
                hover=hovering,
                # The legend of clusters would be larger than the chart; hovering names them.
                legend=number == 0 and colour != "cluster",
            )
        _label_axes(figure, subject, view, first=number == 0)
        title, detail = named[panel]
        with column, st.container(gap="xsmall"):
            st.markdown(f"**{escaped(title, 60)}**" + (f"  \n:small[{detail}]" if detail else ""))
            st.plotly_chart(
                figure,
                key=chart_key(view, panel),
                config=figures.CONFIG,
                alt=f"{title}: {headline(subject, view)}",
                on_select="rerun",
                selection_mode=("points", "box", "lasso"),
            )
    _caption(subject, view, values if known is not None else None, trained, colour)


def _label_axes(figure: go.Figure, subject: Subject, view: View, *, first: bool) -> None:
    # Fixed margins, so that the panels are equally large whatever stands beside them.
    left = 52 if view.name == "behaviour" else 28
    figure.update_layout(height=HEIGHT, margin={"l": left, "r": 8, "t": 8, "b": 104})
    figure.update_xaxes(automargin=False)
    figure.update_yaxes(automargin=False)
    small = {"size": 12}
    if view.name == "behaviour":
        # The panels are narrow, and the text above them says over which titles.
        unit = "stars" if subject.task == "rating" else "probability"
        figure.update_xaxes(title={"text": f"Mean prediction ({unit})", "font": small})
        if first:
            figure.update_yaxes(title={"text": f"Spread of predictions ({unit})", "font": small})
    else:
        word = "Component" if view.name == "pca" else "Map axis"
        figure.update_xaxes(title={"text": f"{word} 1 (no unit)", "font": small})
        if first:
            figure.update_yaxes(title={"text": f"{word} 2 (no unit)", "font": small})


def _values(
    subject: Subject, view: View, colour: str, trained: np.ndarray | None
) -> tuple[np.ndarray, str, str]:
    """Return a number per user, its label, and why the colours are missing (or "")."""
    if colour in people_views.AMOUNTS:
        return people_views.values(subject, view, colour)
    missing = ""
    if colour == "chosen" and trained is None:
        missing = "Who trains the adapter is not known yet; see “Who trains it” below."
    elif colour == "cluster" and people_views.clusters(subject, view) is None:
        missing = "Clusters are found when the UMAP is made; choose UMAP to make it."
    return _NONE, "", missing


def _layers(
    subject: Subject,
    view: View,
    colour: str,
    trained: np.ndarray | None,
    known: np.ndarray | None,
    label: str,
    selection: MapSelection,
    rows: np.ndarray,
) -> tuple[list[map_figures.Layer], map_figures.Scale | None]:
    selected = rows if selection else None
    if colour == "chosen" and trained is not None:
        return map_figures.selected_layers(trained, selected), None
    cluster = people_views.clusters(subject, view) if colour == "cluster" else None
    if cluster is not None:
        return map_figures.cluster_layers(cluster, selected), None
    if known is None:  # one colour for everybody
        return map_figures.selected_layers(np.zeros(len(view.frame), bool), selected), None
    differences = colour == "gain"
    return (
        map_figures.value_layers(known, selected),
        map_figures.value_scale(known, label, differences=differences),
    )


def drawn_users(count: int, selected: np.ndarray) -> np.ndarray:
    """Say which users are drawn as points, [count] bool: a seeded sample, and selected ones."""
    is_drawn = np.ones(count, bool)
    if count > MAX_DRAWN:
        is_drawn[:] = False
        is_drawn[np.random.default_rng(0).choice(count, MAX_DRAWN, replace=False)] = True
        is_drawn[selected[:MAX_DRAWN]] = True
    return is_drawn


def hover(subject: Subject, view: View, is_drawn: np.ndarray) -> map_figures.Hover:
    """Return what hovering over a user shows: id, mean, records, gain, and cluster if known."""
    ids, rows = [""] * len(view.frame), np.flatnonzero(is_drawn)
    for row, user in zip(rows, view.frame["user_id"].iloc[rows], strict=True):
        ids[row] = plotly_text(user, 40)
    gains = people.gain(subject, view.key)
    mean = view.frame["mean"].to_numpy() * (1 if subject.task == "rating" else 100)
    columns = [mean, view.frame["records"].to_numpy(), gains]
    lines = [
        "mean rating %{customdata[1]:.2f} ★"
        if subject.task == "rating"
        else "clicks %{customdata[1]:.0f} % of records",
        "%{customdata[2]:.0f} records",
    ]
    measured, more = np.isfinite(gains), []
    unit = " ★" if subject.metric == "rmse" else ""
    if measured[rows].all():
        lines.append(f"gain %{{customdata[3]:+.3f}}{unit}")
    elif not measured[rows].any():
        lines.append("gain not measured")
    else:  # plotly would show NaN
        lines.append("%{hovertext}")
        more = [
            f"gain {gain:+.3f}{unit}" if gain == gain else "gain not measured" for gain in gains
        ]
    cluster = people_views.clusters(subject, view)
    if cluster is not None and (cluster[rows] >= 0).all():
        columns.append(cluster + 1)
        lines.append("cluster %{customdata[4]:.0f}")
    numbers = np.column_stack(columns).astype(np.float32)
    return map_figures.Hover(ids, numbers, "<br>".join(lines), more)


def _caption(
    subject: Subject,
    view: View,
    values: np.ndarray | None,
    trained: np.ndarray | None,
    colour: str,
) -> None:
    """Say who is drawn, and offer the data."""
    count = len(view.frame)
    users = int(view.facts.get("users", count))
    if view.all_users:
        method = {"umap": "at the mean of their nearest drawn users"}.get(
            view.name, "projected onto the same components"
        )
        caption = (
            f"All {users:,} users are counted in cells; a random {view.facts['drawn']:,} made the "
            f"map, the others are {method}."
        )
    elif count < users:
        caption = f"A random {count:,} of {users:,} users are drawn."
    else:
        caption = f"All {users:,} users are drawn."
    if not view.all_users and count > MAX_DRAWN:
        caption = (
            f"A random {MAX_DRAWN:,} of {count:,} users are drawn as points; a selection holds "
            "everybody inside."
        )
    unknown = 0 if values is None else int((~np.isfinite(values)).sum())
    if unknown:
        caption += f" {unknown:,} users without a measurement are grey."
    if colour == "cluster" and not view.all_users:
        caption += " Colours and marks are clusters; hover over a dot to see which."
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(caption, width="stretch")
        figures.downloads(lambda: _data(subject, view, values, trained), f"people-{view.name}")


def _data(
    subject: Subject, view: View, values: np.ndarray | None, trained: np.ndarray | None
) -> pd.DataFrame:
    """Return everything drawn, one row for each user."""
    positions = people.positions(engine.root(), view.key)
    assert positions is not None
    table = view.frame.copy()
    axes = ("mean_prediction", "spread") if view.name == "behaviour" else ("x", "y")
    for panel, points in positions.points.items():
        for side, axis in enumerate(axes):
            table[f"{panel}_{axis}"] = points[:, side]
    table["gain"] = people.gain(subject, view.key)
    if values is not None:
        table["colour"] = values
    return table if trained is None else table.assign(trains_the_adapter=trained)


def selected_table(
    subject: Subject,
    view: View,
    trained: np.ndarray | None,
    selection: MapSelection,
    rows: np.ndarray,
) -> str | None:
    """List the selected users; return the id of a clicked one."""
    st.markdown(f"### {len(rows):,} of {len(view.frame):,} users selected")
    table = _table(subject, view, trained, rows[:MAX_ROWS])
    variance = "Variance (squared stars)" if subject.task == "rating" else "Variance of clicks"
    event = tables.show(
        table,
        {
            "Mean rating": NumberColumn("Mean rating (stars)", format="%.2f"),
            "Variance": NumberColumn(variance, format="%.2f"),
        },
        key=f"picked-users-{opened()}",
        on_select="rerun",
        selection_mode="single-cell",
        height=tables.height(len(table), 280),
    )
    if len(rows) > MAX_ROWS:
        st.caption(f"The first {MAX_ROWS:,} are shown; the download holds all.")
    figures.downloads(lambda: _table(subject, view, trained, rows), "picked-users-table")
    row = tables.clicked_row(event, len(table))
    return None if row is None else str(view.frame["user_id"].iloc[rows[row]])


def _table(
    subject: Subject, view: View, trained: np.ndarray | None, rows: np.ndarray
) -> pd.DataFrame:
    frame = view.frame.iloc[rows]
    columns: dict[str, object] = {"User": [short(user) for user in frame["user_id"]]}
    cluster = people_views.clusters(subject, view)
    if cluster is not None:
        columns["Cluster"] = cluster[rows] + 1
    name = "Mean rating" if subject.task == "rating" else "Share clicked"
    columns |= {
        name: frame["mean"].to_numpy(),
        "Records": frame["records"].to_numpy(),
        "Variance": frame["variance"].to_numpy(),
    }
    for metric in dict.fromkeys([subject.metric, subject.ranking]):
        label = METRICS[metric].label
        if metric == subject.metric:
            label += f" ({METRICS[metric].unit})"
        for side, evaluation in (
            ("Old model", subject.source_evaluation),
            (subject.participle.capitalize(), subject.evaluation),
        ):
            values = people.loss(subject, view.key, evaluation, metric)
            columns[f"{side}: {label}"] = values[rows]
    columns[f"Gain over retraining ({METRICS[subject.metric].unit})"] = people.gain(
        subject, view.key
    )[rows]
    if trained is not None:
        columns["Trains the adapter"] = trained[rows]
    return pd.DataFrame(columns)


def selection_bar(subject: Subject, selection: MapSelection) -> None:
    """Draw the widgets that choose what the mouse does, select a cluster, and clear."""

    def write_cluster() -> None:
        value = st.session_state["pick-cluster"]
        people_views.write(MapSelection(cluster=None if value is None else int(value) - 1))

    cluster = selection.cluster
    names = people_views.cluster_names(subject)
    if names:
        st.session_state["pick-cluster"] = None if cluster is None else str(cluster + 1)
        st.selectbox(
            "Select a cluster",
            names,
            index=None,
            key="pick-cluster",
            placeholder="none",
            width=150,
            help=term("cluster"),
            on_change=write_cluster,
        )
    if selection:
        st.button("Clear", on_click=people_views.write, args=(MapSelection(),))


_NONE = np.empty(0, dtype=np.int64)
