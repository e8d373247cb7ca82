"""A form that fits prompts of a data set on a model."""

import streamlit as st

from dashboard import engine
from dashboard.components import page_states
from dashboard.components.glossary import term
from dashboard.engine import fitting


def form(backbones: list[engine.Run]) -> None:
    """Draw the form, or say what it needs first."""
    datasets = engine.runs("dataset")
    if not datasets:
        st.caption("Prompts are fitted on a data set; import one on the page Data.")
        return
    names = {run.id: f"{run.name} · {run.id[:6]}" for run in [*datasets, *backbones]}
    with st.form("fit-prompts"):
        columns = st.columns([4, 4, 7, 2], vertical_alignment="bottom")
        dataset = columns[0].selectbox(
            "Data set", [run.id for run in datasets], format_func=names.__getitem__, key="fit-data"
        )
        backbone = columns[1].selectbox(
            "Model", [run.id for run in backbones], format_func=names.__getitem__, key="fit-model"
        )
        role = columns[2].selectbox(
            "What for",
            list(fitting.ROLES),
            format_func=fitting.ROLES.__getitem__,
            key="fit-role",
            help=term("soft prompt"),
        )
        if columns[3].form_submit_button("Fit", type="primary", icon=":material/model_training:"):
            try:
                job = fitting.launch(dataset, backbone, role)
                st.success(
                    f"Fitting is queued as job {job.id}; it goes on when you close the page."
                )
            except engine.PumaError as error:
                page_states.failed("Nothing was started.", error)
