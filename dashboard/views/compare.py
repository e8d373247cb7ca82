"""Compare: one finished comparison, its verdict, its methods and its users; launch another."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import charts, jobs
from dashboard.components.theme import LOWER_IS_BETTER, METRICS, rank


def page() -> None:
    """Draw the page."""
    st.title("Compare")
    try:
        runs = engine.comparisons()
        root = str(engine.workspace().root)
    except engine.StoreError as error:
        st.warning("There is no workspace yet. Run `make demo` or `puma demo` to build one.")
        st.text(str(error))
        return
    if runs:
        _comparison(root, runs)
    else:
        st.info("No comparison is finished yet. `puma demo` makes one on shipped ratings.")
    st.header("New migration", divider="gray")
    jobs.launch_form()
    jobs.watch()


def _comparison(root: str, runs: list[engine.Run]) -> None:
    ids = [run.id for run in runs]
    asked = st.query_params.get("comparison")
    names = {run.id: f"{run.name} ({run.id[:6]})" for run in runs}
    if asked and asked not in ids:
        st.warning("The address names a comparison that is not here; the newest is shown.")
    chosen = st.selectbox(
        "Comparison",
        ids,
        index=ids.index(asked) if asked in ids else 0,
        format_func=names.__getitem__,
    )
    st.query_params["comparison"] = chosen
    run = next(run for run in runs if run.id == chosen)
    methods, scores = engine.comparison_tables(root, chosen)
    order = methods.assign(place=methods["kind"].map(rank)).sort_values(["place", "seconds"])
    methods = order.drop(columns="place")
    metric = run.summary["main_metric"]
    st.markdown(f"**{verdict(methods, scores, metric)}**")
    st.caption(
        f"{run.summary['users']:,} users, {run.summary['rows']:,} {run.summary['split']} rows; 95 % intervals "
        "from resampling users; differences are paired over users."
    )
    table = methods_table(methods, scores, metric)
    st.dataframe(table, hide_index=True, width="stretch")
    st.download_button("Methods as CSV", table.to_csv(index=False), "methods.csv", "text/csv")
    st.plotly_chart(charts.cost_quality(methods, scores, metric), config=charts.CONFIG, key="cost")
    _users(root, methods, metric)


def verdict(methods: pd.DataFrame, scores: pd.DataFrame, metric: str) -> str:
    """One sentence: the cheapest migration within its interval of retraining, or the best."""
    rows = methods.merge(scores[scores["metric"] == metric], on=["method", "kind"])
    migrated, retrained = rows[rows["kind"] == "migrated"], rows[rows["kind"] == "retrained"]
    if migrated.empty or retrained.empty:
        return "Add a migration and a full retraining to see a verdict."
    sign = 1 if metric in LOWER_IS_BETTER else -1
    base = retrained.iloc[0]
    safe = (
        migrated[sign * migrated["difference_low"] <= 0]
        if sign > 0
        else migrated[migrated["difference_high"] >= 0]
    )
    pick = (
        safe.sort_values("seconds").iloc[0]
        if len(safe)
        else migrated.loc[(sign * migrated["value"]).idxmin()]
    )
    cost = pick["seconds"] / base["seconds"]
    evidence = (
        f"{metric.upper()} {pick['value']:.4f} against {base['value']:.4f} of full retraining (difference "
        f"{pick['difference']:+.4f}, {pick['difference_low']:+.4f} to {pick['difference_high']:+.4f}) at "
        f"{cost:.0%} of its measured time"
    )
    if len(safe):
        return f"Migrate ({pick['method']}): not measurably worse, {evidence}."
    return f"Retraining is measurably better; the best migration ({pick['method']}) has {evidence}."


def methods_table(methods: pd.DataFrame, scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a method: metric, interval, difference, cost."""
    own = scores[scores["metric"] == metric].set_index("method")
    base = methods.loc[methods["kind"] == "retrained", "seconds"]
    rows = []
    for item in methods.itertuples():
        score = own.loc[item.method]
        rows.append(
            {
                "Method": item.method,
                METRICS[metric]: f"{score['value']:.4f}",
                "95 % interval": f"{score['low']:.4f} to {score['high']:.4f}",
                "Difference": "reference"
                if pd.isna(score["difference"])
                else f"{score['difference']:+.4f}",
                "95 % interval of it": ""
                if pd.isna(score["difference"])
                else f"{score['difference_low']:+.4f} to {score['difference_high']:+.4f}",
                "Users trained": None if pd.isna(item.users_trained) else int(item.users_trained),
                "Seconds": round(float(item.seconds), 1),
                "Share of retraining": f"{item.seconds / base.iloc[0]:.0%}" if len(base) else "",
                "Seed": None if pd.isna(item.seed) else int(item.seed),
                "Device": item.device,
            }
        )
    return pd.DataFrame(rows)


def _users(root: str, methods: pd.DataFrame, metric: str) -> None:
    retrained = methods[methods["kind"] == "retrained"]
    migrated = methods[methods["kind"] == "migrated"]
    if retrained.empty or migrated.empty:
        return
    st.header("User by user", divider="gray")
    names = migrated["method"].tolist()
    name = st.selectbox("Migration", names)
    column = "auc" if metric == "uauc" else metric
    joined = _join(
        engine.user_metrics(root, retrained.iloc[0]["evaluation"]),
        engine.user_metrics(root, migrated.set_index("method").loc[name, "evaluation"]),
        column,
    )
    gains = (
        joined["second"] < joined["first"]
        if column in LOWER_IS_BETTER
        else joined["second"] > joined["first"]
    )
    st.text(f"{gains.mean():.0%} of {len(joined):,} users are better off migrated than retrained.")
    left, right = st.columns(2)
    left.plotly_chart(
        charts.user_scatter(joined, column, "Retrained", "Migrated"),
        config=charts.CONFIG,
        key="users",
    )
    right.plotly_chart(
        charts.difference_histogram(joined, column), config=charts.CONFIG, key="differences"
    )
    st.download_button("Users as CSV", joined.to_csv(index=False), "users.csv", "text/csv")


def _join(first: pd.DataFrame, second: pd.DataFrame, column: str) -> pd.DataFrame:
    """Match two evaluations by user id; users without the metric in either are left out."""
    a = first[["user_id", "n", column]].rename(columns={column: "first"})
    b = second[["user_id", column]].rename(columns={column: "second"})
    joined = a.merge(b, on="user_id", validate="one_to_one").dropna(subset=["first", "second"])
    return joined.reset_index(drop=True).assign(row=lambda frame: frame.index)
