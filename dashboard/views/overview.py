"""Summary: question, decision, cost and behaviour in one screen; below it counts, jobs, prompts."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import engine, pages
from dashboard.components import (
    formatting,
    job_cards,
    page_states,
    published,
    summary_decision,
    summary_figures,
    tables,
)
from dashboard.components.glossary import show_glossary, term
from dashboard.engine import comparisons, models, summary

TITLE = "Summary"
COUNTED = {
    "dataset": ("Data sets", "Interactions of users with items, split into train and test."),
    "backbone": ("Models", term("backbone")),
    "prompts": ("Fitted prompts", term("soft prompt")),
    "migration": ("Migrations", term("migration")),
    "comparison": ("Comparisons", "Several methods evaluated on the same held-out records."),
}

# What a verdict needs, in this order: number of runs of a kind, action, page and link label.
STEPS = {
    "dataset": (1, "import ratings or clicks.", "data", "Import data"),
    "backbone": (2, "add the old and the new model.", "models", "Add models"),
    "prompts": (1, "fit prompts on the old model, or import them.", "models", "Fit prompts"),
    "migration": (1, "migrate the prompts to the new model.", "plan", "Start a migration"),
    "comparison": (1, "compare the migration with full retraining.", "compare", "Compare methods"),
}


def page() -> None:
    """Draw the page."""
    heading = st.empty()
    heading.title(TITLE)
    if "start-error" in st.session_state:
        page_states.failed(
            "The worked example was not started.", st.session_state.pop("start-error")
        )
    if not engine.has_workspace():
        _first_steps()
        return
    with page_states.caught("The workspace cannot be read."):
        page_states.viewing()
        _workspace(heading)
    show_glossary("soft prompt", "backbone", "adapter", "migration", "margin", "share kept", "job")


def _workspace(heading: DeltaGenerator) -> None:
    by_kind = {kind: engine.runs(kind) for kind in (*COUNTED, "evaluation")}
    if by_kind["comparison"]:
        _decision(heading, by_kind["comparison"], by_kind["evaluation"])
    else:
        _next_step(by_kind)
    if any(by_kind.values()):
        st.header("In this workspace", divider="gray")
        tables.metrics(
            {
                label: (f"{len(by_kind[kind]):,}", description)
                for kind, (label, description) in COUNTED.items()
            }
        )
    st.header("Jobs", divider="gray")
    job_cards.watch(4)
    pages.link("jobs", label="All jobs")
    prompts = [*by_kind["prompts"], *by_kind["migration"]]
    if prompts:
        st.header("Prompt tables", divider="gray")
        tables.show_prompts(
            models.prompt_table(prompts),
            ["name", "kind", "users", "trained on", "backbone", "data set", "seconds", "created"],
            "Every prompt table of the workspace with its kind, users, model and cost",
        )


def _next_step(by_kind: dict[str, list[engine.Run]]) -> None:
    """Show the first missing step on the way to a verdict."""
    if any(by_kind.values()):
        missing = (kind for kind, (count, *_) in STEPS.items() if len(by_kind[kind]) < count)
        _, text, name, label = STEPS[next(missing, "comparison")]
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/flag: **Next:** {text}", width="stretch")
            pages.link(name, label=label, **({"view": "import"} if name == "data" else {}))
    elif not engine.read_only() and not any(
        job.status in job_cards.ACTIVE for job in engine.jobs()
    ):
        _first_steps()


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
        st.markdown("### Try a worked example")
        st.markdown(
            f"{engine.DEMO_USERS} real readers and three small models that ship with PUMA: source "
            "prompts, migrations, full retraining, and their comparison. It takes about "
            f"{formatting.duration(round(engine.demo_seconds(), -1))} on two free CPU cores, and its maps by "
            "UMAP two minutes more; it continues if you leave the page."
        )
        st.button(
            "Run the worked example",
            type="primary",
            icon=":material/play_arrow:",
            key="start-demo",
            on_click=_start_demo,
        )
    with data:
        st.markdown("### Start with your data")
        st.markdown(
            "*New migration* goes from a file of ratings or clicks to a verdict in four steps:\n"
            "1. Data: a row for each user, item, and rating or click.\n"
            "2. The old and the new model.\n"
            "3. Prompts of the old model: yours, or fitted first.\n"
            "4. How many users train it; then one job does the rest."
        )
        pages.link("plan", label="Start a migration", icon=":material/upload_file:")
    pages.link(
        "studies",
        label="What the published studies found",
        icon=":material/menu_book:",
        **{"from": "published"},
    )


def _start_demo() -> None:
    try:
        engine.start_demo()
    except engine.PumaError as error:
        st.session_state["start-error"] = str(error)


def _decision(
    heading: DeltaGenerator, runs: list[engine.Run], evaluations: list[engine.Run]
) -> None:
    """Draw the decision on a comparison with its question as the heading, or say why there is none."""
    with page_states.caught("The last comparison has no verdict."):
        with heading.container(horizontal=True, vertical_alignment="center"):
            question = st.empty()
            if len(runs) > 1:
                with st.container(width=230):
                    last = summary_decision.switch(runs)
            else:
                last = runs[0]
        first = comparisons.verdict(engine.root(), last.id)
        plans, ranges = summary.plans(last), summary.ranges(engine.root(), last.id)
        setup = summary.comparison_setup(last, plans, first.method)
        question.title(summary_decision.title(setup))
        published.mark(last)
        context = st.container()
        with st.container(border=True, key="decision"):
            left, right = st.columns([2, 3], gap="large")
            with left, st.container(gap="xxsmall"):
                share = summary_decision.accepted(last, ranges)
            verdict = comparisons.verdict(engine.root(), last.id, share)
            with right, st.container(gap="xsmall"):
                summary_decision.strip(verdict)
                summary_decision.show_outlook(last, verdict, share)
        with context:
            hour = summary_decision.context(last, setup, share)
        newer = comparisons.newer_evaluations(last, evaluations)
        if newer and last.published is None:
            page_states.stale(
                f"{len(newer)} newer evaluation{'s are' if len(newer) > 1 else ' is'} not in "
                "it; make another comparison to include them."
            )
        if verdict.method is None:
            return
        summary_decision.tiles(last, plans, verdict, hour)
        with st.container(key="summary-pictures"):
            left, right = st.columns(2, gap="medium")
        with left:
            summary_figures.show_costs(last, plans, verdict.method)
        with right:
            summary_figures.show_behaviour(last, plans, verdict)
        st.caption(summary_decision.fine_print(last, plans, setup, verdict))
