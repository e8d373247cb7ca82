"""The parts of the user's page about prompts: neighbours, what-if questions, and lineage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import figures, glossary, page_states, query_params, user_figures
from dashboard.components.formatting import escaped, short
from dashboard.components.theme import rank
from dashboard.engine import user_details

MOST = 10
QUESTION = "what-if-title"
# A page that shows a kind of run, and the name under which its address takes it.
PAGE_OF = {
    "dataset": ("data", "dataset"),
    "backbone": ("models", "target"),
    "comparison": ("compare", "comparison"),
}
KIND_NAMES = {
    "dataset": "Data set",
    "backbone": "Backbone",
    "prompts": "Prompts",
    "selection": "Selection of users",
    "migration": "Migration",
}


def neighbours(setting: user_details.Setting, user: str) -> None:
    """The users with the most similar prompts, before and after."""
    tables = _tables(setting)
    if len(tables) < 2:
        page_states.empty(
            "Only one prompt table",
            "Neighbours are compared between two spaces; migrate or fit these users on another "
            "backbone.",
        )
        return
    first, second = _two_spaces(tables)
    frame = user_details.near(engine.root(), str(first.prompts), str(second.prompts), user, MOST)
    if frame.empty:
        page_states.empty("No neighbours", "Nobody else has a prompt in these two tables.")
        return
    near_first, near_second = frame["first_place"] <= MOST, frame["second_place"] <= MOST
    frame = frame.assign(both=near_first & near_second)
    frame["only"] = np.select(
        [near_first & ~near_second, near_second & ~near_first], ["first", "second"], ""
    )
    kept, most = int(frame["both"].sum()), int(near_first.sum())
    st.markdown(f"**{kept} of the {most} nearest users are still among the nearest {most}.**")
    st.caption(
        "Nearness is the cosine between prompts after taking away the mean prompt, which says "
        "nothing about anybody: 1 is the same direction, 0 nothing in common. Places count "
        "everybody; 1 is the nearest."
    )
    figures.show(
        user_figures.neighbours_figure(frame, first, second),
        frame.drop(columns=["both", "only"]),
        "user-neighbours",
        title="Neighbours in the upper right stay neighbours",
        x=f"Cosine in {short(first.label, 60)}",
        y=f"Cosine in {short(second.label, 60)}",
    )
    _neighbour_table(frame, setting, first, second)


def _two_spaces(
    tables: Mapping[str, user_details.Method],
) -> tuple[user_details.Method, user_details.Method]:
    labels = {key: method.label for key, method in tables.items()}
    kinds = {method.kind: key for key, method in list(tables.items())[::-1]}
    start = kinds.get("source", next(iter(tables)))
    other = kinds.get("migrated") or kinds.get("retrained") or list(tables)[-1]
    left, right = st.columns(2)
    with left:
        first = query_params.choose(
            "First space", list(tables), "space", labels=labels, default=start
        )
    with right:
        rest = [key for key in tables if key != first]
        second = query_params.choose("Second space", rest, "beside", labels=labels, default=other)
    return tables[first], tables[second]


def _neighbour_table(
    frame: pd.DataFrame,
    setting: user_details.Setting,
    first: user_details.Method,
    second: user_details.Method,
) -> None:
    shown = pd.DataFrame(
        {
            "Row": range(1, len(frame) + 1),
            "User": frame["user_id"],
            "Cosine": frame["first_cosine"],
            "Place": frame["first_place"],
            "Cosine there": frame["second_cosine"],
            "Place there": frame["second_place"],
            "Open": [
                pages.url("user", comparison=setting.id, user=one) for one in frame["user_id"]
            ],
        }
    )
    number, place = st.column_config.NumberColumn, "localized"
    st.dataframe(
        shown,
        hide_index=True,
        column_config={
            "Cosine": number(f"Cosine, {short(first.label, 30)}", format="%.3f"),
            "Place": number(f"Place, {short(first.label, 30)}", format=place),
            "Cosine there": number(f"Cosine, {short(second.label, 30)}", format="%.3f"),
            "Place there": number(f"Place, {short(second.label, 30)}", format=place),
            "Open": st.column_config.LinkColumn("", display_text="Open"),
        },
    )


def what_if(setting: user_details.Setting, user: str) -> None:
    """Ask what the user would think of any title."""
    tables = _tables(setting)
    st.markdown("##### What would this user think of …")
    # A form is filled in before it is sent, so the address is written only then.
    if QUESTION not in st.session_state:
        st.session_state[QUESTION] = query_params.read("title", lambda _: True) or ""
    with st.form("what-if", border=False):
        left, right = st.columns([6, 1], vertical_alignment="bottom")
        title = left.text_input(
            "Title",
            key=QUESTION,
            max_chars=user_details.LONGEST_TITLE,
            placeholder="The Hobbit by J.R.R. Tolkien",
            help="Any text, known to the data set or not. Titles work best in the form that the data "
            "set's titles have.",
        )
        right.form_submit_button("Ask", type="primary", icon=":material/send:", width="stretch")
    query_params.write("title", title if 0 < len(title) <= query_params.LONGEST else None)
    chosen = query_params.choose_many(
        "Prompts",
        list(tables),
        "prompts",
        labels={key: method.label for key, method in tables.items()},
        default=_asked(tables),
        max_selections=user_details.MOST_ASKED,
    )
    try:
        if not title.strip():
            user_details.warm(chosen[: user_details.MOST_ASKED])
            st.caption("The models are being loaded while you type.")
            return
        _answers([tables[one] for one in chosen[: user_details.MOST_ASKED]], user, title)
    except engine.PumaError as error:
        page_states.failed("This question cannot be answered.", error)


def _asked(tables: Mapping[str, user_details.Method]) -> list[str]:
    first: dict[str, str] = {}
    for key, method in tables.items():
        if method.kind in ("source", "migrated", "retrained"):
            first.setdefault(method.kind, key)
    return list(first.values()) or list(tables)[:1]


def _answers(methods: list[user_details.Method], user: str, title: str) -> None:
    if not methods:
        st.info("Choose at least one prompt table.", icon=":material/touch_app:")
        return
    found = _asked_each(methods, user, title)
    answer = found[0][1]
    for column, (method, one) in zip(st.columns(len(found)), found, strict=True):
        value = f"{one.value:.2f} ★" if one.task == "rating" else f"{one.value:.0%}"
        column.metric(
            escaped(method.label),
            value,
            border=True,
            help="Predicted rating, 1 to 5 stars."
            if one.task == "rating"
            else "Chance of a click.",
        )
    st.caption("Read by the models as:")
    st.text(answer.title)
    if any(one.cut for _, one in found):
        st.caption("The title is longer than the models' budget; its end was not read.")
    table = user_figures.answers_table(found)
    figures.show(
        user_figures.answers_figure(found),
        table,
        "user-what-if",
        title="How sure each model is of each answer",
        x="Answer",
        y="Probability",
        height=320,
    )
    seconds = sum(one.seconds for _, one in found)
    st.caption(
        f"Predicted in {seconds:.2f} s by {len(found)} models. The probabilities are the language "
        "model's own, among the allowed answers; the prediction comes from the head that was trained on "
        "top of them. No interval is known for a single prediction."
    )


def _asked_each(
    methods: list[user_details.Method], user: str, title: str
) -> list[tuple[user_details.Method, user_details.Prediction]]:
    """What each method answers. The old model may be switched off: the others answer without it."""
    found: list[tuple[user_details.Method, user_details.Prediction]] = []
    silent: list[tuple[user_details.Method, engine.PumaError]] = []
    with st.spinner("Asking; the first question loads the models…", show_time=True):
        for method in methods:
            try:
                found.append((method, user_details.ask(str(method.prompts), user, title)))
            except engine.PumaError as error:
                silent.append((method, error))
    if not found:
        raise silent[0][1]
    for method, reason in silent:
        page_states.failed(f"No answer from {escaped(method.label)}.", reason)
    return found


def lineage(setting: user_details.Setting, user: str) -> None:
    """Where the user's prompt came from, step by step."""
    tables = _tables(setting)
    kinds = {method.kind: key for key, method in list(tables.items())[::-1]}
    chosen = query_params.choose(
        "Prompts",
        list(tables),
        "run",
        labels={key: method.label for key, method in tables.items()},
        default=kinds.get("migrated"),
        help=glossary.term("lineage"),
    )
    steps = user_details.lineage(chosen)
    st.markdown(f"##### {len(steps)} steps from the data to this user's prompt")
    for place, run in enumerate(steps, start=1):
        _step(place, run, user)


def _step(place: int, run: user_details.Run, user: str) -> None:
    kind = KIND_NAMES.get(run.kind, run.kind)
    cost = f":gray[{escaped(_cost(run), 120)}]"
    with st.expander(f"{place}. **{kind}** {escaped(run.name)} · {cost}"):
        if run.kind in PAGE_OF:
            page, name = PAGE_OF[run.kind]
            pages.link(page, **{name: run.id})
        rows = [("id", run.id), ("finished", f"{str(run.finished)[:19].replace('T', ' ')} UTC")]
        rows += user_details.settings_rows(run.config)
        rows += [("seed", str(run.seed))] if run.seed is not None else []
        rows += user_details.settings_rows(run.cost, "cost: ")
        rows += user_details.settings_rows(dict(run.versions), "version of ")
        st.dataframe(pd.DataFrame(rows, columns=["Setting", "Value"]), hide_index=True)
    if run.kind == "selection":
        inside = user_details.trained_on(engine.root(), run.id, user)
        st.caption(
            ":material/check: This user was among those who trained the adapter."
            if inside
            else ":material/block: This user did not train the adapter; the prompt was only mapped."
        )


def _cost(run: user_details.Run) -> str:
    elsewhere = run.cost.get("fitting_seconds")
    parts = [f"{run.seconds:,.1f} s on {run.device}" if run.seconds is not None else ""]
    if elsewhere is not None:
        parts = [f"fitted before it was imported, in {elsewhere:,.1f} s"]
    if run.cost.get("users_trained"):
        parts.append(f"{run.cost['users_trained']:,} users trained")
    return " · ".join(part for part in parts if part)


def _tables(setting: user_details.Setting) -> dict[str, user_details.Method]:
    ordered = sorted(setting.with_prompts(), key=lambda method: rank(method.kind))
    return {str(method.prompts): method for method in ordered}
