"""Plan: put a migration together, see what it costs, launch it, and watch it."""

from dataclasses import replace
from typing import Any, TypeVar

import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    figures,
    job_cards,
    page_states,
    plan_costs,
    plan_figures,
    query_params,
)
from dashboard.components.glossary import show_glossary, term
from dashboard.engine import plans
from dashboard.engine.plans import Plan

TOPOLOGIES = {"single": "Single", "chain": "Chain", "merge": "Aggregation"}
ABOUT = {
    "single": "From one model to another.",
    "chain": term("chain"),
    "merge": term("aggregation"),
}
Number = TypeVar("Number", int, float)


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("New migration")
    sources, targets = engine.sources(), engine.runs("backbone")
    if not sources or not targets:
        page_states.empty(
            "Nothing to migrate yet",
            "A plan needs source prompts and a target model. Add a model, and fit or import prompts.",
            icon=":material/route:",
        )
        pages.link("models", label="Models")
        return
    st.header("What to migrate", divider="gray")
    plan = _put_together(sources, targets)
    problems = plans.problems(plan)
    for text in problems:
        st.info(text, icon=":material/info:")
    if not problems:
        plan = _with_settings(plan)
        figure, boxes = plan_figures.topology(
            [engine.run(source).name for source in plan.sources],
            [engine.run(target).name for target in plan.targets],
        )
        title = f"{TOPOLOGIES[plan.topology]}: where the prompts go"
        figures.show(figure, boxes, "topology", title=title, height=110 + 60 * len(plan.sources))
        predicted = plan_costs.show(plan)
        st.caption(
            "The migration is then evaluated, and compared if its model has a full retraining. The "
            "job continues when you close the page."
        )
        if page_states.action(
            "Launch the migration", type="primary", icon=":material/rocket_launch:"
        ):
            with page_states.caught("The migration was not launched."):
                query_params.write("job", plans.launch(plan, predicted).id)
                st.rerun()
    _launched()
    show_glossary(
        "migration", "chain", "aggregation", "adapter", "strategy", "budget", "break-even"
    )


def _put_together(sources: list[engine.Run], targets: list[engine.Run]) -> Plan:
    topology = query_params.segment("Route", TOPOLOGIES, "topology")
    st.caption(ABOUT[topology])
    names = {run.id: f"{run.name} ({run.id[:6]})" for run in [*sources, *targets]}
    ids, models = [run.id for run in sources], [run.id for run in targets]
    left, right = st.columns(2)
    with left:
        if topology == "merge":
            label = "Source prompts, two or more"
            chosen = query_params.choose_many(label, ids, "sources", labels=names)
        else:
            # The newest table that was fitted or imported as a source.
            first = next((run.id for run in sources if run.config.get("role") == "source"), None)
            chosen = [
                query_params.choose("Source prompts", ids, "source", labels=names, default=first)
            ]
    with right:
        if topology == "chain":
            label = "Target models, in order"
            chosen_targets = query_params.choose_many(label, models, "targets", labels=names)
        else:
            # A migration leads to another model than the prompts are on.
            source_models = {run.inputs.get("backbone") for run in sources if run.id in chosen}
            other = next((model for model in models if model not in source_models), None)
            chosen_targets = [
                query_params.choose("Target model", models, "target", labels=names, default=other)
            ]
    users = min((engine.run(source).summary["users"] for source in chosen), default=1)
    task = next((plans.task_of(source) for source in chosen), "rating")
    without_records = st.checkbox(
        "Use no records: learn from the source model's predictions",
        key="from_predictions",
        bind="query-params",
        help="For a migration when users' outcomes are not there or must not be used. The source model "
        f"predicts {plans.PAIRS_PER_USER} random items a user, and the adapter learns from these.",
    )
    strategies, default = list(engine.STRATEGIES), engine.DEFAULT_STRATEGIES[task]
    if without_records:
        strategies = list(plans.WITHOUT_RECORDS)
        default = default if default in strategies else engine.DEFAULT_STRATEGIES["rating"]
    strategy, budget = _selection(users, strategies, default)
    pairs = plans.PAIRS_PER_USER if without_records else 0
    return Plan(
        topology, tuple(chosen), tuple(chosen_targets), strategy, budget, from_predictions=pairs
    )


def _selection(users: int, strategies: list[str], default: str) -> tuple[str, int | None]:
    """Choose strategy and budget (None for all) of the users who train the adapter."""
    left, right = st.columns(2)
    labels = {name: f"{name}: {engine.STRATEGIES[name].about}" for name in strategies}
    with left:
        strategy = query_params.choose(
            "Strategy",
            list(labels),
            "strategy",
            labels=labels,
            default=default,
            follows=True,
            help=term("strategy"),
        )
    with right:
        if strategy == "all":
            st.number_input("Users who train it", value=users, disabled=True, key="everybody")
            return strategy, None
        budget = st.number_input(
            "Users who train it",
            min_value=1,
            max_value=users,
            value=max(1, users // 10),
            key="budget",
            bind="query-params",
            help=term("budget"),
        )
    return strategy, int(budget)


def _with_settings(plan: Plan) -> Plan:
    """Let people change the settings of the training; what they leave empty has its default."""
    settings = plans.settings(plan)
    training, adapter = settings.training, settings.adapter
    with st.expander("Settings of the training", icon=":material/tune:"):
        epochs, batch, rate, hidden = st.columns(4)
        with epochs:
            changed = _setting("Epochs", 1, 200, training.epochs, "epochs")
        with batch:
            changed |= _setting("Batch size", 1, 65_536, training.batch_size, "batch_size")
        with rate:
            changed |= _setting("Learning rate", 1e-6, 1.0, training.learning_rate, "learning_rate")
        with hidden:
            width = _setting("Adapter width", 1, 65_536, adapter.hidden, "hidden")
        st.caption(
            f"Empty numbers have their default, which depends on the task and on how many users train "
            f"({settings.trained:,} of {settings.users:,}). Retraining is predicted with "
            f"{settings.retraining.epochs} epochs at batch size {settings.retraining.batch_size}."
        )
    return replace(plan, training=changed, adapter=width)


def _setting(
    label: str, smallest: Number, largest: Number, default: Number, name: str
) -> dict[str, Any]:
    """Return a setting by its name if somebody changed it, else nothing."""
    value = st.number_input(
        label,
        smallest,
        largest,
        None,
        format=None if isinstance(default, int) else "%.5f",
        key=name,
        bind="query-params",
        placeholder=f"{default:,} (default)",
        help="Empty: the default. Few users train in small batches and small steps, for more epochs.",
    )
    return {} if value is None else {name: value}


def _launched() -> None:
    """Show the plan that was launched last, or the one in the address, live."""
    launched = plans.launched()
    if not launched:
        return
    st.header("Launched plans", divider="gray")
    labels = {job.id: f"{job.title} ({job.created[:16].replace('T', ' ')})" for job in launched}
    chosen = query_params.choose("Plan", list(labels), "job", labels=labels)
    job = next(job for job in launched if job.id == chosen)

    def draw() -> None:
        now = engine.job(job.id)
        if now.status != job.status:
            st.rerun()
        job_cards.card(now)
        plan_figures.loss_chart(now)
        plan_costs.predicted_and_actual(now)
        if now.status == "finished" and now.run_id:
            run = engine.run(now.run_id)
            if run.kind == "comparison":
                pages.link("compare", label="See the comparison", comparison=run.id)
            for migration in plans.migrations_of(now)[-1:]:
                pages.link("users", label="See the users", migration=migration.id)

    busy = job.status in (*job_cards.ACTIVE, "interrupted")
    page_states.live(draw, job_cards.BUSY_SECONDS if busy else None)()
