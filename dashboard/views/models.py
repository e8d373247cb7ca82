"""Models: the old and the new backbone side by side, memory, fitted prompts, and adding one."""

import pandas as pd
import streamlit as st
from streamlit.column_config import DatetimeColumn, TextColumn

from dashboard import engine
from dashboard.components import formatting, job_cards, page_states, query_params, tables
from dashboard.components.formatting import MAX_WARNING, escaped, short
from dashboard.components.glossary import show_glossary, term
from dashboard.components.theme import Status
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
    with page_states.caught("The models cannot be shown."):
        backbones = engine.runs("backbone") if engine.has_workspace() else []
        viewing = page_states.viewing()
        if backbones and not viewing:
            st.header("Fit prompts", divider="gray")
            _fit(backbones)
        if backbones:
            _side_by_side(backbones)
        else:
            page_states.empty(
                "No models yet",
                "A migration needs the model that prompts were fitted on and the new model. Add them "
                "below: a shipped model, a hub id such as owner/name, a folder or a GGUF file.",
                icon=":material/neurology:",
            )
        if not viewing:
            st.header("Add a model", divider="gray")
            _add()
        if engine.has_workspace():
            job_cards.watch(3, ("add_backbone", "fit_prompts"))
            _refused()
    show_glossary("backbone", "source prompts", "target", "template", "answer tokens")


def _side_by_side(backbones: list[engine.Run]) -> None:
    prompts = [*engine.runs("prompts"), *engine.runs("migration")]
    defaults = models.default_pair(backbones, prompts)
    chosen = {}
    st.header("Old and new model", divider="gray")
    for column, default, (side, label) in zip(st.columns(2), defaults, SIDES.items(), strict=True):
        with column:
            chosen[side] = query_params.choose_run(label, backbones, side, default=default)
    if chosen["source"].id == chosen["target"].id and len(backbones) > 1:
        st.caption("Both sides show the same model; choose two to compare.")
    st.header("Facts", divider="gray")
    frame = pd.DataFrame({SIDES[side]: models.facts(run) for side, run in chosen.items()})
    frame = frame[(frame != models.UNKNOWN).any(axis="columns")]
    tables.show(
        frame.rename_axis("Fact").reset_index(),
        height=tables.height(len(frame)),
        alt="Facts of the source and the target model",
    )
    for side, run in chosen.items():
        for warning in run.summary.get("warnings") or ():
            text = f"{SIDES[side]}: {escaped(warning, MAX_WARNING)}"
            st.warning(text, icon=":material/warning:")
    _memory(chosen)
    templates = {run.inputs.get("backbone"): run.config.get("template") for run in prompts[::-1]}
    _tokens(chosen, templates.get(chosen["source"].id))
    st.header("Prompts fitted on each", divider="gray")
    fitted = []
    for side, run in chosen.items():
        of_side = [table for table in prompts if table.inputs.get("backbone") == run.id]
        if of_side:
            fitted.append(models.prompt_table(of_side).assign(side=side.capitalize()))
        else:
            st.caption(f"Nothing is fitted on the {side} yet.")
    if fitted:
        shown = ["side", "kind", "name", "users", "data set", "template", "validation", "by epoch"]
        alt = "Prompt tables on the source and on the target"
        tables.show_prompts(pd.concat(fitted), shown, alt)


def _memory(chosen: dict[str, engine.Run]) -> None:
    st.header("Memory of the weights and free memory of this machine", divider="gray")
    devices = models.memory()
    for column, run in zip(st.columns(2), chosen.values(), strict=True):
        for need in models.needs(run, devices):
            device, shown = need.device, FITS[need.verdict]
            with column.container(border=True, gap="small"):
                with st.container(horizontal=True, vertical_alignment="center"):
                    st.markdown(f"**{escaped(device.name)}** ({device.device})", width="stretch")
                    st.badge(shown.label, icon=shown.icon, color=shown.colour)
                st.progress(
                    min(need.need / device.free if device.free else 1.0, 1.0),
                    text=f"{formatting.size(need.need)} in {need.precision}, of "
                    f"{formatting.size(device.free)} free ({formatting.size(device.total)} in all)",
                )
    st.caption(
        "Of the weights alone. Cached item texts, batches and the training of an adapter need more, "
        f"so above {formatting.percent(models.TIGHT)} of the free memory is marked as tight."
    )


def _tokens(chosen: dict[str, engine.Run], default: str | None) -> None:
    st.header("Tokens of a template", divider="gray")
    labels: dict[str, str] = {}
    for run in chosen.values():
        labels |= models.template_names(run)
    if not labels:
        st.info("These models were added by an older version; add them again to show their tokens.")
        return
    name = query_params.choose(
        "Template", list(labels), "template", labels=labels, default=default, help=term("template")
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
            visible = " ".join(card["tokens"]).replace("Ġ", "␣").replace("▁", "␣")
            st.code(visible, language=None, wrap_lines=True)


def _fit(backbones: list[engine.Run]) -> None:
    """Draw the choices for fitting prompts of a data set on a model, or say what it needs first."""
    datasets = engine.runs("dataset")
    if not datasets:
        st.caption("Prompts are fitted on a data set; import one on the page Data.")
        return
    names = {run.id: f"{run.name} · {run.id[:6]}" for run in [*datasets, *backbones]}
    label = (names | models.ROLES).__getitem__
    data, on, roles = [run.id for run in datasets], [run.id for run in backbones], [*models.ROLES]
    with st.container(border=True):
        columns = st.columns([4, 4, 7, 2], vertical_alignment="bottom")
        dataset = columns[0].selectbox("Data set", data, format_func=label, key="fit-data")
        backbone = columns[1].selectbox("Model", on, format_func=label, key="fit-model")
        usual = models.usual_role(dataset, backbone)
        # Another model or data set has another usual role; a choice holds for the one it was made for.
        role = columns[2].selectbox(
            "What for",
            roles,
            roles.index(usual),
            format_func=label,
            key=f"fit-role-{dataset}-{backbone}",
            help=term("soft prompt"),
        )
        if columns[3].button(
            "Fit", type="primary", icon=":material/model_training:", key="fit-start"
        ):
            with page_states.caught("Nothing was started."):
                job = models.fit(dataset, backbone, role)
                st.success(
                    f"Fitting is queued as job {job.id}; it goes on when you close the page."
                )


def _add() -> None:
    named = models.named_models()
    with st.form("add-model", clear_on_submit=False):
        columns = st.columns([3, 1, 2], vertical_alignment="bottom")
        spec = columns[0].selectbox(
            "Shipped model, hub id (owner/name), folder or GGUF file",
            list(named),
            format_func=lambda spec: (
                f"{spec} ({named[spec]})" if spec in named else short(str(spec), 100)
            ),
            index=None,
            accept_new_options=True,
            placeholder="Choose one, or type a hub id or a path",
            key="add-spec",
        )
        revision = columns[1].text_input(
            "Revision", key="add-revision", max_chars=100, help="Branch, tag or commit of a hub id."
        )
        name = columns[2].text_input("Name in this workspace", key="add-name", max_chars=100)
        if st.form_submit_button("Check and add", type="primary", icon=":material/add:"):
            with page_states.caught("This model cannot be added."):
                job = models.add(spec or "", revision, name)
                st.success(
                    f"The check is queued as job {job.id}. A model of the hub is downloaded first."
                )


def _refused() -> None:
    refused = models.refused()
    if not refused:
        return
    with st.expander(f"Refused models ({len(refused)})", icon=":material/block:"):
        rows = [(job.args.get("spec"), job.error, job.finished) for job in refused[:50]]
        frame = pd.DataFrame(rows, columns=["model", "reason", "when"])
        tables.show(
            frame.assign(when=pd.to_datetime(frame["when"])),
            {
                "model": TextColumn("Model", width="medium"),
                "reason": TextColumn("Reason", width="large"),
                "when": DatetimeColumn("When (UTC)", format="YYYY-MM-DD HH:mm"),
            },
            alt="Refused models with the reason",
        )
