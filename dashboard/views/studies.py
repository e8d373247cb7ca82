"""Studies: the paper's claims as they judge them, and each with what can be told from chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    compare_figures,
    figures,
    page_states,
    query_params,
    study_budgets,
    study_claims,
)
from dashboard.components.formatting import escaped
from dashboard.components.glossary import glossary
from dashboard.components.theme import rank
from dashboard.engine import studies

VIEWS = {"claims": "Claims of the paper", "study": "One study"}
ORIGINS = {"workspace": "This workspace", "published": "Published with PUMA"}
# Under which name the address holds the study that is shown, by where it comes from.
PLACES = {"workspace": "study", "published": "report"}
MOST_OF_NOTE = 1000

COLUMNS = {
    "method": st.column_config.TextColumn("Method", width=270),
    "seeds": st.column_config.NumberColumn("Seeds", help="Trainings that the mean is of."),
    "share": st.column_config.NumberColumn("Share of users", format="percent"),
    "users trained": st.column_config.NumberColumn("Users trained", format="localized"),
    "seconds": st.column_config.NumberColumn("Seconds (mean)", format="%.1f"),
}


def page() -> None:
    """Draw the page; what was published with PUMA needs no workspace."""
    st.title("Studies")
    with page_states.caught("This cannot be shown."):
        _page()


def _page() -> None:
    with st.container(horizontal=True, gap="medium"):
        view = query_params.segment("View", VIEWS, "view")
        origin = query_params.segment("Reports", ORIGINS, "from")
    if origin == "published":
        _published(view)
    elif not engine.has_workspace() or not (names := studies.names()):
        _no_study()
    elif view == "claims":
        found, damaged = studies.kept()
        for reason in damaged:
            page_states.failed("One report is left out.", reason)
        study_claims.show(found, {"view": "study"}, PLACES[origin])
    else:
        labels = {name: f"{name}: {studies.about(name)}" for name in names}
        _study(labels, origin, studies.report)
    glossary("run", "interval", "retrained", "shuffled control", "random prompts")


def _published(view: str) -> None:
    found = studies.shared()
    if not found:
        page_states.empty(
            "No published studies here",
            "They lie in `docs/results/` of a checkout of PUMA; the environment variable "
            "`PUMA_RESULTS` names another folder.",
        )
    elif view == "claims":
        study_claims.show(found, {"view": "study", "from": "published"}, PLACES["published"])
    else:
        by_name = {one.name: one for one in found}
        labels = {name: f"{name}: {studies.about(one.study)}" for name, one in by_name.items()}
        _study(labels, "published", lambda name: by_name[name].report)


def _no_study() -> None:
    page_states.empty(
        "No study was run here",
        "A study repeats an experiment over seeds and data sets, and says which differences "
        "are more than chance. `puma study table2 --quick` runs the first of them on few users.",
    )
    pages.link(
        "studies",
        label="See what was published with PUMA",
        icon=":material/menu_book:",
        **{"from": "published"},
    )
    every = pd.DataFrame(studies.every(), columns=["Study", "What it asks"])
    st.dataframe(every, hide_index=True, height="content")


def _study(labels: Mapping[str, str], origin: str, read: Callable[[str], dict[str, Any]]) -> None:
    left, right = st.columns([3, 2])
    with left:
        name = query_params.choose("Study", list(labels), PLACES[origin], labels=labels)
    found = read(name)
    known = studies.datasets(found)
    if not known:
        page_states.empty("Nothing is finished yet", "Its first results will be shown here.")
        return
    _forget_dataset(f"{origin} {name}", known)
    with right:
        dataset = query_params.choose("Data set", known, "dataset")
    _facts(found)
    if studies.is_of_budgets(found):
        study_budgets.show(found, dataset)
    else:
        _results(found, dataset)
    _differences(found, dataset)


def _forget_dataset(study: str, known: Sequence[str]) -> None:
    """Let another study begin with a data set of its own, if it hasn't the one shown before."""
    before = st.session_state.get("studied")
    if before not in (None, study) and query_params.read("dataset", known) is None:
        query_params.forget("dataset")
    st.session_state["studied"] = study


def _facts(found: dict[str, Any]) -> None:
    st.code(found["command"], language=None)
    note = found.get("note", "")
    st.caption(escaped(f"Made on {found['date']}. {note}", MOST_OF_NOTE))
    missing, failed = len(found["missing"]), len(found["failed"])
    if missing or failed:
        counts = {"not run": missing, "failed": failed}
        told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
        page_states.stale(f"Incomplete: {told}. The same command goes on with the rest.")


def _results(found: dict[str, Any], dataset: str) -> None:
    metric, rows = studies.summary(found, dataset)
    rows = _by_kind(rows)
    st.markdown(f"##### Every method: {studies.title_of(metric)}")
    label = studies.METRICS[metric].label
    digits = st.column_config.NumberColumn(label, format="%.4f")
    spread = st.column_config.NumberColumn("SD over seeds", format="%.4f")
    st.dataframe(
        rows,
        hide_index=True,
        height="content",
        column_order=[name for name in rows if name != "kind"],
        placeholder="–",
        column_config=COLUMNS | {metric: digits, "sd over seeds": spread},
    )
    figures.downloads(rows, f"study-{found['study']}-{dataset}")


def _by_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods in the order that kinds have everywhere."""
    return rows.sort_values("kind", key=lambda kinds: kinds.map(rank), kind="stable")


def _differences(found: dict[str, Any], dataset: str) -> None:
    rows = _by_kind(studies.differences(found, dataset))
    if rows.empty:
        return
    shares = sorted(rows["share"].dropna().unique())
    if shares:
        labels = {f"{share:g}": f"{share:.0%} of the users" for share in shares}
        chosen = query_params.segment("Budget", labels, "share")
        rows = rows[rows["share"] == float(chosen)]
    metric, _ = studies.summary(found, dataset)
    side = "right" if studies.METRICS[metric].higher_is_better else "left"
    against, over = studies.against(found), rows["over"].iloc[0]
    figures.show(
        compare_figures.intervals(rows, 0.0),
        rows,
        f"study-differences-{found['study']}",
        title=f"What differs from {against}: {side} of zero is better",
        x=f"Difference of test {studies.METRICS[metric].label}, 95 % interval over {over}",
        height=120 + 30 * len(rows),
    )
    _intervals(rows, over)
    chance = int((~rows["real"].astype(bool)).sum())
    st.caption(
        f"{len(rows) - chance} of {len(rows)} differences are more than chance after Holm's "
        f"correction for their number; they are means over the seeds, their intervals over {over}."
    )


def _intervals(rows: pd.DataFrame, over: str) -> None:
    """The figures behind the chart, with the intervals that tell how another training had gone."""
    shown = rows[["method", "value", "trainings", "real"]].copy()
    if over == "users":
        ends = zip(rows["low"], rows["high"], strict=True)
        shown.insert(2, "users", [f"{low:+.4f} to {high:+.4f}" for low, high in ends])
    st.dataframe(
        shown,
        hide_index=True,
        height="content",
        placeholder="–",
        column_config={
            "method": COLUMNS["method"],
            "value": st.column_config.NumberColumn("Difference", format="%+.4f"),
            "users": st.column_config.TextColumn(
                "95 % over users", help="From resampling users: what other users would have shown."
            ),
            "trainings": st.column_config.TextColumn(
                "95 % over trainings",
                help="Student's t over the seeds: what other trainings would have shown.",
            ),
            "real": st.column_config.CheckboxColumn(
                f"Real over {over}",
                help="More than chance after Holm's correction for their number.",
            ),
        },
    )
