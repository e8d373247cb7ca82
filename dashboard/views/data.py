"""Data: size, outcomes, users and items of each data set, and the import of more."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import DatetimeColumn, NumberColumn, TextColumn

from dashboard import engine, pages
from dashboard.components import (
    dataset_import,
    figures,
    formatting,
    job_cards,
    page_states,
    query_params,
    tables,
)
from dashboard.components.formatting import MAX_WARNING, escaped, percent, short
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
# Names and units of outcomes, by task.
SCALE = {"rating": "Rating (stars)", "click": "Clicked (1) or not (0)"}
MEAN = {"rating": "Mean rating (stars)", "click": "Share of records clicked"}
VARIANCE = {"rating": "Variance (squared stars)", "click": "Variance of clicks (0 to 0.25)"}


def page() -> None:
    """Draw the page."""
    st.title("Data")
    view = query_params.segment("What to do", VIEWS, "view", label_visibility="collapsed")
    with page_states.caught("The data sets cannot be shown."):
        if view == "import":
            if (job := dataset_import.panel()) is not None:
                st.success(
                    f"The import is queued as job {job.id}; it continues if you leave this page."
                )
            imported = engine.has_workspace() and any(
                job.command == "import_dataset" for job in engine.jobs(200)
            )
            if imported:
                st.header("Imports", divider="gray")
                job_cards.watch(5, ("import_dataset",))
        else:
            page_states.viewing()
            _datasets(engine.runs("dataset") if engine.has_workspace() else [])
    show_glossary("held-out", "variance", "run")


def _datasets(runs: list[engine.Run]) -> None:
    """Draw a table of the data sets, and one of them in full."""
    if not runs:
        page_states.empty(
            "No data sets yet",
            "A data set holds interactions of users with items: ratings from 1 to 5, or clicks. "
            "Use **Import** above for a file or for a data set that ships with PUMA.",
            icon=":material/database:",
        )
        return
    _table_one(runs)
    run = query_params.choose_run("Data set", runs, "dataset")
    with page_states.caught("This data set cannot be shown completely."):
        facts = datasets.facts(engine.root(), run.id)
        _charts(run.id, facts)
        _report(run)
        _browse(run.id, facts["task"])


def _table_one(runs: list[engine.Run]) -> None:
    rows = []
    for run in runs:
        facts = datasets.facts(engine.root(), run.id)
        rows.append([run.name, *(facts[key] for key in ("task", "users", "items", "records"))])
    if st.toggle("Compare with the data sets of the paper", key="paper", bind="query-params"):
        rows += [[f"{name} (paper)", *rest] for name, *rest in PAPER]
    frame = pd.DataFrame(rows, columns=["Data set", "Task", "Users", "Items", "Records"])
    frame["Records per user"] = frame["Records"] / frame["Users"]
    frame["Density (%)"] = 100 * frame["Records"] / (frame["Users"] * frame["Items"])
    density = "Share of all user-item pairs that have a record."
    tables.show(
        frame,
        dict.fromkeys(("Users", "Items", "Records"), NumberColumn(format="localized"))
        | {
            "Records per user": NumberColumn("Records per user (mean)", format="%.1f"),
            "Density (%)": NumberColumn(format="%.3f", help=density),
        },
        alt="Users, items and records of every data set",
    )


def _charts(dataset: str, facts: dict) -> None:
    median, rows = f"{facts['rows_per_user']['median']:,.0f}", facts["rows"]
    split = [percent(rows[name] / facts["records"]) for name in ("train", "validation", "test")]
    shown = {
        "Users": formatting.count(facts["users"]),
        "Items": formatting.count(facts["items"]),
        "Records": formatting.count(facts["records"]),
        "Records per user (median)": median,
        MEAN[facts["task"]]: f"{facts['mean_outcome']:.2f}",
        "Train / validation / test": " / ".join(split),
    }
    st.header("Statistics", divider="gray")
    tables.facts(shown)
    users = datasets.profiles(engine.root(), dataset, "user")
    left, middle, right = st.columns(3, gap="large")
    noun = "rating" if facts["task"] == "rating" else "outcome"
    outcomes = pd.DataFrame(facts["outcomes"].items(), columns=["outcome", "share"])
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
            title=f"Most frequent {noun}: {outcomes.loc[outcomes['share'].idxmax(), 'outcome']}",
            x=SCALE[facts["task"]],
            y="Share of records (%)",
            height=300,
        )
    with middle:
        title = f"Median: {median} records"
        _histogram(users["records"], f"records-{dataset}", title, "Records per user")
    with right:
        constant = float((users["variance"] == 0).mean())
        title = f"{100 * constant:.1f} % never vary their {noun}"
        if not constant:
            title = f"Every user's {noun}s vary"
        _histogram(users["variance"], f"variance-{dataset}", title, VARIANCE[facts["task"]])


def _histogram(values: pd.Series, key: str, title: str, label: str, max_bins: int = 40) -> None:
    """Draw the number of users in equal bins; for integers, edges are between integers."""
    low, high = float(values.min()), float(values.max())
    if pd.api.types.is_integer_dtype(values):
        step = int(np.ceil((high - low + 1) / max_bins))
        bins = np.arange(low - 0.5, high + step + 0.5, step)
    else:
        bins = np.linspace(low, high if high > low else low + 1, max_bins + 1)
    counts, edges = np.histogram(values.to_numpy(np.float64), bins=bins)
    frame = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "users": counts})
    figure = figures.histogram(frame, KINDS["source"].colour)
    figures.show(figure, frame, key, title=title, x=label, y="Users", height=300)


def _report(run: engine.Run) -> None:
    report = run.summary.get("report") or {}
    with st.expander("Import report: rows read, kept and dropped"):
        rows = [
            (f"{part}: {name}", number)
            for part in ("read", "dropped", "kept")
            for name, number in (report.get(part) or {}).items()
        ]
        if report.get("split"):
            st.text(f"Split: {report['split']}.")
        for warning in report.get("warnings") or ():
            text = f"Warning of the import: {escaped(warning, MAX_WARNING)}"
            st.warning(text, icon=":material/warning:")
        if rows:
            frame = pd.DataFrame(rows, columns=["Rows, users or items", "Count"])
            tables.show(frame, {"Count": NumberColumn(format="localized")})
        st.caption(f"Run {run.id}, content hash {run.summary.get('content_hash', 'unknown')}")


def _browse(dataset: str, task: str) -> None:
    st.header("Browse", divider="gray")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = query_params.segment("Browse", {"user": "Users", "item": "Items"}, "browse")
        side: datasets.What = "item" if kind == "item" else "user"
        text = st.text_input(
            "Find",
            key="find",
            bind="query-params",
            placeholder="Part of an id or a title",
            max_chars=200,
        )
    root = engine.root()
    frame, matches = datasets.find(datasets.profiles(root, dataset, side), text[:200])
    plural = "" if matches == 1 else "s"
    shown = f"{matches:,} {side}{plural}, those with the most records first."
    if matches > len(frame):
        shown = f"{matches:,} {side}s match; the {len(frame):,} with the most records are shown."
    st.caption(f"{shown} Select one to list its records.")
    title = TextColumn("Title", width="large")
    selected = tables.select_row(
        frame,
        frame[f"{side}_id"].tolist(),
        side,
        columns={
            f"{side}_id": TextColumn(side.capitalize()),
            "text": title,
            "records": NumberColumn("Records", format="localized"),
            "train": NumberColumn("Of these used for training", format="localized"),
            "mean": NumberColumn(MEAN[task], format="%.2f"),
            "variance": NumberColumn(VARIANCE[task], format="%.2f", help=term("variance")),
        },
        alt=f"{side}s of the data set with their records",
    )
    if selected is None:
        return
    rows = datasets.rows_of(root, dataset, side, selected)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"{len(rows):,} records of {side} {short(selected)}", width="content")
        if side == "user":
            pages.link("users", label="Open this user", user=selected, dataset=dataset)
    rows = rows.filter(["user_id", "item_id", "text", "outcome", "split", "time"])
    if "time" in rows:
        rows = rows.assign(time=pd.to_datetime(rows["time"], unit="s"))
    columns = {
        "user_id": "User",
        "item_id": "Item",
        "text": title,
        "outcome": NumberColumn(SCALE[task], format="%.1f"),
        "split": "Split",
        "time": DatetimeColumn("Time (UTC)"),
    }
    tables.show(rows, columns, alt=f"Records of the selected {side}")
    figures.downloads(rows, f"{side}-records")
