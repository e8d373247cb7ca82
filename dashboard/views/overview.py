"""Overview: the latest verdict, counts, jobs and prompt tables; first steps if empty."""

import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, job_cards, page_states, verdicts
from dashboard.components.formatting import short
from dashboard.components.glossary import show_glossary, term
from dashboard.components.theme import KINDS, rank
from dashboard.engine import comparisons, overview

COUNTED = {
    "dataset": ("Data sets", "Interactions of users with items, split into train and test."),
    "backbone": ("Backbones", term("backbone")),
    "prompts": ("Fitted prompts", term("soft prompt")),
    "migration": ("Migrations", term("migration")),
    "comparison": ("Comparisons", "Several methods evaluated on the same held-out records."),
}

# What a verdict needs, in this order: number of runs of a kind, action, page and link label.
STEPS = {
    "dataset": (1, "import ratings or clicks.", "data", "Import data"),
    "backbone": (2, "add the old and the new model.", "models", "Add models"),
    "prompts": (1, "fit prompts on the old model, or import them.", "models", "Fit prompts"),
    "migration": (1, "migrate the prompts to the new model.", "plan", "Plan a migration"),
    "comparison": (1, "compare the migration with full retraining.", "compare", "Compare methods"),
}


def page() -> None:
    """Draw the page."""
    st.title("Overview")
    if "start-error" in st.session_state:
        page_states.failed(
            "The worked example was not started.", st.session_state.pop("start-error")
        )
    if not engine.has_workspace():
        _first_steps()
        return
    with page_states.caught("The workspace cannot be read."):
        _workspace()
    show_glossary("soft prompt", "backbone", "adapter", "migration", "run", "job")


def _workspace() -> None:
    by_kind = {kind: engine.runs(kind) for kind in (*COUNTED, "evaluation")}
    if any(by_kind.values()):
        if by_kind["comparison"]:
            _verdict(by_kind["comparison"], by_kind["evaluation"])
        else:
            _next_step(by_kind)
        _counts(by_kind)
    elif not any(job.status in job_cards.ACTIVE for job in engine.jobs()):
        _first_steps()
    st.header("Jobs", divider="gray")
    job_cards.watch(4)
    pages.link("jobs", label="All jobs")
    if by_kind["prompts"] or by_kind["migration"]:
        _prompts(by_kind)


def _first_steps() -> None:
    """Show how to start in an empty workspace, with a button for the worked example."""
    page_states.empty(
        "Nothing here yet",
        "PUMA migrates users' soft prompts from an old language model to a new one, and measures "
        "whether the result is as good as training them again.",
        icon=":material/rocket_launch:",
    )
    demo, data = st.columns(2, border=True)
    with demo:
        st.markdown("##### Try a worked example")
        st.markdown(
            f"{overview.DEMO_USERS} real readers and two small models that ship with PUMA: source "
            "prompts, a migration, full retraining, and their comparison. It takes a few minutes on "
            "two CPU cores and continues if you leave the page."
        )
        st.button(
            "Run the worked example",
            type="primary",
            icon=":material/play_arrow:",
            key="start-demo",
            on_click=_start_demo,
        )
    with data:
        st.markdown("##### Start with your data")
        st.markdown(
            "1. Import interactions: user, item, and rating or click.\n"
            "2. Add the old and the new model.\n"
            "3. Fit or import prompts for the old model, then plan the migration."
        )
        pages.link("data", label="Import data", icon=":material/upload_file:", view="import")


def _start_demo() -> None:
    try:
        overview.start_demo()
    except engine.PumaError as error:
        st.session_state["start-error"] = str(error)


def _next_step(by_kind: dict[str, list[engine.Run]]) -> None:
    """Show the first missing step on the way to a verdict."""
    missing = (kind for kind, (count, *_) in STEPS.items() if len(by_kind[kind]) < count)
    _, text, name, label = STEPS[next(missing, "comparison")]
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/flag: **Next:** {text}", width="stretch")
        pages.link(name, label=label, **({"view": "import"} if name == "data" else {}))


def _verdict(compared: list[engine.Run], evaluations: list[engine.Run]) -> None:
    last = compared[0]
    try:
        verdict = comparisons.verdict(engine.root(), last.id)
    except engine.PumaError as error:
        page_states.failed("The last comparison has no verdict.", error)
        return
    with st.container(border=True):
        st.caption(f"Verdict of the last comparison ({formatting.ago(last.created)})")
        verdicts.headline(verdict)
        newer = overview.newer_evaluations(last, evaluations)
        if newer:
            page_states.stale(
                f"{len(newer)} newer evaluation{'s are' if len(newer) > 1 else ' is'} not in it; "
                "make another comparison to include them."
            )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(short(f"{last.name} · {last.summary.get('users', 0):,} users"), width="content")
            pages.link("compare", label="Show the evidence", comparison=last.id)


def _counts(by_kind: dict[str, list[engine.Run]]) -> None:
    for column, (kind, (label, about)) in zip(
        st.columns(len(COUNTED)), COUNTED.items(), strict=True
    ):
        column.metric(label, f"{len(by_kind[kind]):,}", help=about, border=True)


def _prompts(by_kind: dict[str, list[engine.Run]]) -> None:
    st.header("Prompt tables", divider="gray")
    names = {run.id: run.name for kind in ("dataset", "backbone") for run in by_kind[kind]}
    rows = overview.prompt_rows([*by_kind["prompts"], *by_kind["migration"]], names)
    rows.sort(key=lambda row: rank(row["kind"]))
    frame = pd.DataFrame(rows)
    frame["kind"] = [KINDS[kind].label if kind in KINDS else kind for kind in frame["kind"]]
    frame["created"] = pd.to_datetime(frame["created"])
    st.dataframe(
        frame,
        hide_index=True,
        placeholder="–",
        column_config={
            "name": st.column_config.TextColumn("Name", width=335),
            "kind": "Kind",
            "users": st.column_config.NumberColumn("Users", format="localized"),
            "trained on": st.column_config.NumberColumn(
                "Users trained", format="localized", help=term("budget")
            ),
            "backbone": st.column_config.TextColumn("Backbone", help=term("backbone")),
            "data set": "Data set",
            "seconds": st.column_config.NumberColumn("Time (s)", format="%.1f"),
            "created": st.column_config.DatetimeColumn("Made (UTC)", format="YYYY-MM-DD HH:mm"),
        },
        alt="Every prompt table of the workspace with its kind, users, backbone and cost",
    )
