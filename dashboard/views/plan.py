"""Plan: put a migration together, see what it costs, launch it, and watch it."""

from __future__ import annotations

from typing import TypeVar

import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    figures,
    job_cards,
    page_states,
    plan_costs,
    plan_figures,
    query_params,
    training_loss,
)
from dashboard.components.glossary import glossary, term
from dashboard.engine import plans
from dashboard.engine.plans import PRESETS, Plan, TrainingConfig

TOPOLOGIES = {"single": "Single", "chain": "Chain", "merge": "Aggregation"}
ABOUT = {
    "single": "From one model to another.",
    "chain": term("chain"),
    "merge": term("aggregation"),
}
REFRESH = 2.0
Number = TypeVar("Number", int, float)


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Plan a migration")
    sources, targets = engine.sources(), engine.backbones()
    if not sources or not targets:
        page_states.empty(
            "Nothing to migrate yet",
            "A plan needs source prompts and a target model. Add a model, and fit or import prompts.",
            icon=":material/route:",
        )
        pages.link("models", label="Models")
        return
    plan = _put_together(sources, targets)
    wrong = plans.problems(plan)
    for text in wrong:
        st.info(text, icon=":material/info:")
    if not wrong:
        _picture(plan)
        _launch(plan, plan_costs.show(plan))
    _watched()
    glossary("migration", "chain", "aggregation", "adapter", "strategy", "budget", "break-even")


def _put_together(sources: list[engine.Run], targets: list[engine.Run]) -> Plan:
    topology = query_params.segment("Topology", TOPOLOGIES, "topology")
    st.caption(ABOUT[topology])
    names = {run.id: f"{run.name} ({run.id[:6]})" for run in [*sources, *targets]}
    ids, models = [run.id for run in sources], [run.id for run in targets]
    left, right = st.columns(2)
    with left:
        if topology == "merge":
            label = "Source prompts, two or more"
            chosen = query_params.choose_many(label, ids, "sources", labels=names)
        else:
            chosen = [
                query_params.choose(
                    "Source prompts", ids, "source", labels=names, default=_first_source(sources)
                )
            ]
    with right:
        if topology == "chain":
            label = "Target models, in order"
            ways = query_params.choose_many(label, models, "targets", labels=names)
        else:
            # A migration leads to another model than the prompts are on.
            left_behind = {run.inputs["backbone"] for run in sources if run.id in chosen}
            other = next((one for one in models if one not in left_behind), None)
            ways = [
                query_params.choose("Target model", models, "target", labels=names, default=other)
            ]
    users = min((plans.users_of(source) for source in chosen), default=1)
    task = next((plans.task_of(source) for source in chosen), "rating")
    strategy, budget = _who(users, engine.DEFAULT_STRATEGIES[task])
    training, adapter, retraining = _settings(budget or users, users, task)
    return Plan(
        topology,
        tuple(chosen),
        tuple(ways),
        strategy,
        budget,
        training,
        adapter,
        retraining,
    )


def _first_source(sources: list[engine.Run]) -> str | None:
    """The newest table that was fitted or imported as a source."""
    return next((run.id for run in sources if run.config.get("role") == "source"), None)


def _who(users: int, usual: str) -> tuple[str, int | None]:
    """Who of so many users trains the adapter: strategy and budget (None for all)."""
    left, right = st.columns(2)
    labels = {name: f"{name}: {one.about}" for name, one in engine.STRATEGIES.items()}
    with left:
        strategy = query_params.choose(
            "Strategy",
            list(labels),
            "strategy",
            labels=labels,
            default=usual,
            follows=True,
            help=term("strategy"),
        )
    with right:
        if strategy == "all":
            st.number_input("Budget (users)", value=users, disabled=True, key="everybody")
            return strategy, None
        budget = st.number_input(
            "Budget (users)",
            min_value=1,
            max_value=users,
            value=max(1, users // 10),
            key="budget",
            bind="query-params",
            help=term("budget"),
        )
    return strategy, int(budget)


def _settings(trained: int, users: int, task: str) -> tuple[dict, dict, TrainingConfig]:
    labels = {name: one.label for name, one in PRESETS.items()}
    with st.expander("Settings of the training", icon=":material/tune:"):
        name = query_params.choose(
            "Start from", list(labels), "preset", labels=labels, default="small"
        )
        preset = PRESETS[name]
        retraining = preset.retraining(users, task)
        epochs, batch, rate, hidden = st.columns(4)
        training, adapter = preset.training(trained, task).to_dict(), preset.adapter(task).to_dict()
        with epochs:
            training["epochs"] = _usually("Epochs", 1, 200, training["epochs"], f"epochs-{name}")
        with batch:
            training["batch_size"] = _usually(
                "Batch size", 1, 65_536, training["batch_size"], f"batch-{name}"
            )
        with rate:
            training["learning_rate"] = _usually(
                "Learning rate", 1e-6, 1.0, training["learning_rate"], f"rate-{name}"
            )
        with hidden:
            adapter["hidden"] = _number(
                "Adapter width", 65_536, adapter["hidden"], f"hidden-{name}"
            )
        usual = plans.usual_preset(trained, users)
        if name in ("small", "large") and name != usual:
            st.caption(
                f"For {trained:,} of {users:,} users “{PRESETS[usual].label}” is the usual start."
            )
        st.caption(
            f"Retraining is counted with {retraining.epochs} epochs at batch size "
            f"{retraining.batch_size}."
        )
    return training, adapter, retraining


def _usually(label: str, least: Number, most: Number, usual: Number, key: str) -> Number:
    """A setting that is the preset's where it is left empty; the preset's may follow the budget."""
    given = st.number_input(
        label,
        least,
        most,
        None,
        format=None if isinstance(usual, int) else "%.5f",
        key=key,
        bind="query-params",
        placeholder=f"{usual:,} (the preset's)",
        help="Empty: the preset's. Few users train in small batches and short steps, for more epochs.",
    )
    return usual if given is None else given


def _number(label: str, most: int, start: int, key: str) -> int:
    """A whole number from 1 on, kept in the address under its key when it was edited."""
    return int(st.number_input(label, 1, most, start, key=key, bind="query-params"))


def _picture(plan: Plan) -> None:
    figure, boxes = plan_figures.topology(
        [engine.run(one).name for one in plan.sources],
        [engine.run(one).name for one in plan.targets],
    )
    title = f"{TOPOLOGIES[plan.topology]}: where the prompts go"
    figures.show(figure, boxes, "topology", title=title, height=110 + 60 * len(plan.sources))


def _launch(plan: Plan, predicted: dict | None) -> None:
    st.caption(
        "The migration is evaluated when it is done, and compared if its model has a full retraining. "
        "It goes on when you close the page."
    )
    if st.button("Launch the migration", type="primary", icon=":material/rocket_launch:"):
        try:
            job = plans.launch(plan, predicted)
        except engine.PumaError as error:
            page_states.failed("The migration was not launched.", error)
            return
        query_params.write("job", job.id)
        st.rerun()


def _watched() -> None:
    """The plan that was launched last, or the one in the address, live."""
    found = plans.launched()
    if not found:
        return
    st.header("Launched plans", divider="gray")
    labels = {job.id: f"{job.title} ({job.created[:16].replace('T', ' ')})" for job in found}
    chosen = query_params.choose("Plan", list(labels), "job", labels=labels)
    job = next(job for job in found if job.id == chosen)
    busy = job.status in (*job_cards.ACTIVE, "interrupted")
    page_states.live(_live, REFRESH if busy else None)(chosen, job.status)


def _live(job_id: str, drawn_as: str) -> None:
    job = engine.job(job_id)
    if job.status != drawn_as:
        st.rerun()
    job_cards.card(job)
    training_loss.loss_chart(job)
    plan_costs.against_reality(job)
    if job.status == "finished" and job.run_id:
        run = engine.run(job.run_id)
        if run.kind == "comparison":
            pages.link("compare", label="See the comparison", comparison=run.id)
        for made in plans.really(job)[-1:]:
            pages.link("users", label="See the users", migration=made.id)
