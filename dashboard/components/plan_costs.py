"""What a plan costs: predicted before, and beside it what it really took."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import formatting, job_cards, page_states, query_params
from dashboard.components.glossary import term
from dashboard.engine import plans
from dashboard.engine.plans import Costs, Plan, Prediction

MOST_PRICE = 1e6
REFRESH = 2.0


def show(plan: Plan) -> dict[str, Any] | None:
    """Show predicted costs; return what is to be kept with the job, or None if unknown."""
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
    st.dataframe(table(costs, price), hide_index=True)
    st.text(sentence(costs))
    said = disturbed(costs)
    if said:
        st.warning(said, icon=":material/speed:")
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
    """One row a way: predicted time with its ends, device hours, money, runs it rests on."""
    ways = {
        f"Retrain all {costs.users:,} users": costs.retraining,
        f"This migration ({costs.trained:,} users train)": costs.migration,
    }
    return pd.DataFrame([_row(name, found, price) for name, found in ways.items()])


def _row(name: str, found: Prediction | None, price: float) -> dict[str, Any]:
    if found is None:
        unknown = dict.fromkeys(("Range", "Device hours", "Cost"), "unknown")
        return {"Way": name, "Time": "unknown"} | unknown | {"Measured runs": 0}
    return {
        "Way": name,
        "Time": formatting.duration(found.seconds),
        "Range": f"{formatting.duration(found.low)} to {formatting.duration(found.high)}"
        if len(found.evidence) > 1
        else "of one run",
        "Device hours": f"{plans.hours(found.seconds):.3g}",
        "Cost": amount(plans.money(found.seconds, price)),
        "Measured runs": len(found.evidence),
    }


def amount(money: float) -> str:
    """Return an amount of money, small ones with two digits that say something."""
    return f"{money:,.2f}" if money >= 1 or not money else f"{money:.2g}"


def sentence(costs: Costs) -> str:
    """Say which way is cheaper, by how much, and from how many users on."""
    if costs.retraining is None or costs.migration is None:
        lacking = "a full retraining" if costs.retraining is None else "a migration"
        return f"Not comparable yet: {lacking} on this model and device was never measured here."
    ratio = costs.retraining.seconds / costs.migration.seconds
    if ratio >= 1:
        said = f"Retraining takes {ratio:.1f} times as long as this migration."
    else:
        said = f"This migration takes {1 / ratio:.1f} times as long as retraining."
    if costs.break_even is None:
        return f"{said} With this plan a migration is never cheaper."
    if costs.trained == costs.users:
        return f"{said} Everybody trains the adapter, so that holds for any number of users."
    return f"{said} With this budget, migrating is cheaper from {costs.break_even:,} users on."


def _evidence(costs: Costs) -> None:
    rows = [
        {
            "For": way,
            "Run": one.name,
            "Id": one.run,
            "Examples/s": one.rate,
            "Batch": one.batch_size,
            "Trained, s": one.training_seconds,
            "Whole run, s": one.seconds,
            "Kind": "calibration" if one.short else "whole run",
            "Other work": f"{one.others:.0%}" if one.short else "not measured",
        }
        for way, found in (("retraining", costs.retraining), ("migration", costs.migration))
        for one in (found.evidence if found else ())
    ]
    if not rows:
        return
    with st.expander("What this rests on", icon=":material/fact_check:"):
        st.caption(
            "Time = rows x epochs / measured examples a second, plus measured preparation; the middle "
            "of the runs below, their fastest and slowest as the range. Training may stop earlier."
        )
        other = any(one and one.other_batches for one in (costs.retraining, costs.migration))
        if other:
            st.caption("Some runs had another batch size: none with this one was measured.")
        if costs.migration and costs.migration.other_sources:
            st.caption(
                "Some adapters read another number of sources: none that reads as many was measured, so "
                "the time is a guess."
            )
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            column_config={
                "Examples/s": st.column_config.NumberColumn(format="%,.0f"),
                "Trained, s": st.column_config.NumberColumn(format="%.1f"),
                "Whole run, s": st.column_config.NumberColumn(format="%.1f"),
                "Other work": st.column_config.TextColumn(
                    help="The share of this machine's cores that other processes took meanwhile."
                ),
            },
        )


def disturbed(costs: Costs) -> str:
    """Say which measurements other work on the machine may have slowed down; nothing if none."""
    found = [
        one
        for way in (costs.retraining, costs.migration)
        for one in (way.evidence if way else ())
        if one.disturbed
    ]
    if not found:
        return ""
    most = max(one.others for one in found)
    runs = ", ".join(dict.fromkeys(one.run for one in found))
    return (
        f"Measured while other work took up to {most:.0%} of the machine's cores, so the times may be "
        f"too long. To measure again when it is quiet, delete {runs} first (puma runs delete)."
    )


def _calibration(plan: Plan, costs: Costs, device: str) -> None:
    """Offer to measure what the prediction lacks, on a device of this machine; watch it."""
    job = plans.calibrating(plan)
    if job is not None:
        page_states.live(_watched, REFRESH)(job.id)
        return
    lacking = plans.unmeasured(costs)
    if not lacking:
        return
    if device not in plans.own_devices():
        st.caption(f"This machine has no {device} on which it could be measured.")
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.text(f"Not measured on {device} yet: {', '.join(lacking)}.", width="stretch")
        asked = st.button(
            "Measure it now",
            icon=":material/speed:",
            help="Trains on few users for two epochs and keeps nothing but the time that it took.",
        )
    if not asked:
        return
    try:
        plans.calibrate(plan)
    except engine.PumaError as error:
        page_states.failed("This is not measured now.", error)
        return
    st.rerun()


def _watched(job_id: str) -> None:
    job = engine.job(job_id)
    if job.status == "finished":
        st.rerun()
    job_cards.card(job)


def against_reality(job: engine.Job) -> None:
    """Beside what was predicted at launch: what the migration really took."""
    made = plans.really(job)
    expected = job.args.get("predicted")
    if not made:
        return
    seconds = sum(run.seconds or 0.0 for run in made)
    cells = st.columns(3)
    cells[0].metric(
        "Predicted", formatting.duration(expected["seconds"]) if expected else "unknown"
    )
    cells[1].metric("Really", formatting.duration(seconds), help=term("run"))
    if expected:
        cells[2].metric("Really / predicted", f"{seconds / expected['seconds']:.2f}")
        others = {run.device for run in made} - {expected["device"]}
        if others:
            st.caption("It ran on another device than the prediction was for.")
