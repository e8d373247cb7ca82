"""People, the drawer of one person: what happened, records, neighbours, what-if, lineage."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import (
    glossary,
    page_states,
    people_affected,
    person_story,
    query_params,
    user_predictions,
    user_prompts,
)
from dashboard.components.formatting import escaped, mid_sentence, percent
from dashboard.engine import people, user_details
from dashboard.engine.people import Subject
from dashboard.engine.user_details import UserContext

VIEWS = {
    "items": "Held-out items",
    "history": "History",
    "neighbours": "Neighbours",
    "what-if": "What if",
    "lineage": "Lineage",
}
# What the address says of the drawer alone.
PARAMETERS = ("view", "methods", "space", "beside", "run", "prompts")
WIDTH = 780  # pixels
CERTAINTY = {
    "surely": ":red[:material/trending_down:] Surely worse off",
    "likely": ":orange[:material/trending_down:] Likely worse off",
    "unknown": ":material/help: Whether this person is worse off cannot be told",
    "unlikely": ":material/check: Likely not worse off",
}


def close() -> None:
    """Take the person out of the address."""
    query_params.forget(*PARAMETERS)
    query_params.write("user", None)
    query_params.write("title", None)
    st.session_state.pop(user_prompts.TITLE_KEY, None)


def show(subject: Subject, known: dict[str, str], user: str) -> None:
    """Open the drawer. known: names of prompt tables by id."""

    def draw() -> None:
        with page_states.caught("This person cannot be shown."):
            _person(subject, known, user)

    st.dialog(escaped(f"User {user}"), width=WIDTH, position="right", on_dismiss=close)(draw)()


def _person(subject: Subject, known: dict[str, str], user: str) -> None:
    context = user_details.context_of(subject.comparison or engine.run(subject.dataset), known)
    records = user_details.records(engine.root(), subject.dataset, user)
    _story(subject, context, known, records, user)
    _metrics(records, context)
    view = query_params.segment("Part", VIEWS, "view", label_visibility="collapsed")
    with page_states.caught("This part cannot be shown."):
        if view == "history":
            user_predictions.history(records, context)
        elif view == "neighbours":
            user_prompts.neighbours(context, user, subject.run.id)
        elif view == "what-if":
            user_prompts.what_if(context, user, subject.run.id)
        elif view == "lineage":
            user_prompts.lineage(context, user, subject.run.id)
        else:
            user_predictions.held_out(records, context, user, subject.evaluation)


def _story(
    subject: Subject,
    context: UserContext,
    known: dict[str, str],
    records: pd.DataFrame,
    user: str,
) -> None:
    """Say in one sentence what the method did to this person, and how sure it is."""
    other = subject.reference or subject.retrained or subject.source_evaluation
    sentence = ""
    if subject.evaluation and other and other != subject.evaluation:
        kinds = {method.evaluation: method.kind for method in context.evaluated()}
        keys = (subject.evaluation, other)
        titles = dict(zip(records["item_id"], records["title"], strict=True))
        sentence = person_story.sentence(
            user,
            user_details.predictions(engine.root(), keys, user),
            titles,
            subject.task,
            method=(subject.evaluation, kinds.get(subject.evaluation, "migrated")),
            other=(other, kinds.get(other, "")),
            other_name=people.brief(people.name_of(other, known)),
        )
    if sentence:
        st.markdown(f"**{escaped(sentence, 400)}**")
    parts = [escaped(people.brief(subject.label), 80)]
    if subject.reference and subject.reference != subject.evaluation:
        other_name = mid_sentence(people.brief(people.name_of(subject.reference, known)))
        parts[0] += f" against {escaped(other_name, 80)}"
    certainty = people_affected.certainty(subject, user)
    if certainty is not None:
        parts.append(f"{CERTAINTY[certainty[0]]} (probability {100 * certainty[1]:.0f} %)")
    st.markdown(" · ".join(parts), help=glossary.term("regress") if certainty else None)


def _metrics(records: pd.DataFrame, context: UserContext) -> None:
    split, outcome = records["split"], records["outcome"].astype(np.float64)
    values: dict[str, tuple[str, str | None]] = {
        "Training records": (
            f"{int((split == 'train').sum())}",
            "Records that prompts are fitted on.",
        ),
        f"Held out ({context.split})": (
            f"{int((split == context.split).sum())}",
            glossary.term("held-out"),
        ),
    }
    if len(records):
        rating = context.task == "rating"
        values["Mean rating" if rating else "Mean outcome"] = (
            f"{outcome.mean():.2f} ★" if rating else f"{percent(outcome.mean())} clicked",
            "Mean of all records of the user.",
        )
        values["Standard deviation"] = (
            f"{outcome.std(ddof=0):.2f} {'★' if rating else ''}",
            f"Of the user's outcomes. {glossary.term('variance')}",
        )
    with st.container(horizontal=True):  # four in a row, and two on a phone
        for label, (value, hint) in values.items():
            st.metric(label, value, help=hint, border=True, width=165)
