"""What a plan costs: the prediction, and beside it what the migration took."""

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn
from streamlit.delta_generator import DeltaGenerator

from dashboard import engine
from dashboard.components import (
    formatting,
    job_cards,
    page_states,
    plan_quality,
    query_params,
    tables,
)
from dashboard.components.formatting import escaped, percent
from dashboard.components.glossary import term
from dashboard.components.plan_start import FIT, VECTORS, Start
from dashboard.engine import plans
from dashboard.engine.plans import Costs, Plan

MOST_PRICE = 1e6
SETTINGS = "Device, price and settings of the training"
MILLION = 1_000_000


def choose_users(start: Start, place: DeltaGenerator) -> Plan:
    """Choose how many users train the adapter, and by which strategy; return the plan so far.

    place: where the slider is drawn.
    """
    data = engine.run(str(start.dataset))
    counts = [int(engine.run(run).summary["users"]) for run in start.prompts if FIT not in run]
    users = min([*counts, int(data.summary["users"])])
    with st.expander("How the users are chosen", icon=":material/group:"):
        without_records = st.checkbox(
            "Use no records: learn from the source model's predictions",
            key="from_predictions",
            bind="query-params",
            help="For a migration when users' outcomes are not there or must not be used. The source "
            f"model predicts {plans.PAIRS_PER_USER} random items for each user, and the adapter learns from these.",
        )
        strategies = list(engine.STRATEGIES)
        default = engine.DEFAULT_STRATEGIES[data.summary["task"]]
        if without_records:
            strategies = list(plans.WITHOUT_RECORDS)
            default = default if default in strategies else engine.DEFAULT_STRATEGIES["rating"]
        if start.old[0] == VECTORS:
            # Users are chosen from the first source, which no model reads.
            strategies = [name for name in strategies if not plans.asks_model(name)]
        strategy = query_params.choose(
            "Strategy",
            strategies,
            "strategy",
            labels={name: f"{name}: {engine.STRATEGIES[name].description}" for name in strategies},
            default=default,
            follows=True,
            help=term("strategy"),
        )
    label = "Users who train it"
    if strategy == "all" or users == 1:
        place.slider(label, 0, users, users, disabled=True, key="everybody")
        budget: int | None = None
    else:
        budget = place.slider(
            label,
            min_value=1,
            max_value=users,
            value=max(1, users // 10),
            key="budget",
            bind="query-params",
            help=term("budget"),
        )
    pairs = plans.PAIRS_PER_USER if without_records else 0
    return start.plan(strategy, budget, pairs)


def show(plan: Plan, start: Start, device: str, price: float | None) -> dict[str, Any] | None:
    """Show what a plan costs and may keep; return what is stored with its job, None if unknown.

    price: of an hour on the device; None where none is set.
    """
    costs = plans.costs(plan, device)
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, height="stretch"):
        st.markdown("### What it will cost")
        # The options are columns, whose texts are wrapped in narrow windows.
        by_option = table(costs, price).set_index("Option").T.reset_index(names="Option")
        st.table(
            by_option, border="horizontal", hide_index=True, alt="Predicted cost of both options"
        )
        if price is None:
            st.caption(
                f"Money is not shown, since no price is set. Set one below, in *{SETTINGS}*."
            )
        st.text(sentence(costs))
        if costs.trained < costs.users:
            st.caption(
                f"At a million users the same {costs.trained:,} train. Mapping everybody's prompt takes "
                "little time and is not included."
            )
        for text in guesses(costs):
            st.markdown(f":orange[:material/warning:] {text}")
        warning = disturbed(costs)
        if warning:
            st.warning(warning, icon=":material/speed:")
        _evidence(costs)
        _calibration(plan, costs, device)
    with right, st.container(border=True, height="stretch"):
        plan_quality.show(plan, start, costs.trained)
    if costs.migration is None:
        return None
    return {
        "device": device,
        "seconds": costs.migration.seconds,
        "low": costs.migration.low,
        "high": costs.migration.high,
        "retraining_seconds": costs.retraining.seconds if costs.retraining else None,
    }


def reference(plan: Plan, device: str) -> bool:
    """Ask whether full retraining is fitted too; say what it is for, or that it exists."""
    with_it = plans.stages(replace(plan, retrain=True), device)
    missing = next((item for item in with_it if item.kind == "retrain"), None)
    if missing is None:
        st.caption("This full retraining exists already: the migration is judged by it.")
        return True
    took = "unknown time, it was never measured here"
    if missing.prediction is not None:
        took = f"about {formatting.duration(missing.prediction.seconds)}"
    without = plans.stages(replace(plan, retrain=False), device)
    if any(item.kind == "compare" for item in without):
        st.caption(
            "A full retraining with other settings exists. Without another one, the migration is judged by it."
        )
    return st.checkbox(
        f"Retrain all users too, to judge the migration ({took})",
        value=True,
        key="retrain",
        bind="query-params",
        help="Without full retraining to compare with there is no verdict. Where it is too expensive, "
        "retrain on a smaller data set of the same kind, and judge the migration there.",
    )


def show_stages(plan: Plan, device: str) -> None:
    """Show what the job will do, stage by stage, with its predicted time."""
    stages = plans.stages(plan, device)
    lines = [
        f"{number}. {escaped(item.title, 120)}"
        + (
            ""
            if item.prediction is None
            else f" :gray[– about {formatting.duration(item.prediction.seconds)}]"
        )
        for number, item in enumerate(stages, start=1)
    ]
    st.markdown("\n".join(["**One job does all of it:**", *lines]))


def table(costs: Costs, price: float | None) -> pd.DataFrame:
    """Retraining and migration: predicted time, its range, money, and the time at a million users.

    Without a price there is no money.
    """
    predictions = {
        f"Retrain all {costs.users:,} users": costs.retraining,
        f"This migration ({costs.trained:,} users train)": costs.migration,
    }
    rows = []
    at_million = plans.at_users(costs, MILLION)
    for (name, item), many in zip(predictions.items(), at_million, strict=True):
        texts = ["unknown"] * (3 if price is None else 4)
        if item is not None:
            spread = formatting.duration_range(item.low, item.high)
            texts = [
                formatting.duration(item.seconds),
                spread if len(item.evidence) > 1 else "from one run",
                *([] if price is None else [amount(plans.money(item.seconds, price))]),
                formatting.duration(many),
            ]
        rows.append([name, *texts])
    money = [] if price is None else [f"Money (at {price:,g} an hour)"]
    names = ["Option", "Time", "Range", *money, "Time at a million users"]
    return pd.DataFrame(rows, columns=names)


def amount(money: float) -> str:
    """Return an amount of money, small ones with two significant digits."""
    return f"{money:,.2f}" if money >= 1 or not money else f"{money:.2g}"


def sentence(costs: Costs) -> str:
    """Say which is cheaper, by how much, and from how many users on."""
    if costs.retraining is None or costs.migration is None:
        missing = "a full retraining" if costs.retraining is None else "a migration"
        return f"Not comparable yet: {missing} on this model and device was never measured here."
    ratio = costs.retraining.seconds / costs.migration.seconds
    if ratio >= 1:
        text = f"Retraining takes {ratio:.1f} times as long as this migration."
    else:
        text = f"This migration takes {1 / ratio:.1f} times as long as retraining."
    if costs.break_even is None:
        return f"{text} With this plan, migrating is never cheaper."
    if costs.trained == costs.users:
        return f"{text} All users train the adapter, so this holds for any number of users."
    return f"{text} With this many users who train it, migrating is cheaper from {costs.break_even:,} users on."


def guesses(costs: Costs) -> list[str]:
    """Say which predicted times are guesses, and why; once where both have the same reason."""
    reasons = {
        name: " and ".join(predicted.mismatches)
        for name, predicted in (("migration", costs.migration), ("retraining", costs.retraining))
        if predicted is not None and predicted.mismatches
    }
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        return [f"Both times are guesses: they were measured with {reasons['migration']}."]
    return [
        f"The time of the {name} is a guess: it was measured with {reason}."
        for name, reason in reasons.items()
    ]


def _evidence(costs: Costs) -> None:
    rows = [
        {
            "For": "predictions of the source" if run.items else name,
            "Run": run.name,
            "Id": run.run,
            "Examples/s": run.rate,
            "Batch": run.batch_size or None,
            "Template": run.template,
            "Training (s)": run.training_seconds,
            "Whole run (s)": run.seconds,
            "Kind": "calibration" if run.short else "whole run",
            "Other work": percent(run.other_load) if run.short else "not measured",
        }
        for name, predicted in (("retraining", costs.retraining), ("migration", costs.migration))
        for run in (predicted.evidence if predicted else ())
    ]
    if not rows:
        return
    with st.expander("What this rests on", icon=":material/fact_check:"):
        st.caption(
            "Time = rows x epochs / measured examples a second, plus measured preparation: the median of "
            "the runs below, with the fastest and the slowest as the range. Training may stop earlier."
        )
        for name, predicted in (("retraining", costs.retraining), ("migration", costs.migration)):
            if predicted and predicted.mismatches:
                st.caption(
                    f"The time of the {name} is a guess: some of its runs had "
                    f"{' and '.join(predicted.mismatches)}, since none without this difference was "
                    "measured."
                )
        cores = "The share of this machine's cores that other processes took meanwhile."
        columns = {
            "Examples/s": NumberColumn(format="%,.0f"),
            "Training (s)": NumberColumn(format="%.1f"),
            "Whole run (s)": NumberColumn(format="%.1f"),
            "Other work": TextColumn(help=cores),
        }
        tables.show(pd.DataFrame(rows), columns)


def disturbed(costs: Costs) -> str:
    """Name the measurements that other work on the machine may have slowed down; "" if none."""
    disturbed = [
        run
        for predicted in (costs.retraining, costs.migration)
        for run in (predicted.evidence if predicted else ())
        if run.disturbed
    ]
    if not disturbed:
        return ""
    share = max(run.other_load for run in disturbed)
    runs = ", ".join(dict.fromkeys(run.run for run in disturbed))
    return (
        f"Measured while other work took up to {percent(share)} of the machine's cores, so the times may be "
        f"too long. To measure again when the machine is idle, delete {runs} first (puma runs delete)."
    )


def _calibration(plan: Plan, costs: Costs, device: str) -> None:
    """Offer to measure what the prediction lacks, on a device of this machine; watch it."""
    job = plans.calibrating(plan)
    if job is not None:
        job_cards.watch_one(job)
        return
    missing = plans.unmeasured(costs)
    if not missing:
        return
    if device not in plans.local_devices():
        st.caption(f"This machine has no {engine.device(device)} to measure it on.")
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.text(
            f"Not measured on {engine.device(device)} yet: {' and '.join(missing)}.",
            width="stretch",
        )
        clicked = page_states.action(
            "Measure it now",
            icon=":material/speed:",
            help="Trains on few users for two epochs and stores only the time that it took.",
        )
    if clicked:
        with page_states.caught("The measurement was not started."):
            plans.calibrate(plan)
            st.rerun()


def predicted_and_actual(job: engine.Job) -> None:
    """Show what the migration took beside what was predicted at launch."""
    migrations = plans.migrations_of(job)
    expected = job.args.get("predicted")
    if not migrations:
        return
    seconds = sum(run.seconds or 0.0 for run in migrations)
    values: dict[str, tuple[str, str | None]] = {
        "Predicted": (formatting.duration(expected["seconds"]) if expected else "unknown", None),
        "Actual": (formatting.duration(seconds), term("run")),
    }
    if expected:
        values["Actual / predicted"] = (f"{seconds / expected['seconds']:.2f}", None)
    tables.metrics(values)
    if expected and {run.device for run in migrations} - {expected["device"]}:
        st.caption("It ran on another device than was predicted.")
