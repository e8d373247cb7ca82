"""Data: size, outcomes, users and items of each data set, and the import of more."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    dataset_import,
    figures,
    formatting,
    job_cards,
    page_states,
    query_params,
    row_selection,
)
from dashboard.components.formatting import short
from dashboard.components.glossary import show_glossary, term
from dashboard.components.theme import KINDS
from dashboard.engine import datasets

# Table 1 of the paper, for comparison of sizes.
PAPER = (
    ("Amazon Movies and TV", "rating", 30_287, 96_636, 1_166_752),
    ("MIND", "click", 50_000, 19_368, 3_892_068),
    ("Yelp", "rating", 32_850, 129_076, 1_543_687),
)
VIEWS = {"sets": "Data sets", "import": "Import"}
SCALE = {"rating": "Rating (stars)", "click": "Clicked (1) or not (0)"}


def page() -> None:
    """Draw the page."""
    st.title("Data")
    view = query_params.segment("What to do", VIEWS, "view", label_visibility="collapsed")
    with page_states.caught("The data sets cannot be shown."):
        if view == "import":
            dataset_import.panel()
            if engine.has_workspace():
                st.header("Imports", divider="gray")
                job_cards.watch(5, ("import_dataset",))
        else:
            _data_sets()
    show_glossary("held-out", "variance", "run")


def _data_sets() -> None:
    runs = engine.runs("dataset") if engine.has_workspace() else []
    if not runs:
        page_states.empty(
            "No data sets yet",
            "A data set holds interactions of users with items: ratings from 1 to 5, or clicks. Use "
            "**Import** above for a file or for a data set that ships with PUMA.",
            icon=":material/database:",
        )
        return
    root = engine.root()
    _table_one(root, runs)
    run = query_params.choose_run("Data set", runs, "dataset")
    with page_states.caught("This data set cannot be shown completely."):
        facts = datasets.facts(root, run.id)
        _facts(facts)
        _charts(root, run.id, facts)
        _report(run)
        _browse(root, run.id, facts["task"])


def _table_one(root: str, runs: list[engine.Run]) -> None:
    rows = []
    for run in runs:
        facts = datasets.facts(root, run.id)
        sizes = [facts[key] for key in ("users", "items", "records")]
        rows.append([run.name, facts["task"], *sizes])
    if st.toggle("Compare with the data sets of the paper", key="paper", bind="query-params"):
        rows += [[f"{name} (paper)", *rest] for name, *rest in PAPER]
    frame = pd.DataFrame(rows, columns=["name", "task", "users", "items", "records"])
    frame["records per user"] = frame["records"] / frame["users"]
    frame["density"] = 100 * frame["records"] / (frame["users"] * frame["items"])
    whole = {
        name: st.column_config.NumberColumn(name.capitalize(), format="localized")
        for name in ("users", "items", "records")
    }
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "name": "Data set",
            "task": "Task",
            **whole,
            "records per user": st.column_config.NumberColumn("Records per user", format="%.1f"),
            "density": st.column_config.NumberColumn(
                "Density (%)",
                format="%.3f",
                help="Share of all user-item pairs that have a record.",
            ),
        },
        alt="Users, items and records of every data set",
    )


def _facts(facts: dict) -> None:
    spread, rows = facts["rows_per_user"], facts["rows"]
    shown = {
        "Users": formatting.count(facts["users"]),
        "Items": formatting.count(facts["items"]),
        "Records": formatting.count(facts["records"]),
        "Records per user": f"{spread['median']:,.0f}",
        "Mean outcome": f"{facts['mean_outcome']:.2f}",
        "Train / validation / test": " / ".join(
            f"{rows[name] / facts['records']:.0%}" for name in ("train", "validation", "test")
        ),
    }
    for column, (label, value) in zip(st.columns([1, 1, 1, 1, 1, 1.7]), shown.items(), strict=True):
        column.metric(label, value, border=True)


def _charts(root: str, dataset: str, facts: dict) -> None:
    users = datasets.profiles(root, dataset, "user")
    left, middle, right = st.columns(3)
    outcomes = pd.DataFrame(
        {"outcome": list(facts["outcomes"]), "share": list(facts["outcomes"].values())}
    )
    with left:
        bars = go.Bar(
            x=outcomes["outcome"],
            y=100 * outcomes["share"],
            marker={"color": KINDS["source"].colour},
            hovertemplate="%{x}: %{y:.1f} % of the records<extra></extra>",
        )
        figures.show(
            go.Figure(bars, {"xaxis": {"type": "category"}}),
            outcomes,
            f"outcomes-{dataset}",
            title=f"The most frequent outcome is {outcomes.loc[outcomes['share'].idxmax(), 'outcome']}",
            x=SCALE[facts["task"]],
            y="Share of records (%)",
            height=300,
        )
    with middle:
        _histogram(
            users["records"],
            f"records-{dataset}",
            f"Half of the users have {facts['rows_per_user']['median']:,.0f} records or fewer",
            "Records per user",
        )
    with right:
        constant = float((users["variance"] == 0).mean())
        _histogram(
            users["variance"],
            f"variance-{dataset}",
            f"{constant:.1%} of the users always give the same outcome",
            "Variance of a user's outcomes",
        )


def _histogram(values: pd.Series, key: str, title: str, label: str) -> None:
    counts, edges = np.histogram(values.to_numpy(np.float64), bins=_edges(values))
    frame = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "users": counts})
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": KINDS["source"].colour},
        customdata=np.stack([edges[:-1], edges[1:]], axis=1),
        hovertemplate="%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,} users<extra></extra>",
    )
    figures.show(go.Figure(bars), frame, key, title=title, x=label, y="Users", height=300)


def _edges(values: pd.Series, max_bins: int = 40) -> np.ndarray:
    """Return the edges of equal bins; for integers, edges are between integers."""
    low, high = float(values.min()), float(values.max())
    if pd.api.types.is_integer_dtype(values):
        step = int(np.ceil((high - low + 1) / max_bins))
        return np.arange(low - 0.5, high + step + 0.5, step)
    return np.linspace(low, high if high > low else low + 1, max_bins + 1)


def _report(run: engine.Run) -> None:
    report = run.summary.get("report") or {}
    with st.expander("Import report: rows read, kept and dropped"):
        rows = [
            {"what": f"{part}: {name}", "count": number}
            for part in ("read", "dropped", "kept")
            for name, number in (report.get(part) or {}).items()
        ]
        if report.get("split"):
            st.text(f"Split: {report['split']}.")
        for warning in report.get("warnings") or ():
            st.warning("Warning of the import:", icon=":material/warning:")
            st.text(warning)
        if rows:
            st.dataframe(
                pd.DataFrame(rows),
                hide_index=True,
                column_config={
                    "what": "Rows, users or items",
                    "count": st.column_config.NumberColumn("Count", format="localized"),
                },
            )
        st.caption(f"Run {run.id}, content hash {run.summary.get('content_hash', 'unknown')}")


def _browse(root: str, dataset: str, task: str) -> None:
    st.header("Browse", divider="gray")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        items = (
            query_params.segment("Browse", {"user": "Users", "item": "Items"}, "browse") == "item"
        )
        what: datasets.What = "item" if items else "user"
        text = st.text_input(
            "Find",
            key="find",
            bind="query-params",
            placeholder="Part of an id or a title",
            max_chars=200,
        )
    frame, matches = datasets.find(datasets.profiles(root, dataset, what), text[:200])
    st.caption(
        f"{matches:,} {what}s match; the {len(frame):,} with the most records are shown. "
        "Select one to list its records."
    )
    selected = row_selection.select_row(
        frame,
        frame[f"{what}_id"].tolist(),
        what,
        columns=_profile_columns(what, task),
        alt=f"{what}s of the data set with their records",
    )
    if selected is not None:
        _records(root, dataset, what, selected)


def _profile_columns(what: datasets.What, task: str) -> dict:
    mean = "Mean rating (stars)" if task == "rating" else "Share clicked"
    return {
        f"{what}_id": st.column_config.TextColumn(what.capitalize()),
        "text": st.column_config.TextColumn("Title", width="large"),
        "records": st.column_config.NumberColumn("Records", format="localized"),
        "train": st.column_config.NumberColumn("Of these in the train split", format="localized"),
        "mean": st.column_config.NumberColumn(mean, format="%.2f"),
        "variance": st.column_config.NumberColumn("Variance", format="%.2f", help=term("variance")),
    }


def _records(root: str, dataset: str, what: datasets.What, entity: str) -> None:
    rows = datasets.rows_of(root, dataset, what, entity)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"{len(rows):,} records of {what} {short(entity)}", width="content")
        if what == "user":
            pages.link("user", label="Open this user", user=entity, dataset=dataset)
    shown = [
        name for name in ("user_id", "item_id", "text", "outcome", "split", "time") if name in rows
    ]
    rows = rows[shown]
    if "time" in rows:
        rows = rows.assign(time=pd.to_datetime(rows["time"], unit="s"))
    st.dataframe(
        rows,
        hide_index=True,
        column_config={
            "user_id": "User",
            "item_id": "Item",
            "text": st.column_config.TextColumn("Title", width="large"),
            "outcome": st.column_config.NumberColumn("Outcome", format="%.1f"),
            "split": "Split",
            "time": st.column_config.DatetimeColumn("Time (UTC)"),
        },
        alt=f"Records of the selected {what}",
    )
    figures.downloads(rows, f"{what}-records")
