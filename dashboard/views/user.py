"""User: what is known of one user, what each method predicts, and where the prompt is from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import (
    figures,
    glossary,
    page_states,
    query_params,
    user_figures,
    user_sections,
)
from dashboard.components.formatting import escaped, short
from dashboard.components.theme import rank
from dashboard.engine import METRICS, user_details

VIEWS = {
    "items": "Held-out items",
    "history": "History",
    "neighbours": "Neighbours",
    "what-if": "What if",
    "lineage": "Lineage",
}
BIAS = "User + item bias"
GLOSSARY = ("held-out", "source prompts", "migrated", "retrained", "baseline", "lineage", "rmse")


@page_states.guarded
def page() -> None:
    """Draw the page."""
    st.title("User")
    found = user_details.settings()
    if not found:
        page_states.empty(
            "Nobody to look at yet",
            "Users appear here when prompts were fitted or imported: fit some on Models.",
            icon=":material/person_off:",
        )
        pages.link("models", label="Fit prompts")
        return
    setting, user = _choose(found)
    st.header(escaped(f"User {user}"), divider="gray", anchor=False)
    records = user_details.records(engine.root(), setting.dataset, user)
    _cards(records, setting)
    view = query_params.segment("View", VIEWS, "view", label_visibility="collapsed")
    with page_states.caught("This part cannot be shown."):
        _view(view, records, setting, user)
    glossary.glossary("soft prompt", *GLOSSARY)


def _view(
    view: str | None, records: pd.DataFrame, setting: user_details.Setting, user: str
) -> None:
    if view == "history":
        _history(records, setting)
    elif view == "neighbours":
        user_sections.neighbours(setting, user)
    elif view == "what-if":
        user_sections.what_if(setting, user)
    elif view == "lineage":
        user_sections.lineage(setting, user)
    else:
        _held_out(records, setting, user)


def _choose(found: list[engine.Run]) -> tuple[user_details.Setting, str]:
    """The comparison and the user that the address names, or others that are chosen."""
    left, middle, right = st.columns([3, 2, 3])
    names = {
        run.id: run.name if run.kind == "comparison" else f"{run.name} (no comparison yet)"
        for run in found
    }
    with left:
        chosen = query_params.choose(
            "Comparison", list(names), "comparison", labels=names, default=_on_data_set(found)
        )
    setting = user_details.setting(next(run for run in found if run.id == chosen))
    tables = [str(method.prompts) for method in setting.with_prompts()]
    with middle:
        text = st.text_input(
            "Find a user",
            key="user_search",
            placeholder="Beginning of an id",
            icon=":material/search:",
            max_chars=query_params.LONGEST,
            on_change=_take_exact,
            args=(tables,),
        )
    known = user_details.find_users(tables, text[: query_params.LONGEST])
    given = query_params.read("user", lambda user: user_details.is_user(tables, user))
    options = list(dict.fromkeys([*([given] if given else []), *known]))
    if text and not known:
        middle.caption(f"No user id begins with “{escaped(text, 30)}”.")
    if not options:
        options = user_details.find_users(tables, "")
    with right:
        user = query_params.choose(
            "User",
            options,
            "user",
            help=f"The first {user_details.MOST_FOUND} ids that begin with what you look for.",
        )
    return setting, user


def _on_data_set(found: list[engine.Run]) -> str | None:
    """The newest comparison on the data set that the address names, as links from Data do."""
    wanted = st.query_params.get("dataset")
    return next((run.id for run in found if wanted == user_details.dataset_of(run)), None)


def _take_exact(tables: list[str]) -> None:
    """A whole id that was typed is the choice."""
    text = str(st.session_state["user_search"]).strip()
    if text and user_details.is_user(tables, text):
        query_params.write("user", text)


def _cards(records: pd.DataFrame, setting: user_details.Setting) -> None:
    held = records["split"] == setting.split
    outcome = records["outcome"].astype(np.float64)
    unit = "★" if setting.task == "rating" else "clicked"
    columns = st.columns(4)
    columns[0].metric(
        "Records the models know",
        f"{int((records['split'] == 'train').sum())}",
        border=True,
        help="Rows of the train split: prompts are learnt from them.",
    )
    columns[1].metric(
        f"Held out ({setting.split})",
        f"{int(held.sum())}",
        border=True,
        help=glossary.term("held-out"),
    )
    if records.empty:
        return
    mean = f"{outcome.mean():.2f} {unit}" if unit == "★" else f"{outcome.mean():.0%} {unit}"
    columns[2].metric("Usually gives", mean, border=True, help="Mean of all records of the user.")
    columns[3].metric(
        "Spread",
        f"{outcome.std(ddof=0):.2f} {unit if unit == '★' else ''}",
        border=True,
        help=f"Standard deviation of the user's outcomes. {glossary.term('variance')}",
    )


def _held_out(records: pd.DataFrame, setting: user_details.Setting, user: str) -> None:
    evaluated = {str(method.evaluation): method for method in setting.evaluated()}
    if not evaluated:
        page_states.empty(
            "Nothing is evaluated yet",
            "Evaluate prompts of this data set to see their predictions of held-out items.",
        )
        return
    chosen = query_params.choose_many(
        "Methods",
        list(evaluated),
        "method",
        labels={key: method.label for key, method in evaluated.items()},
        default=_usual(setting),
    )
    methods = sorted((evaluated[one] for one in chosen), key=lambda method: rank(method.kind))
    if not methods:
        st.info("Choose at least one method.", icon=":material/touch_app:")
        return
    keys = tuple(str(method.evaluation) for method in methods)
    joined = user_details.predictions(engine.root(), keys, user)
    if joined.empty:
        page_states.empty(
            "No held-out items",
            f"This user has no {setting.split} records, so no prediction can be checked.",
        )
        return
    titles = dict(zip(records["item_id"], records["title"], strict=True))
    table = user_figures.items_table(joined, titles, setting.task, methods)
    _scores(setting, methods, joined, table, user)
    _items(setting, methods, table)


def _usual(setting: user_details.Setting) -> list[str]:
    """The evaluations shown at first: one of each main kind, and the bias baseline."""
    first: dict[str, str] = {}
    for method in setting.evaluated():
        if method.kind in ("source", "migrated", "retrained") or method.label == BIAS:
            first.setdefault(method.kind, str(method.evaluation))
    return list(first.values())


def _scores(
    setting: user_details.Setting,
    methods: list[user_details.Method],
    joined: pd.DataFrame,
    table: pd.DataFrame,
    user: str,
) -> None:
    keys = tuple(str(method.evaluation) for method in methods)
    scores = user_details.user_scores(engine.root(), keys, user).set_index("evaluation")
    main, truth = setting.main_metric, joined["outcome"].to_numpy(np.float64)
    closest = table["Closest"].value_counts().reindex([m.label for m in methods], fill_value=0)
    rows = []
    for method in methods:
        if method.evaluation not in scores.index:
            continue
        score = scores.loc[method.evaluation]
        own = joined[method.evaluation].to_numpy(np.float64)
        there = np.isfinite(own)
        low, high = user_details.interval(setting.task, main, truth[there], own[there])
        row: dict[str, object] = {"Method": method.label}
        for metric in (name for name in METRICS if name in scores.columns):
            row[METRICS[metric].axis] = score[metric]
            if metric == main and np.isfinite(low):
                row["95 % interval"] = f"{low:.3f} to {high:.3f}"
        row |= {"Closest": f"{closest[method.label]} of {len(joined)}"}
        rows.append(row | {"Held-out rows": int(score["n"])})
    if not rows:
        return
    st.markdown("##### How well each method knows this user")
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={
            metric.axis: st.column_config.NumberColumn(
                metric.heading, format="%.3f", help=metric.axis
            )
            for metric in METRICS.values()
        }
        | {
            "Closest": st.column_config.TextColumn(
                help="On how many items this method is nearer to the truth than the others."
            )
        },
    )
    st.caption(
        f"From {len(joined)} held-out rows of this user alone, so small differences say little; the "
        "interval is from resampling these rows."
    )


def _items(
    setting: user_details.Setting, methods: list[user_details.Method], table: pd.DataFrame
) -> None:
    shown = min(len(table), user_figures.MOST_DRAWN)
    figures.show(
        user_figures.items_figure(table, methods),
        table,
        "user-items",
        title="Where the methods agree with the user, and where they do not"
        + (f" (the {shown} items they differ on most)" if shown < len(table) else ""),
        x="Rating (stars)" if setting.task == "rating" else "Probability of a click",
        height=user_figures.height_of(len(table), len(methods)),
    )
    form = "%.2f" if setting.task == "rating" else "percent"
    right = "nearest star" if setting.task == "rating" else "likelier answer"
    st.dataframe(
        table,
        hide_index=True,
        column_order=[name for name in table if name != "Closest"],
        column_config={
            "Item": st.column_config.TextColumn(width=260),
            "Truth": st.column_config.NumberColumn(format="%.4g", width=60),
            "Right": st.column_config.TextColumn(help=f"Methods whose {right} is the true one."),
        }
        | {
            method.label: st.column_config.NumberColumn(
                short(method.label, 28), format=form, width=100, help=short(method.label)
            )
            for method in methods
        },
    )


def _history(records: pd.DataFrame, setting: user_details.Setting) -> None:
    if records.empty:
        page_states.empty("No records", "The data set holds no records of this user.")
        return
    figures.show(
        user_figures.outcomes_figure(records, setting.task),
        records.drop(columns="item_id"),
        "user-history",
        title="What this user usually gives",
        x="Rating" if setting.task == "rating" else "Outcome",
        y="Records",
        height=260,
    )
    rows = records[records["split"] != setting.split]
    shown = rows.rename(columns={"title": "Item", "outcome": "Outcome", "split": "Split"})
    if "time" in shown:
        shown["When"] = pd.to_datetime(shown.pop("time"), unit="s")
    st.markdown(f"##### {len(rows)} records that the models may learn from")
    st.dataframe(
        shown.drop(columns="item_id"),
        hide_index=True,
        column_config={
            "Item": st.column_config.TextColumn(width="large"),
            "Outcome": st.column_config.NumberColumn(
                "Rating (stars)" if setting.task == "rating" else "Clicked", format="%.4g"
            ),
            "Split": st.column_config.TextColumn(
                help="train: learnt from; validation: chooses the best epoch."
            ),
        },
    )
