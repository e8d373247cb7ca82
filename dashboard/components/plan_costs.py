"""What a plan costs: the prediction, and beside it what the migration took."""

from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn

from dashboard import engine
from dashboard.components import formatting, job_cards, page_states, query_params, tables
from dashboard.components.glossary import term
from dashboard.engine import plans
from dashboard.engine.plans import Costs, Plan

MOST_PRICE = 1e6


def show(plan: Plan) -> dict[str, Any] | None:
    """Show predicted costs; return what is stored with the job, or None if unknown."""
    st.header("What it will cost", divider="gray")
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
        max_value=MOST_PRICE,
        value=2.0,
        step=0.1,
        key="price",
        bind="query-params",
        help="In your currency; what your provider or your own accounting charges.",
    )
    costs = plans.costs(plan, device)
    tables.show(table(costs, price))
    st.text(sentence(costs))
    warning = disturbed(costs)
    if warning:
        st.warning(warning, icon=":material/speed:")
    _evidence(costs)
    _calibration(plan, costs, device)
    if costs.migration is None:
        return None
    return {
        "device": device,
        "seconds": costs.migration.seconds,
        "low": costs.migration.low,
        "high": costs.migration.high,
        "retraining_seconds": costs.retraining.seconds if costs.retraining else None,
    }


def table(costs: Costs, price: float) -> pd.DataFrame:
    """Retraining and migration: predicted time and its range, device hours, money, runs behind it."""
    predictions = {
        f"Retrain all {costs.users:,} users": costs.retraining,
        f"This migration ({costs.trained:,} users train)": costs.migration,
    }
    rows = []
    for name, item in predictions.items():
        texts, runs = ["unknown"] * 4, 0
        if item is not None:
            texts = [
                formatting.duration(item.seconds),
                f"{formatting.duration(item.low)} to {formatting.duration(item.high)}",
                f"{plans.hours(item.seconds):.3g}",
                amount(plans.money(item.seconds, price)),
            ]
            runs = len(item.evidence)
            if runs < 2:
                texts[1] = "of one run"
        rows.append([name, *texts, runs])
    names = ["Approach", "Time", "Range", "Device hours", "Cost", "Measured runs"]
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


def _evidence(costs: Costs) -> None:
    rows = [
        {
            "For": "predictions of the source" if run.items else name,
            "Run": run.name,
            "Id": run.run,
            "Examples/s": run.rate,
            "Batch": run.batch_size or None,
            "Template": run.template,
            "Trained, s": run.training_seconds,
            "Whole run, s": run.seconds,
            "Kind": "calibration" if run.short else "whole run",
            "Other work": f"{run.others:.0%}" if run.short else "not measured",
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
            if predicted and predicted.guessed_from:
                st.caption(
                    f"The time of the {name} is a guess: some of its runs had "
                    f"{' and '.join(predicted.guessed_from)}, since none without this difference was "
                    "measured."
                )
        cores = "The share of this machine's cores that other processes took meanwhile."
        columns = {
            "Examples/s": NumberColumn(format="%,.0f"),
            "Trained, s": NumberColumn(format="%.1f"),
            "Whole run, s": NumberColumn(format="%.1f"),
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
    share = max(run.others for run in disturbed)
    runs = ", ".join(dict.fromkeys(run.run for run in disturbed))
    return (
        f"Measured while other work took up to {share:.0%} of the machine's cores, so the times may be "
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
        st.caption(f"This machine has no {device} to measure it on.")
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.text(f"Not measured on {device} yet: {', '.join(missing)}.", width="stretch")
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
