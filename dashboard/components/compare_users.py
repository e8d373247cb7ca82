"""Compare, view "Who gains, who loses": the effect of a migration on users and groups of users."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import LinkColumn, NumberColumn, ProgressColumn

from dashboard import engine, pages
from dashboard.components import figures, page_states, query_params, tables
from dashboard.components.compare_methods import in_order
from dashboard.components.formatting import percent
from dashboard.components.theme import KINDS, marker
from dashboard.engine import Run, comparisons, user_impact
from dashboard.engine.user_impact import EvaluationPair, UserImpact

GROUPS = {
    "variance": "Variance of ratings (squared stars)",
    "train_rows": "Activity (train rows)",
    "cluster": "Cluster of source prompts",
}
SHOWN = {
    "user_id": "User",
    "n": "Held-out rows",
    "first": "Baseline",
    "second": "Method",
    "gap": "Difference",
    "probability": "Probability",
}
COLUMNS = {
    "Open": LinkColumn(display_text=":material/person_search:", help="Open this user's page."),
    "Probability": ProgressColumn(
        "Probability of regressing",
        min_value=0.0,
        max_value=100.0,
        format="%.0f %%",
        help="Probability that the user's true loss grows by more than 5 % of the baseline's mean "
        "loss, given the user's rows and how much all users differ.",
    ),
}


def show(run: Run) -> None:
    """Draw the view of a comparison."""
    methods, _ = comparisons.tables(engine.root(), run.id)
    methods = in_order(methods).set_index("evaluation", drop=False)
    baseline = methods[methods["is_baseline"].astype(bool)].iloc[0]
    others = methods[(methods["kind"] != "baseline") & (methods.index != baseline["evaluation"])]
    if others.empty:
        page_states.empty(
            "No method to compare with the baseline", "Compare a migration with full retraining."
        )
        return
    labels = others["method"].to_dict()
    method = comparisons.verdict(engine.root(), run.id).method
    migrated = others.index[others["kind"] == "migrated"]
    default = next((key for key in labels if labels[key] == method), next(iter(migrated), None))
    left, right = st.columns(2)
    with left:
        evaluation = query_params.choose(
            "Method", list(labels), "user_method", labels=labels, default=default
        )
    with right:
        st.caption("Compared with the pinned baseline")
        st.text(baseline["method"])
    pair = EvaluationPair(
        run.id, evaluation, baseline["evaluation"], run.summary["task"] == "rating"
    )
    impact = user_impact.impact(engine.root(), pair)
    if impact is None:
        title = "The predictions behind this comparison are gone."
        page_states.failed(title, "Evaluate the prompts again.")
        return
    unit = "RMSE of the user (stars)" if pair.ratings else "log loss of the user"
    _metrics(impact, ratings=pair.ratings)
    users = impact.effects.users
    points = user_impact.with_values(impact.sample, ratings=pair.ratings)
    left, right = st.columns(2)
    with left:
        if len(points) < users:
            st.caption(f"A random {len(points):,} of {users:,} users are drawn.")
        figures.show(
            user_scatter(points),
            points,
            "user-scatter",
            title="Each user with both methods: points below the line are better off",
            x=f"Baseline: {unit}",
            y=f"Method: {unit}",
        )
    with right:
        figures.show(
            histogram(impact.bars),
            impact.bars,
            "user-differences",
            title="Difference of each user: left of zero is better than the baseline",
            x=f"Difference of {unit}",
            y="Users",
        )
    _groups(pair, methods.loc[evaluation, "run"])
    st.subheader("Users who regress most", divider="gray")
    listed = impact.effects.frame.head(user_impact.LISTED_USERS)
    listed = user_impact.with_values(listed, ratings=pair.ratings)
    target = {"comparison": run.id, "method": evaluation}
    addresses = [pages.url("users", **target, user=user) for user in listed["user_id"]]
    listed = listed.assign(Open=addresses, probability=100 * listed["probability"])
    table = listed[["Open", *SHOWN]].rename(columns=SHOWN)
    short_unit = "stars" if pair.ratings else "log loss"
    forms = {"Baseline": "%.3f", "Method": "%.3f", "Difference": "%+.3f"}
    losses = {
        name: NumberColumn(f"{name} ({short_unit})", format=form, help=unit)
        for name, form in forms.items()
    }
    tables.show(table, COLUMNS | losses, height=380)
    st.caption(
        f"The {len(table):,} users most likely to regress, of {users:,}; "
        + ("RMSE in stars." if pair.ratings else "log loss.")
    )
    figures.downloads(lambda: user_impact.all_users(engine.root(), pair), "users")


def _metrics(impact: UserImpact, *, ratings: bool) -> None:
    effects, mean = impact.effects, impact.effects.repeated
    chance = (
        "Most differences of single users are chance, because a user has few held-out rows. These "
        "users lose more than chance explains."
    )
    values: dict[str, tuple[str, str | None]] = {
        "Better off": (percent(impact.better), None),
        "Worse off": (percent(impact.worse), None),
        f"Regress with {percent(user_impact.SURE)} probability": (
            f"{len(effects.worse()):,} of {effects.users:,}",
            chance,
        ),
    }
    if mean is not None:
        unit = "squared stars" if ratings else "nats"
        values[f"Losses that repeat ({unit})"] = (
            f"{mean.value:+.3f}",
            "The 10 % of users who lose most on one half of their rows: their mean difference of "
            "losses on the other half. Near 0, their loss was chance.",
        )
    tables.metrics(values)
    if mean is not None:
        st.caption(
            f"The 95 % interval of losses that repeat is {mean.low:+.3f} to {mean.high:+.3f} {unit}."
        )


def _groups(pair: EvaluationPair, migration: str | None) -> None:
    st.subheader("Groups that gain or lose", divider="gray")
    groups = GROUPS if pair.ratings else GROUPS | {"variance": "Variance of clicks"}
    by = query_params.segment("Group users by", groups, "group")
    grouping = by
    if by == "cluster":
        clusterings = user_impact.clusterings(migration)
        if not clusterings:
            page_states.empty(
                "No clusters here",
                "Clusters come from a selection with a k-means strategy, such as `puma select RUN "
                "--strategy kmeans-variance --share 0.1`.",
            )
            return
        grouping = clusterings[0].id
    table = user_impact.groups(engine.root(), pair, grouping)
    figures.show(
        group_figure(table),
        table,
        f"groups-{by}",
        title="Difference by group: left of zero gains, right of zero loses",
        x="Difference of pooled RMSE (stars)" if pair.ratings else "Difference of mean log loss",
        y=groups[by],
        height=max(260, 90 + 26 * len(table)),
    )


def user_scatter(users: pd.DataFrame) -> go.Figure:
    """Draw one point per user: its value with both methods, and the diagonal of equal values."""
    figure = go.Figure(
        go.Scattergl(
            x=users["first"].to_numpy(np.float32),
            y=users["second"].to_numpy(np.float32),
            mode="markers",
            name="One user",
            marker={"size": 5, "opacity": 0.5, "color": KINDS["migrated"].colour},
            customdata=users["n"].to_numpy(np.int32),
            hovertemplate="%{customdata} held-out rows<br>"
            "baseline %{x:.3f}, method %{y:.3f}<extra></extra>",
        )
    )
    values = users[["first", "second"]].to_numpy(dtype=float)
    bounds = [np.nanmin(values), np.nanmax(values)] if values.size else [np.nan, np.nan]
    figure.add_scatter(
        x=bounds,
        y=bounds,
        mode="lines",
        name="Equal",
        line=figures.REFERENCE_LINE,
        hoverinfo="skip",
    )
    return figure


def histogram(bars: pd.DataFrame) -> go.Figure:
    """Draw how many users differ by how much; bars: from, to and users of each bin."""
    below = bars["from"] + bars["to"] < 0
    colours = [KINDS["migrated" if better else "retrained"].colour for better in below]
    figure = figures.histogram(bars, colours)
    figure.add_vline(x=0, line=figures.REFERENCE_LINE)
    return figure


def group_figure(groups: pd.DataFrame) -> go.Figure:
    """Draw the pooled difference of each group of users with its interval."""
    rows = groups.iloc[::-1]
    figure = go.Figure(
        go.Scatter(
            x=rows["difference"],
            y=rows["label"],
            mode="markers",
            marker=marker("migrated", size=9),
            error_x=figures.error_bars(rows, KINDS["migrated"].colour, "difference"),
            customdata=rows["users"],
            hovertemplate="%{y}: %{x:+.4f}, %{customdata} users<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_vline(x=0, line=figures.REFERENCE_LINE)
    return figure
