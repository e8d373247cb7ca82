"""Evidence: verdicts on the paper's claims, and the results of each study."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import page_states, query_params, study_claims, study_results, tables
from dashboard.components.formatting import unbroken
from dashboard.components.glossary import show_glossary
from dashboard.engine import studies

VIEWS = {"claims": "Claims of the paper", "study": "One study"}
ORIGINS = {"published": "Published with PUMA", "workspace": "This workspace"}
# The query parameter that holds the shown study, by where its report is from.
STUDY_PARAMS = {"workspace": "study", "published": "report"}


def page() -> None:
    """Draw the page. Published studies need no workspace."""
    st.title("Evidence")
    if engine.has_workspace():
        page_states.viewing()
    # Addresses of earlier versions name a study of the workspace without its origin.
    if "from" not in st.query_params and STUDY_PARAMS["workspace"] in st.query_params:
        query_params.write("from", "workspace")
    with page_states.caught("The studies cannot be shown."):
        with st.container(horizontal=True, gap="medium"):
            view = query_params.segment(
                "View", VIEWS, "view", label_visibility="collapsed", width=245
            )
            origin = query_params.segment(
                "Reports", ORIGINS, "from", label_visibility="collapsed", width=270
            )
        if origin == "published":
            _published(view)
        else:
            _of_workspace(view)
        with st.container(gap="small"):
            if view == "claims":
                explanation = f"{studies.claims.INTERVALS} {studies.claims.IN_RANKING}"
                st.caption(unbroken(studies.plain(explanation)))
            show_glossary("run", "interval", "retrained", "shuffled control", "random prompts")


def _of_workspace(view: str) -> None:
    names = studies.names() if engine.has_workspace() else []
    if not names:
        explanation = (
            "A study repeats an experiment over seeds and data sets, and tests which differences "
            "are more than chance."
        )
        how = "`puma study table2 --quick` runs the first of them on few users."
        page_states.empty(
            "No study was run here", explanation if engine.read_only() else f"{explanation} {how}"
        )
        every = pd.DataFrame(studies.descriptions(), columns=["Study", "Question"])
        tables.show(every, height="content")
    elif view == "claims":
        reports, damaged = studies.of_workspace()
        for reason in damaged:
            page_states.failed("One report is left out.", reason)
        address = {"view": "study", "from": "workspace"}
        study_claims.show(reports, address, STUDY_PARAMS["workspace"])
    else:
        labels = {name: f"{name}: {studies.description(name)}" for name in names}
        _study(labels, "workspace", studies.report)


def _published(view: str) -> None:
    reports = studies.published_reports()
    if not reports:
        page_states.empty(
            "No published studies here",
            "They are in `docs/results/` of a checkout of PUMA. The environment variable "
            "`PUMA_RESULTS` names another folder.",
        )
    elif view == "claims":
        address = {"view": "study"}
        study_claims.show(reports, address, STUDY_PARAMS["published"])
    else:
        by_name = {report.name: report for report in reports}
        labels = {
            name: f"{name}: {studies.description(item.study)}" for name, item in by_name.items()
        }
        _study(labels, "published", lambda name: by_name[name].report)


def _study(labels: Mapping[str, str], origin: str, read: Callable[[str], dict[str, Any]]) -> None:
    left, right = st.columns([3, 2])
    with left:
        name = query_params.choose("Study", list(labels), STUDY_PARAMS[origin], labels=labels)
    report = read(name)
    datasets = studies.reports.datasets(report)
    if not datasets:
        page_states.empty("Nothing is finished yet", "The first results will appear here.")
        return
    # Another study starts with its own data set if it lacks the one shown before.
    study, before = f"{origin} {name}", st.session_state.get("studied")
    if before not in (None, study) and query_params.read("dataset", datasets) is None:
        query_params.forget("dataset")
    st.session_state["studied"] = study
    with right:
        dataset = query_params.choose("Data set", datasets, "dataset")
    study_results.show(report, dataset)
