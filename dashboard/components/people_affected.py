"""People, "Most affected": who is surely, likely or perhaps served worse than by the reference."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, ProgressColumn, TextColumn

from dashboard import engine, pages
from dashboard.components import figures, page_states, people_maps, query_params, tables
from dashboard.components.formatting import escaped, mid_sentence, short
from dashboard.components.glossary import term
from dashboard.components.people_views import View
from dashboard.engine import people
from dashboard.engine.people import Affected, Subject

GROUPS = {"surely": "Surely", "likely": "Likely", "unknown": "Cannot be told"}
HEIGHT = 390


def show(
    subject: Subject, known: dict[str, str], view: View | None, rows: np.ndarray
) -> str | None:
    """List who is most affected, among the selected users if there are some; return a clicked id.

    known: names of prompt tables by id. rows: the selected rows of the view.
    """
    st.markdown("## Most affected", help=term("regress"))
    pair = subject.pair
    if pair is None:
        _nothing_to_compare(subject)
        return None
    affected = people.affected(engine.root(), pair)
    reference = people.name_of(pair.reference, known)
    if affected is None:
        page_states.failed(
            "The predictions behind this comparison are gone.", "Evaluate the prompts again."
        )
        return None
    method, other = people.brief(subject.label), mid_sentence(people.brief(reference))
    st.caption(f"{escaped(method, 60)}: worse off than with {escaped(other, 60)}")
    frame, counts = affected.frame, dict(affected.counts)
    chosen_only = view is not None and len(rows) > 0 and affected.exact
    if chosen_only and view is not None:
        frame = frame.iloc[people.rows_of(frame, view.frame.iloc[rows])]
        groups = frame["certainty"].value_counts()
        counts = {name: int(groups.get(name, 0)) for name in counts}
    labels = {name: f"{text} · {counts[name]:,}" for name, text in GROUPS.items()}
    first = next((name for name in GROUPS if counts[name]), "surely")
    group = query_params.segment(
        "How sure", labels, "affected", default=first, follows=True, label_visibility="collapsed"
    )
    listed = frame[frame["certainty"] == group].head(people.LISTED_USERS)
    clicked = None
    if listed.empty:
        st.caption("Nobody is in this group.")
    else:
        event = tables.show(
            _table(listed),
            COLUMNS | {"Change": _change(pair.ratings)},
            key=f"affected-{group}-{people_maps.opened()}",
            on_select="rerun",
            selection_mode="single-cell",
            height=tables.height(len(listed), HEIGHT),
            alt=f"{GROUPS[group]}: users with the change of their error and its probability",
        )
        row = tables.clicked_row(event, len(listed))
        clicked = None if row is None else str(listed["user_id"].iloc[row])
    st.caption(_explanation(affected, counts, len(listed), group, chosen_only))
    figures.downloads(lambda: frame.drop(columns=["expected", "difference"]), "most-affected")
    return clicked


def _nothing_to_compare(subject: Subject) -> None:
    """Say why nobody can be called worse off, and what to do."""
    if subject.comparison is None:
        with st.container(border=True):
            st.markdown(
                ":material/compare_arrows: Who is worse off is told by a comparison with full "
                "retraining. These prompts are in none yet."
            )
            pages.link("compare", label="Compare methods")
    else:
        st.caption("Other methods are compared with this one, so nobody is worse off.")


def _table(listed: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "User": [short(user) for user in listed["user_id"]],
            "Change": listed["gap"].to_numpy(),
            "Probability": 100 * listed["probability"].to_numpy(),
        }
    )


COLUMNS = {
    "User": TextColumn(help="Click a row to open the person."),
    "Probability": ProgressColumn(
        min_value=0.0,
        max_value=100.0,
        format="%.0f %%",
        help="Probability that this person's error really grows by more than "
        f"5 % of the mean error, given the few held-out records. {term('regress')}",
    ),
}


def _change(ratings: bool) -> Any:
    metric = "RMSE" if ratings else "log loss"
    return NumberColumn(
        f"More error ({'stars' if ratings else metric})",
        format="%+.3f",
        help=f"How much larger the person's {metric} on held-out records is than with the reference.",
    )


def _explanation(
    affected: Affected,
    counts: dict[str, int],
    listed: int,
    group: str,
    chosen_only: bool,
) -> str:
    """Say what the groups are and how they are told apart, as markdown."""
    among = "Among the selected users. " if chosen_only else ""
    shown = f"The first {listed:,} are listed. " if listed < counts[group] else ""
    approximately = "" if affected.exact else "about "
    n_sure, n_likely, rest = (
        f"{100 * level:.0f}\N{NO-BREAK SPACE}%"
        for level in (people.SURE, people.LIKELY, 1 - people.LIKELY)
    )
    return (
        f"{among}{shown}A person has few held-out records, so each change is weighed against chance. "
        f"*Surely*: with a probability of {n_sure} or more; *likely*: "
        f"{n_likely} or more; between {rest} and {n_likely} it cannot be told. The other {approximately}"
        f"{counts['unlikely']:,} are likely not worse off."
    )


def certainty(subject: Subject, user: str) -> tuple[str, float] | None:
    """Return the certainty of a user (a name of CERTAINTIES) and the probability to regress."""
    pair = subject.pair
    affected = None if pair is None else people.affected(engine.root(), pair)
    if affected is None:
        return None
    rows = affected.frame[affected.frame["user_id"] == user]
    if rows.empty:
        return None
    return str(rows["certainty"].iloc[0]), float(rows["probability"].iloc[0])
