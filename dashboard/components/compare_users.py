"""Who gains and who loses by a migration, user by user and group by group."""

from __future__ import annotations

from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import compare_figures, figures, page_states, query_params
from dashboard.components.compare_methods import ordered
from dashboard.engine import Run, comparisons, user_impact
from dashboard.engine.user_impact import Gains, Pair

GROUPS = {
    "variance": "Variance of ratings",
    "train_rows": "Activity (train rows)",
    "cluster": "Cluster of source prompts",
}

COLUMNS = {
    "Open": st.column_config.LinkColumn(
        display_text=":material/person_search:", help="Open this user's page."
    ),
    "Probability": st.column_config.ProgressColumn(
        "Probability to regress",
        min_value=0.0,
        max_value=1.0,
        format="percent",
        help="That the user's true loss grows by more than 5 % of the baseline's mean loss, given "
        "the own rows and how all users differ.",
    ),
    "Baseline": st.column_config.NumberColumn(format="%.3f"),
    "Method": st.column_config.NumberColumn(format="%.3f"),
    "Difference": st.column_config.NumberColumn(format="%+.3f"),
}


def show(run: Run) -> None:
    """Draw the section."""
    methods, _ = comparisons.tables(engine.root(), run.id)
    methods = ordered(methods)
    base = methods[methods["is_baseline"].astype(bool)].iloc[0]
    others = methods[
        (methods["kind"] != "baseline") & (methods["evaluation"] != base["evaluation"])
    ]
    if others.empty:
        page_states.empty("Nobody to set against", "Compare a migration with full retraining.")
        return
    chosen = _method(run, others, base["method"])
    pair = user_impact.Pair(run.id, chosen, base["evaluation"], run.summary["task"] == "rating")
    found = user_impact.gains(engine.root(), pair)
    if found is None:
        page_states.failed(
            "The predictions behind this comparison are gone.", "Evaluate them again."
        )
        return
    unit = "RMSE of the user (stars)" if pair.ratings else "log loss of the user"
    _summary(found)
    left, right = st.columns(2)
    with left:
        _scatter(found, unit)
    with right:
        figures.show(
            compare_figures.histogram(found.bars),
            found.bars,
            "user-differences",
            title="How far users move: left of zero they are better off than under the baseline",
            x=f"Difference of {unit}",
            y="Users",
        )
    _groups(pair, methods.set_index("evaluation").loc[chosen, "run"])
    _regressing(pair, found)


def _method(run: Run, others: pd.DataFrame, baseline: str) -> str:
    """The evaluation that is set against the baseline; first that of the verdict."""
    labels = dict(zip(others["evaluation"], others["method"], strict=True))
    judged = comparisons.verdict(engine.root(), run.id).method
    migrated = others.loc[others["kind"] == "migrated", "evaluation"].tolist()
    default = next((one for one in labels if labels[one] == judged), next(iter(migrated), None))
    left, right = st.columns(2)
    with left:
        chosen = query_params.choose(
            "Method", list(labels), "user_method", labels=labels, default=default
        )
    with right:
        st.caption("Set against the pinned baseline")
        st.text(baseline)
    return chosen


def _summary(found: Gains) -> None:
    with st.container(horizontal=True):
        st.metric("Better off", f"{found.better:.0%}", border=True)
        st.metric("Worse off", f"{found.worse:.0%}", border=True)
        st.metric(
            f"Surely regress ({user_impact.SURE:.0%} or more)",
            f"{found.sure:,} of {found.users:,}",
            border=True,
            help="Most single differences are chance, because a user has few held-out rows. These "
            "users lose more than chance explains.",
        )
        if found.repeated is not None:
            seen = found.repeated
            st.metric(
                "Do the worst stay worse?",
                f"{seen.value:+.3f} [{seen.low:+.3f}, {seen.high:+.3f}]",
                border=True,
                help="The tenth of users that lose most on one half of their rows: their mean "
                "difference of losses on the other half. Around 0, their loss was chance.",
            )


def _scatter(found: Gains, unit: str) -> None:
    if len(found.points) < found.users:
        st.caption(f"A random {len(found.points):,} of {found.users:,} users are drawn.")
    figures.show(
        compare_figures.user_scatter(found.points, "Baseline", "Method"),
        found.points,
        "user-scatter",
        title="Each user under both: points below the line are better off",
        x=f"Baseline: {unit}",
        y=f"Method: {unit}",
    )


def _groups(pair: Pair, migration: str | None) -> None:
    st.subheader("Which groups gain or lose", divider="gray")
    by = query_params.segment("Group users by", GROUPS, "group")
    grouping = by
    if by == "cluster":
        known = user_impact.clusterings(migration)
        if not known:
            page_states.empty(
                "No clusters here",
                "Choose users with a k-means strategy, such as `puma select RUN --strategy "
                "kmeans-variance --share 0.1`, to see clusters.",
            )
            return
        grouping = known[0].id
    table = user_impact.groups(engine.root(), pair, grouping)
    figures.show(
        compare_figures.group_differences(table),
        table,
        f"groups-{by}",
        title="Difference by group: intervals left of zero gain, right of zero lose",
        x="Difference of pooled RMSE (stars)" if pair.ratings else "Difference of mean log loss",
        y=GROUPS[by],
        height=max(260, 90 + 26 * len(table)),
    )


def _regressing(pair: Pair, found: Gains) -> None:
    st.subheader("Who regresses most", divider="gray")
    table = listed(found.listed, pair.run)
    st.dataframe(
        table if "user" in pages.PAGES else table.drop(columns="Open"),
        hide_index=True,
        height=380,
        column_config=COLUMNS,
    )
    st.caption(
        f"The {len(table):,} users most likely to regress, of {found.users:,}; "
        + ("RMSE in stars." if pair.ratings else "log loss.")
    )
    figures.downloads(lambda: user_impact.everybody(engine.root(), pair), "users")


def listed(users: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Return the table of users as shown, with the address of each one's page."""
    return pd.DataFrame(
        {
            "Open": [
                "user?" + urlencode({"user": user, "comparison": comparison})
                for user in users["user_id"]
            ],
            "User": users["user_id"].to_numpy(),
            "Held-out rows": users["n"].to_numpy(),
            "Baseline": users["first"].to_numpy(),
            "Method": users["second"].to_numpy(),
            "Difference": users["gap"].to_numpy(),
            "Probability": users["probability"].to_numpy(),
        }
    )
