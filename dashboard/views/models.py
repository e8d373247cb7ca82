"""Models: the old and the new backbone side by side, memory, fitted prompts, and adding one."""

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import (
    fitting,
    formatting,
    job_cards,
    page_states,
    query_params,
    row_selection,
)
from dashboard.components.formatting import escaped, short
from dashboard.components.glossary import show_glossary, term
from dashboard.components.theme import KINDS, Status, rank
from dashboard.engine import models

SIDES = {"source": "Source (old model)", "target": "Target (new model)"}
FITS = {
    "fits": Status("Fits", ":material/check_circle:", "green"),
    "tight": Status("Tight", ":material/warning:", "orange"),
    "too large": Status("Too large", ":material/error:", "red"),
}


def page() -> None:
    """Draw the page."""
    st.title("Models")
    try:
        backbones = engine.runs("backbone") if engine.has_workspace() else []
        if backbones:
            _side_by_side(backbones)
        else:
            page_states.empty(
                "No models yet",
                "A migration needs the model that prompts were fitted on and the new model. Add them "
                "below: a shipped model, a hub id such as owner/name, or a folder.",
                icon=":material/neurology:",
            )
        st.header("Add a model", divider="gray")
        _add()
        if engine.has_workspace():
            job_cards.watch(3, ("add_backbone", "fit_prompts"))
            _refused()
    except engine.PumaError as error:
        page_states.failed("The models cannot be shown.", error)
    show_glossary("backbone", "source prompts", "target", "template", "answer tokens")


def _side_by_side(backbones: list[engine.Run]) -> None:
    prompts = [*engine.runs("prompts"), *engine.runs("migration")]
    defaults = models.default_pair(backbones, prompts)
    chosen = {}
    for column, default, (side, label) in zip(st.columns(2), defaults, SIDES.items(), strict=True):
        with column:
            chosen[side] = query_params.choose_run(label, backbones, side, default=default)
    if chosen["source"].id == chosen["target"].id and len(backbones) > 1:
        st.caption("Both sides show the same model; choose two to compare.")
    _facts(chosen)
    _memory(chosen)
    _tokens(chosen, next((run.config.get("template") for run in prompts), None))
    names = {run.id: run.name for run in [*backbones, *engine.runs("dataset")]}
    st.header("Prompts fitted on each", divider="gray")
    _fitted({side: models.fitted(run, prompts, names) for side, run in chosen.items()})
    st.header("Fit prompts", divider="gray")
    fitting.form(backbones)


def _facts(chosen: dict[str, engine.Run]) -> None:
    st.header("Facts", divider="gray")
    facts = {side: models.facts(run) for side, run in chosen.items()}
    frame = pd.DataFrame({SIDES[side]: known for side, known in facts.items()})
    frame.insert(0, "Fact", frame.index)
    st.dataframe(
        frame,
        hide_index=True,
        height=row_selection.height(len(frame)),
        alt="Facts of the source and the target model",
    )
    for side, run in chosen.items():
        for warning in run.summary.get("warnings") or ():
            st.warning(f"{SIDES[side]}:", icon=":material/warning:")
            st.text(warning)


def _memory(chosen: dict[str, engine.Run]) -> None:
    st.header("Memory of the weights and free memory of this machine", divider="gray")
    devices = models.memory()
    for column, run in zip(st.columns(2), chosen.values(), strict=True):
        for need in models.needs(run, devices):
            shown = FITS[need.verdict]
            with column.container(border=True, gap="small"):
                with st.container(horizontal=True, vertical_alignment="center"):
                    st.markdown(
                        f"**{escaped(need.device.name)}** ({need.device.device})", width="stretch"
                    )
                    st.badge(shown.label, icon=shown.icon, color=shown.colour)
                share = need.need / need.device.free if need.device.free else 1.0
                st.progress(
                    min(share, 1.0),
                    text=f"{formatting.size(need.need)} in {need.precision}, of "
                    f"{formatting.size(need.device.free)} free ({formatting.size(need.device.total)} in all)",
                )
    st.caption(
        "Of the weights alone. Cached item texts, batches and the training of an adapter need more, "
        f"so above {models.TIGHT:.0%} of the free memory is marked as tight."
    )


def _tokens(chosen: dict[str, engine.Run], default: str | None) -> None:
    st.header("Tokens of a template", divider="gray")
    templates = {
        name: label for run in chosen.values() for name, label in models.template_names(run).items()
    }
    if not templates:
        st.info("These models were added by an older version; add them again to show their tokens.")
        return
    name = query_params.choose(
        "Template",
        list(templates),
        "template",
        labels=templates,
        default=default,
        help=term("template"),
    )
    for column, run in zip(st.columns(2), chosen.values(), strict=True):
        card = run.summary.get("templates", {}).get(name)
        with column:
            if card is None:
                st.info("This model was not checked with this template.")
                continue
            answers = ", ".join(f"{a} is {t!r}" for a, t in card["answer_tokens"].items())
            st.text(f"Answer tokens: {answers}", help=term("answer tokens"))
            st.text(f"{len(card['tokens'])} tokens with an example title:")
            st.code(models.visible_tokens(card), language=None, wrap_lines=True)


def _fitted(by_side: dict[str, list[dict]]) -> None:
    rows = [
        {"side": side.capitalize()} | row
        for side, fitted in by_side.items()
        for row in sorted(fitted, key=lambda row: rank(row["kind"]))
    ]
    for side in (side for side, fitted in by_side.items() if not fitted):
        st.caption(f"Nothing is fitted on the {side} yet.")
    if not rows:
        return
    frame = pd.DataFrame(rows)
    frame["kind"] = [KINDS[kind].label if kind in KINDS else kind for kind in frame["kind"]]
    st.dataframe(
        frame,
        hide_index=True,
        placeholder="–",
        column_config={
            "side": "On",
            "kind": "Kind",
            "name": st.column_config.TextColumn("Name", width=335),
            "users": st.column_config.NumberColumn("Users", format="localized"),
            "data set": "Data set",
            "template": "Template",
            "validation": st.column_config.NumberColumn(
                "Best validation",
                format="%.4f",
                help="The best validation value of the training, in the metric that it was stopped by.",
            ),
        },
        alt="Prompt tables on the source and on the target",
    )


def _add() -> None:
    zoo = models.zoo()
    with st.form("add-model", clear_on_submit=False):
        columns = st.columns([3, 1, 2], vertical_alignment="bottom")
        spec = columns[0].selectbox(
            "Shipped model, hub id (owner/name) or folder",
            list(zoo),
            format_func=lambda spec: (
                f"{spec} ({zoo[spec]})" if spec in zoo else short(str(spec), 100)
            ),
            index=None,
            accept_new_options=True,
            placeholder="Choose one, or type a hub id or a folder",
            key="add-spec",
        )
        revision = columns[1].text_input(
            "Revision", key="add-revision", max_chars=100, help="Branch, tag or commit of a hub id."
        )
        name = columns[2].text_input("Name in this workspace", key="add-name", max_chars=100)
        if st.form_submit_button("Check and add", type="primary", icon=":material/add:"):
            try:
                job = models.add(spec or "", revision, name)
                st.success(
                    f"The check is queued as job {job.id}. A model of the hub is downloaded first."
                )
            except engine.PumaError as error:
                page_states.failed("This model cannot be added.", error)


def _refused() -> None:
    refused = models.refused()
    if not refused:
        return
    with st.expander(f"Refused models ({len(refused)})", icon=":material/block:"):
        frame = pd.DataFrame(
            [
                {"model": job.args.get("spec"), "reason": job.error, "when": job.finished}
                for job in refused[:50]
            ]
        )
        frame["when"] = pd.to_datetime(frame["when"])
        st.dataframe(
            frame,
            hide_index=True,
            column_config={
                "model": st.column_config.TextColumn("Model", width="medium"),
                "reason": st.column_config.TextColumn("Reason", width="large"),
                "when": st.column_config.DatetimeColumn("When (UTC)", format="YYYY-MM-DD HH:mm"),
            },
            alt="Refused models with the reason",
        )
