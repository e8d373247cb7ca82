"""Who gains and who loses by a migration, user by user and group by group."""

from __future__ import annotations

from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import address, compare_figures, figures, states
from dashboard.components.compare_methods import ordered
from dashboard.engine import Run, comparing

MOST_POINTS = 20_000
MOST_LISTED = 200
GROUPS = {
    "variance": "Variance of ratings",
    "activity": "Activity (train rows)",
    "cluster": "Cluster of source prompts",
}


def show(run: Run) -> None:
    """Draw the section."""
    methods, _ = comparing.tables(engine.root(), run.id)
    methods = ordered(methods)
    base = methods[methods["is_baseline"].astype(bool)].iloc[0]
    others = methods[
        (methods["kind"] != "baseline") & (methods["evaluation"] != base["evaluation"])
    ]
    if others.empty:
        states.empty("Nobody to set against", "Compare a migration with full retraining.")
        return
    chosen = _method(run, others, base["method"])
    found = comparing.effects(engine.root(), run.id, chosen, base["evaluation"])
    if found is None:
        states.failed("The predictions behind this comparison are gone.", "Evaluate them again.")
        return
    ratings = run.summary["task"] == "rating"
    users = with_values(found.frame, ratings=ratings)
    unit = "RMSE of the user (stars)" if ratings else "Log loss of the user"
    _summary(users, found)
    left, right = st.columns(2)
    with left:
        _scatter(users, unit)
    with right:
        figure, bars = compare_figures.histogram(users["gap"].to_numpy())
        figures.show(
            figure,
            bars,
            "user-differences",
            title="How far users move: left of zero they are better off than under the baseline",
            x=f"Difference of {unit[0].lower() + unit[1:] if not ratings else unit}",
            y="Users",
        )
    _groups(run, chosen, methods, users, ratings)
    _regressing(run, users, ratings)


def _method(run: Run, others: pd.DataFrame, baseline: str) -> str:
    """The evaluation that is set against the baseline; first that of the verdict."""
    labels = dict(zip(others["evaluation"], others["method"], strict=True))
    judged = comparing.verdict(engine.root(), run.id).method
    migrated = others.loc[others["kind"] == "migrated", "evaluation"].tolist()
    default = next((one for one in labels if labels[one] == judged), next(iter(migrated), None))
    left, right = st.columns(2)
    with left:
        chosen = address.choose(
            "Method", list(labels), "user_method", labels=labels, default=default
        )
    with right:
        st.caption("Set against the pinned baseline")
        st.text(baseline)
    return chosen


def with_values(frame: pd.DataFrame, *, ratings: bool) -> pd.DataFrame:
    """Return users with values as people read them: RMSE of ratings, log loss of clicks."""
    root = np.sqrt if ratings else np.asarray
    first, second = root(frame["reference"]), root(frame["loss"])
    return frame.assign(first=first, second=second, gap=second - first)


def _summary(users: pd.DataFrame, found: comparing.UserEffects) -> None:
    sure = len(found.worse())
    with st.container(horizontal=True):
        st.metric("Better off", f"{(users['gap'] < 0).mean():.0%}", border=True)
        st.metric("Worse off", f"{(users['gap'] > 0).mean():.0%}", border=True)
        st.metric(
            f"Surely regress ({comparing.SURE:.0%} or more)",
            f"{sure:,} of {len(users):,}",
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


def _scatter(users: pd.DataFrame, unit: str) -> None:
    drawn = users
    if len(users) > MOST_POINTS:
        drawn = users.sample(MOST_POINTS, random_state=0)
        st.caption(f"A random {MOST_POINTS:,} of {len(users):,} users are drawn.")
    points = drawn[["n", "first", "second"]].rename(
        columns={"first": "reference", "second": "value"}
    )
    figures.show(
        compare_figures.user_scatter(points, "Baseline", "Method"),
        drawn,
        "user-scatter",
        title="Each user under both: points below the line are better off",
        x=f"Baseline: {unit}",
        y=f"Method: {unit}",
    )


def _groups(
    run: Run, evaluation: str, methods: pd.DataFrame, users: pd.DataFrame, ratings: bool
) -> None:
    st.subheader("Which groups gain or lose", divider="gray")
    by = address.segment("Group users by", GROUPS, "group")
    labels = _labels(run, by, methods.set_index("evaluation").loc[evaluation, "run"])
    if labels is None:
        states.empty(
            "No clusters here",
            "Choose users with a k-means strategy, such as `puma select RUN --strategy "
            "kmeans-variance --share 0.1`, to see clusters.",
        )
        return
    table = comparing.by_group(users, labels, root=ratings).rename(columns={"group": "label"})
    table["label"] = table["label"].astype(str)
    figures.show(
        compare_figures.group_differences(table),
        table,
        f"groups-{by}",
        title="Difference by group: intervals left of zero gain, right of zero lose",
        x="Difference of pooled RMSE (stars)" if ratings else "Difference of mean log loss",
        y=GROUPS[by],
        height=max(260, 90 + 26 * len(table)),
    )


def _labels(run: Run, by: str, migration: str | None) -> pd.Series | None:
    """The group of each user, by user id, named so that sorting by name is right."""
    if by == "cluster":
        found = comparing.clusterings(migration)
        if not found:
            return None
        return comparing.clusters(found[0].id).map(lambda one: f"Cluster {one + 1:02}")
    users = comparing.users(engine.root(), run.id)
    assert users is not None  # its effects were shown above
    column = "variance" if by == "variance" else "train_rows"
    return comparing.quantile_groups(users.set_index("user_id")[column])


def _regressing(run: Run, users: pd.DataFrame, ratings: bool) -> None:
    st.subheader("Who regresses most", divider="gray")
    table = listed(users.head(MOST_LISTED), run.id, ratings=ratings)
    st.dataframe(
        table if "user" in pages.PAGES else table.drop(columns="Open"),
        hide_index=True,
        height=380,
        column_config={
            "Open": st.column_config.LinkColumn(
                display_text=":material/person_search:", help="Open this user's page."
            ),
            "Probability": st.column_config.ProgressColumn(
                "Probability to regress",
                min_value=0.0,
                max_value=1.0,
                format="percent",
                help="That the user's true loss grows by more than 5 % of the baseline's mean "
                "loss, given the own rows and how all users differ.",
            ),
            "Baseline": st.column_config.NumberColumn(format="%.3f"),
            "Method": st.column_config.NumberColumn(format="%.3f"),
            "Difference": st.column_config.NumberColumn(format="%+.3f"),
        },
    )
    st.caption(
        f"The {len(table):,} users most likely to regress, of {len(users):,}; "
        + ("RMSE in stars." if ratings else "log loss.")
    )
    figures.downloads(users, "users")


def listed(users: pd.DataFrame, comparison: str, *, ratings: bool) -> pd.DataFrame:
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
