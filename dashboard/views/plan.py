"""New migration: from a file, or prompts that exist, to a verdict, in one flow on one page."""

from dataclasses import replace
from typing import Any, TypeVar

import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    cluster_nodes,
    dataset_import,
    figures,
    flow_steps,
    import_jobs,
    job_cards,
    page_states,
    plan_costs,
    plan_figures,
    plan_start,
    prompt_import,
    query_params,
)
from dashboard.components.formatting import capitalised
from dashboard.components.glossary import show_glossary
from dashboard.components.plan_start import Start
from dashboard.engine import plans
from dashboard.engine.plans import Plan

STEPS = {
    "data": "Data",
    "models": "Models and route",
    "prompts": "Prompts of the old model",
    "users": "Users who train it, and cost",
}
ABOUT = {
    "models": "from which language model to which, directly or through others",
    "prompts": "prompts that exist, or fit them first",
    "users": "one number moves cost and expected quality; then launch",
}
ORDER = [*STEPS, "launched"]
ORIGINS = {"here": "In this workspace", "file": "A file", "shipped": "One that ships with PUMA"}
Number = TypeVar("Number", int, float)


def page() -> None:
    """Draw the page."""
    st.title("New migration")
    cluster_nodes.show()
    with page_states.caught("This page cannot be shown."):
        if page_states.viewing():
            _watch_launched()
            return
        _flow()
    show_glossary(
        "migration", "chain", "aggregation", "adapter", "strategy", "budget", "break-even"
    )


def _flow() -> None:
    has_workspace = engine.has_workspace()
    start = plan_start.of_address() if has_workspace else Start()
    first = "data" if start.dataset is None else start.first_open
    launched = has_workspace and st.query_params.get("job") is not None
    opened = flow_steps.open_step(dict.fromkeys(ORDER, ""), "launched" if launched else first)
    if start.dataset is None:
        opened = "data"
    elif opened in ("prompts", "users", "launched") and start.targets == ():
        opened = "models"
    draw = {"data": _data, "models": _models, "prompts": _prompts, "users": _users}
    before, current, after = (st.container(gap=gap) for gap in ("xxsmall", "small", "xxsmall"))
    for number, (step, title) in enumerate(STEPS.items(), start=1):
        if ORDER.index(step) < ORDER.index(opened):
            with before:
                flow_steps.answered(number, title, plan_start.answer(step, start), step)
        elif step == opened:
            with current:
                flow_steps.heading(number, title)
                draw[step](start)
        elif not launched:
            with after:
                flow_steps.upcoming(number, title, ABOUT[step])
    if launched:
        _watch_launched()


def _data(_start: Start) -> None:
    """Choose a data set, or import one and go on when the import is finished."""
    runs = engine.runs("dataset") if engine.has_workspace() else []
    importing = import_jobs.job_of(import_jobs.DATA)
    if importing is not None:
        if importing.status == "finished" and importing.run_id is not None:
            query_params.forget("dataset", "from")
            query_params.write("dataset", importing.run_id)
            query_params.write(import_jobs.DATA, None)
            flow_steps.go_to("models")
            st.rerun()
        import_jobs.watch(importing, import_jobs.DATA, "Choose other data")
        return
    origins = {name: ORIGINS[name] for name in (("here",) if runs else ())}
    origins |= {name: ORIGINS[name] for name in ("file", "shipped")}
    origin = query_params.segment("Data set", origins, "from", label_visibility="collapsed")
    if origin == "here":
        run = query_params.choose_run("Data set", runs, "dataset")
        st.text(plan_start.about_data(run))
        flow_steps.proceed("models")
        return
    job = dataset_import.file() if origin == "file" else dataset_import.shipped()
    if job is not None:
        query_params.write(import_jobs.DATA, job.id)
        st.rerun()


def _models(start: Start) -> None:
    """Choose the route, the old and the new models."""
    topology = query_params.segment("Route", plan_start.TOPOLOGIES, "topology")
    st.caption(plan_start.ABOUT[topology])
    names = plan_start.model_labels()
    old_names = names | {plan_start.VECTORS: plan_start.VECTORS_LABEL}
    left, right = st.columns(2)
    with left:
        if topology == "merge":
            label = "Old models, two or more"
            old = query_params.choose_many(label, list(old_names), "olds", labels=old_names)
        else:
            default = plan_start.default_old(start)
            label = "Old model"
            old = [
                query_params.choose(
                    label, list(old_names), "old", labels=old_names, default=default
                )
            ]
    with right:
        if topology == "chain":
            label = "New models, in order"
            new = query_params.choose_many(label, list(names), "targets", labels=names)
        else:
            other = next((model for model in plan_start.preferred(names) if model not in old), None)
            label = "New model"
            new = [query_params.choose(label, list(names), "target", labels=names, default=other)]
    pages.link(
        "models",
        label="Add another model: a folder, a GGUF file or one of the hub",
        icon=":material/add:",
    )
    if old and new:
        figure, boxes = plan_figures.topology(
            [old_names[model] for model in old], [names[model] for model in new]
        )
        title = "Route of the prompts"
        height = 70 + 50 * len(old)
        figures.show(figure, boxes, "topology", title=title, height=height)
    problem = plan_start.problem_of_models(topology, old, new)
    if problem:
        st.info(problem, icon=":material/info:")
    flow_steps.proceed("prompts", disabled=problem is not None)


def _prompts(start: Start) -> None:
    """Choose the prompts of each old model: a table that exists, a file, or fitting them first."""
    importing = import_jobs.job_of(import_jobs.PROMPTS)
    if importing is not None:
        if importing.status == "finished" and importing.run_id is not None:
            plan_start.take_imported(engine.run(importing.run_id), start)
            query_params.write(import_jobs.PROMPTS, None)
            st.rerun()
        import_jobs.watch(importing, import_jobs.PROMPTS, "Choose other prompts")
        return
    several = start.topology == "merge"
    chosen = []
    for number, model in enumerate(start.old):
        options = plan_start.prompt_options(start, model)
        if not options:
            st.info("There are no vectors of these users yet; upload a file.")
            continue
        preset = start.prompts[number] if number < len(start.prompts) else None
        label = f"Prompts on {plan_start.name_of(model)}"
        if several:
            key = f"prompts-{number}"
            value = st.selectbox(
                label,
                list(options),
                list(options).index(preset) if preset in options else 0,
                format_func=query_params.distinct(options).__getitem__,
                key=key,
            )
        else:
            value = query_params.choose(label, list(options), "source", labels=options)
        chosen.append(str(value))
    if several:
        query_params.write("sources", chosen)
    complete = len(chosen) == len(start.old)
    with st.expander("Upload a file", icon=":material/upload_file:", expanded=not complete):
        model = start.old[0]
        if several:
            names = query_params.distinct({old: plan_start.name_of(old) for old in start.old})
            model = st.selectbox(
                "They are on", list(names), format_func=names.__getitem__, key="prompts-of"
            )
        prompt_import.file(str(start.dataset), None if model == plan_start.VECTORS else model)
    flow_steps.proceed("users", disabled=not complete)


def _users(start: Start) -> None:
    """Choose who trains the adapter, see cost and expected quality, and launch."""
    # page.css keeps the place of the costs, which arrive after what they depend on.
    slider, costs = st.container(), st.container(key="plan-costs")
    plan = plan_costs.choose_users(start, slider)
    problems = plans.problems(plan)
    for text in problems:
        costs.info(text, icon=":material/info:")
    if problems:
        return
    plan, device, price = _settings(plan)
    with costs:
        predicted = plan_costs.show(plan, start, device, price)
    plan = replace(plan, retrain=plan_costs.reference(plan, device))
    plan_costs.show_stages(plan, device)
    if page_states.action("Launch the migration", type="primary", icon=":material/rocket_launch:"):
        with page_states.caught("The migration was not launched."):
            query_params.write("job", plans.launch(plan, predicted).id)
            flow_steps.go_to("launched")
            st.rerun()
    st.caption("It runs as one job, which continues when you close the page.")


def _settings(plan: Plan) -> tuple[Plan, str, float | None]:
    """Let people change device, price and training; what they leave empty has its default.

    The price is None where none is set.
    """
    settings = plans.settings(plan)
    training, adapter = settings.training, settings.adapter
    with st.expander(plan_costs.SETTINGS, icon=":material/tune:"):
        left, right = st.columns(2)
        with left:
            device = query_params.choose(
                "Device",
                plans.devices(),
                "device",
                help="Devices whose speed this workspace has measured, and those of this machine.",
            )
        price = right.number_input(
            "Price of a device hour",
            min_value=0.0,
            max_value=plan_costs.MOST_PRICE,
            value=None,
            step=0.1,
            key="price",
            bind="query-params",
            placeholder="none: no money is shown",
            help="In your currency; what your provider or your own accounting charges.",
        )
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
            f"An empty field has its default, which depends on the task and on how many users train "
            f"({settings.trained:,} of {settings.users:,}). Retraining is predicted with "
            f"{settings.retraining.epochs} epochs at batch size {settings.retraining.batch_size}."
        )
    return replace(plan, training=changed, adapter=width), device, float(price) if price else None


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


def _watch_launched() -> None:
    """Show the migration of the address with its stages, live, and where its verdict is."""
    launched = plans.launched() if engine.has_workspace() else []
    if not launched:
        page_states.empty(
            "No migration was launched yet",
            "Users who may change this workspace launch one here; then this page shows its stages.",
            icon=":material/route:",
        )
        pages.link("overview", label="Open the Summary")
        return
    labels = {
        job.id: f"{capitalised(job.title)} ({job.created[:16].replace('T', ' ')})"
        for job in launched
    }
    st.header("Progress", divider="gray")
    chosen = query_params.choose("Migration", list(labels), "job", labels=labels)
    job = next(job for job in launched if job.id == chosen)

    def draw() -> None:
        current = engine.job(job.id)
        if current.status != job.status:
            st.rerun()
        job_cards.card(current)
        if current.status == "finished" and current.run_id:
            _result(current)
        elif current.status == "running":
            plan_figures.loss_chart(current)

    busy = job.status in (*job_cards.ACTIVE, "interrupted")
    page_states.live(draw, job_cards.BUSY_SECONDS if busy else None)()
    if page_states.action("Start another migration", icon=":material/add:"):
        pages.go("plan")


def _result(job: engine.Job) -> None:
    """Lead from a finished migration to its verdict."""
    run = engine.run(str(job.run_id))
    with st.container(horizontal=True):
        if run.kind == "comparison" and st.button(
            "See the verdict", type="primary", icon=":material/gavel:", key=f"verdict-{job.id}"
        ):
            pages.go("overview", comparison=run.id)
        if run.kind == "comparison":
            pages.link("compare", label="See the comparison", comparison=run.id)
        for migration in plans.migrations_of(job)[-1:]:
            pages.link("users", label="See the users", migration=migration.id)
    if run.kind != "comparison":
        st.info(
            "It was evaluated, and there is no full retraining to judge it by. Launch it again with "
            "full retraining to get a verdict; finished stages are kept.",
            icon=":material/info:",
        )
    plan_costs.predicted_and_actual(job)
    plan_figures.loss_chart(job)
