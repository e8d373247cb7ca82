"""What migrations kept of full retraining's gain, by the number of users who trained them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import studies, summary
from puma_engine.backbone.templates import Template, template_label
from puma_engine.errors import PumaError
from puma_engine.evaluation.metrics import PRIMARY_METRIC
from puma_engine.zoo import ZOO

COLUMNS = ["users", "kept", "low", "high", "series", "name"]
MAX_COMPARISONS = 50
HERE = "Measured here"


@dataclass(frozen=True)
class Expected:
    """The share of full retraining's gain that a migration may keep, and what says so.

    low, high: in the published case, those of the studies. basis: in words.
    """

    kept: float
    low: float
    high: float
    basis: str


def measured(data: str, model: str, template: Template) -> pd.DataFrame:
    """Return what migrations of a data set to a model kept here, one row a migration.

    They are those in a template, without refined ones, as in `published`. Columns: users (who
    trained it), kept, low, high (shares of full retraining's gain), series, name.
    """
    rows = []
    known: set[str] = set()
    for run in engine.runs("comparison")[:MAX_COMPARISONS]:
        try:
            plans = summary.plans(run)
        except PumaError:  # a damaged comparison says nothing here; its own page says why
            continue
        moved = plans[(plans["kind"] == "migrated") & plans["kept"].notna()]
        for row in moved.to_dict("records"):
            subject = str(row["run"])
            if subject in known or not is_of(subject, data, model, template):
                continue
            known.add(subject)
            rows.append(_row(row, HERE, row["method"]))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("users", kind="stable")


def is_of(subject: str, data: str, model: str, template: Template) -> bool:
    """Return whether a run migrated the prompts of a data set to a model in a template."""
    try:
        run = engine.run(subject)
    except engine.NotFoundError:
        return False
    same_template = template_label(run.config) == template_label(template.to_config())
    return same_template and (run.inputs.get("dataset"), run.inputs.get("backbone")) == (
        data,
        model,
    )


def _row(row: dict, series: str, name: object) -> dict:
    return {
        "users": int(row["users_trained"]),
        "kept": float(row["kept"]),
        "low": float(row["kept_low"]),
        "high": float(row["kept_high"]),
        "series": series,
        "name": str(name),
    }


@st.cache_data(max_entries=6, show_spinner=False)
def published(task: str, role: str = "") -> pd.DataFrame:
    """Return what migrations kept in the published studies of a task; columns as in `measured`.

    role: "" for studies between models that ship, "on" for those with another target, "from" for
    those with another source.
    """
    rows = []
    others: set[str] = {"on": {"target"}, "from": {"source"}}.get(role, set())
    for item in studies.published_reports() or ():
        report = item.report
        if report["study"] != "table2" or set(item.other_models) != others:
            continue
        for data in dict.fromkeys(line["dataset"] for line in report["summary"]):
            lines = [line for line in report["summary"] if line["dataset"] == data]
            if PRIMARY_METRIC[task] not in lines[0]:
                continue
            shares = studies.reports.shares_of(report, data)
            everybody = max(int(line.get("users_trained") or 0) for line in lines)
            for line in lines:
                kept = shares.get((studies.reports.key_of(line), "random", "level"))
                # Refined prompts and controls are other methods, random users another strategy.
                migrated = line["kind"] == "migrated" and "random" not in str(line["method"])
                if not migrated or kept is None or kept["kept"] is None:
                    continue
                facts = kept | {"users_trained": line["users_trained"]}
                column = f"{data}, {item.route}" if item.route else data
                name = studies.evidence.column_heading(column)
                series = f"Published: {name}, {everybody:,} users"
                rows.append(_row(facts, series, line["method"]))
    frame = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["series", "users"])
    return frame.sort_values(["series", "users"], kind="stable")


def published_role(sources: Sequence[str], target: str) -> str:
    """Return the role whose published studies are nearest to a migration; see `published`.

    sources, target: ids of the models' runs, or names of models.
    """
    if is_other(target):
        return "on"
    return "from" if any(map(is_other, sources)) else ""


def is_other(model: str) -> bool:
    """Return whether a model is not one of those that ship."""
    try:
        return str(engine.run(model).config["spec"]) not in ZOO
    except engine.NotFoundError:
        return model not in ZOO


def expected(points: pd.DataFrame, users: int) -> Expected | None:
    """Return the share that a migration trained by this number of users may keep; None without evidence.

    Between two measured numbers of users it is interpolated over their logarithm; beyond them
    nothing is said. Published series are read one by one, and their range is returned.
    """
    pools = []
    for series, rows in points.groupby("series", sort=False):
        item = _interpolated(
            rows.groupby("users", as_index=False)[["kept", "low", "high"]].mean(), users
        )
        if item is not None:
            pools.append((str(series), item))
    if not pools:
        return None
    values = [values for _, values in pools]
    in_workspace = pools[0][0] == HERE
    if in_workspace:
        kept, low, high, exact = values[0]
        basis = "measured with as many users" if exact else "between runs measured here"
        return Expected(kept, low, high, basis)
    means = [value[0] for value in values]
    studied = "1 published study" if len(values) == 1 else f"{len(values)} published studies"
    basis = f"{studied}, not measured here"
    return Expected(sum(means) / len(means), min(means), max(means), basis)


def _interpolated(rows: pd.DataFrame, users: int) -> tuple[float, float, float, bool] | None:
    below, above = rows[rows["users"] <= users], rows[rows["users"] >= users]
    if below.empty or above.empty:
        return None
    first, second = below.iloc[-1], above.iloc[0]
    if first["users"] == second["users"]:
        return float(first["kept"]), float(first["low"]), float(first["high"]), True
    share = math.log(users / first["users"]) / math.log(second["users"] / first["users"])
    kept, low, high = (
        float(first[name] + share * (second[name] - first[name]))
        for name in ("kept", "low", "high")
    )
    return kept, low, high, False
