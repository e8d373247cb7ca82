"""Overview: the latest verdict, counts, jobs and prompt tables; first steps if empty."""

import streamlit as st

from dashboard import engine, pages
from dashboard.components import formatting, job_cards, page_states, tables, verdicts
from dashboard.components.formatting import short
from dashboard.components.glossary import show_glossary, term
from dashboard.engine import comparisons, models

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
        page_states.viewing()
        _workspace()
    show_glossary("soft prompt", "backbone", "adapter", "migration", "run", "job")


def _workspace() -> None:
    by_kind = {kind: engine.runs(kind) for kind in (*COUNTED, "evaluation")}
    if any(by_kind.values()):
        if by_kind["comparison"]:
            _verdict(by_kind["comparison"][0], by_kind["evaluation"])
        else:
            # The first missing step on the way to a verdict.
            missing = (kind for kind, (count, *_) in STEPS.items() if len(by_kind[kind]) < count)
            _, text, name, label = STEPS[next(missing, "comparison")]
            with st.container(border=True, horizontal=True, vertical_alignment="center"):
                st.markdown(f":material/flag: **Next:** {text}", width="stretch")
                pages.link(name, label=label, **({"view": "import"} if name == "data" else {}))
        tables.metrics(
            {label: (f"{len(by_kind[kind]):,}", about) for kind, (label, about) in COUNTED.items()}
        )
    elif not engine.read_only() and not any(
        job.status in job_cards.ACTIVE for job in engine.jobs()
    ):
        _first_steps()
    st.header("Jobs", divider="gray")
    job_cards.watch(4)
    pages.link("jobs", label="All jobs")
    prompts = [*by_kind["prompts"], *by_kind["migration"]]
    if prompts:
        st.header("Prompt tables", divider="gray")
        tables.show_prompts(
            models.prompt_table(prompts),
            ["name", "kind", "users", "trained on", "backbone", "data set", "seconds", "created"],
            "Every prompt table of the workspace with its kind, users, backbone and cost",
        )


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
            f"{engine.DEMO_USERS} real readers and two small models that ship with PUMA: source "
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
        engine.start_demo()
    except engine.PumaError as error:
        st.session_state["start-error"] = str(error)


def _verdict(last: engine.Run, evaluations: list[engine.Run]) -> None:
    with page_states.caught("The last comparison has no verdict."):
        verdict = comparisons.verdict(engine.root(), last.id)
        with st.container(border=True):
            st.caption(f"Verdict of the last comparison ({formatting.ago(last.created)})")
            verdicts.headline(verdict)
            if verdict.disagreement:
                st.text(f"Caution: {verdict.disagreement}")
            newer = comparisons.newer_evaluations(last, evaluations)
            if newer:
                page_states.stale(
                    f"{len(newer)} newer evaluation{'s are' if len(newer) > 1 else ' is'} not in "
                    "it; make another comparison to include them."
                )
            with st.container(horizontal=True, vertical_alignment="center"):
                text = f"{last.name} · {last.summary.get('users', 0):,} users"
                st.text(short(text), width="content")
                pages.link("compare", label="Show the evidence", comparison=last.id)
