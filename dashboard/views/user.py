"""User: records, predictions, neighbours, what-if questions and prompt lineage of one user."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    glossary,
    page_states,
    published,
    query_params,
    tables,
    user_predictions,
    user_prompts,
)
from dashboard.components.formatting import escaped
from dashboard.engine import user_details
from dashboard.engine.user_details import UserContext

VIEWS = {
    "items": "Held-out items",
    "history": "History",
    "neighbours": "Neighbours",
    "what-if": "What if",
    "lineage": "Lineage",
}


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("Person")
    contexts = user_details.context_runs()
    if not contexts:
        page_states.empty(
            "No users yet",
            "Users appear here when prompts are fitted or imported. Fit some on the page Models.",
            icon=":material/person_off:",
        )
        pages.link("models", label="Fit prompts")
        return
    context, user = _choose(contexts)
    published.mark(engine.run(context.id))
    st.header(escaped(f"User {user}"), divider="gray", anchor=False)
    records = user_details.records(engine.root(), context.dataset, user)
    _metrics(records, context)
    view = query_params.segment("View", VIEWS, "view", label_visibility="collapsed")
    with page_states.caught("This part cannot be shown."):
        if view == "history":
            user_predictions.history(records, context)
        elif view == "neighbours":
            user_prompts.neighbours(context, user)
        elif view == "what-if":
            user_prompts.what_if(context, user)
        elif view == "lineage":
            user_prompts.lineage(context, user)
        else:
            user_predictions.held_out(records, context, user)
    glossary.show_glossary(
        "soft prompt",
        "held-out",
        "source prompts",
        "migrated",
        "retrained",
        "baseline",
        "lineage",
        "rmse",
    )


def _choose(contexts: list[engine.Run]) -> tuple[UserContext, str]:
    """Draw the widgets that choose a comparison (or data set) and a user."""
    left, middle, right = st.columns([3, 2, 3])
    names = {
        run.id: run.name if run.kind == "comparison" else f"{run.name} (no comparison yet)"
        for run in contexts
    }
    # Links from the page Data name a data set, not a comparison.
    dataset = st.query_params.get("dataset")
    default = (run.id for run in contexts if dataset == user_details.dataset_of(run))
    with left:
        chosen = query_params.choose(
            "Comparison", list(names), "comparison", labels=names, default=next(default, None)
        )
    context = user_details.context_of(next(run for run in contexts if run.id == chosen))
    prompts = [str(method.prompts) for method in context.with_prompts()]

    def choose_exact() -> None:
        """Choose the user if the search text is a complete id."""
        text = str(st.session_state["user_search"]).strip()
        if text and user_details.is_user(prompts, text):
            query_params.write("user", text)

    with middle:
        text = st.text_input(
            "Find a user",
            key="user_search",
            placeholder="Beginning of an id",
            icon=":material/search:",
            max_chars=query_params.MAX_LENGTH,
            on_change=choose_exact,
        )
    matches = user_details.find_users(prompts, text[: query_params.MAX_LENGTH])
    given = query_params.read("user", lambda user: user_details.is_user(prompts, user))
    options = list(dict.fromkeys([*([given] if given else []), *matches]))
    if text and not matches:
        middle.caption(f"No user id begins with “{escaped(text, 30)}”.")
    options = options or user_details.find_users(prompts, "")
    with right:
        user = query_params.choose(
            "User",
            options,
            "user",
            help=f"The first {user_details.MAX_MATCHES} ids that begin with the search text.",
        )
    return context, user


def _metrics(records: pd.DataFrame, context: UserContext) -> None:
    split, outcome = records["split"], records["outcome"].astype(np.float64)
    values: dict[str, tuple[str, str | None]] = {
        "Training records": (
            f"{int((split == 'train').sum())}",
            "Rows of the train split, which prompts are fitted on.",
        ),
        f"Held out ({context.split})": (
            f"{int((split == context.split).sum())}",
            glossary.term("held-out"),
        ),
    }
    if len(records):
        rating = context.task == "rating"
        values["Mean outcome"] = (
            f"{outcome.mean():.2f} ★" if rating else f"{outcome.mean():.0%} clicked",
            "Mean of all records of the user.",
        )
        values["Standard deviation"] = (
            f"{outcome.std(ddof=0):.2f} {'★' if rating else ''}",
            f"Of the user's outcomes. {glossary.term('variance')}",
        )
    tables.metrics(values)
