"""Person, parts "Held-out items" and "History": records of one user and what methods predicted."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn

from dashboard import engine
from dashboard.components import figures, page_states, query_params, tables
from dashboard.components.formatting import percent, plotly_text, short
from dashboard.components.theme import NEUTRAL, marker, rank
from dashboard.engine import METRICS, comparisons, user_details
from dashboard.engine.user_details import Method, UserContext

BIAS = "User + item bias"
ROW_PIXELS, TITLE_PIXELS = 40, 18  # from row to row, and from a row up to its title
LEGEND_PIXELS = 16
MAX_DRAWN, MAX_TITLE = 30, 48  # items, and characters of a title


def held_out(records: pd.DataFrame, context: UserContext, user: str, looked_at: str | None) -> None:
    """Draw the predictions of chosen methods for the user's held-out items.

    looked_at: the evaluation of the method that the page is about.
    """
    evaluated = {str(method.evaluation): method for method in context.evaluated()}
    if not evaluated:
        page_states.empty(
            "Nothing is evaluated yet",
            "Evaluate prompts of this data set to see their predictions of held-out items.",
        )
        return
    # One method of each main kind, the one that is looked at if it is of it, and the bias baseline.
    defaults: dict[str, str] = {}
    if looked_at in evaluated:
        defaults[evaluated[looked_at].kind] = looked_at
    for key, method in evaluated.items():
        if method.kind in ("source", "migrated", "retrained") or method.label == BIAS:
            defaults.setdefault(method.kind, key)
    chosen = query_params.choose_many(
        "Methods",
        list(evaluated),
        "methods",
        labels={key: method.label for key, method in evaluated.items()},
        default=list(defaults.values()),
    )
    methods = sorted((evaluated[key] for key in chosen), key=lambda method: rank(method.kind))
    if not methods:
        st.info("Choose at least one method.", icon=":material/touch_app:")
        return
    keys = tuple(str(method.evaluation) for method in methods)
    joined = user_details.predictions(engine.root(), keys, user)
    if joined.empty:
        page_states.empty(
            "No held-out items",
            f"This user has no {context.split} records, so no prediction can be checked.",
        )
        return
    titles = dict(zip(records["item_id"], records["title"], strict=True))
    table = items_table(joined, titles, context.task, methods)
    shown = min(len(table), MAX_DRAWN)
    figures.show(
        items_figure(table, methods, context.task),
        table,
        "user-items",
        title="Predictions and actual outcomes of held-out items"
        + (f" (the {shown} items the methods differ on most)" if shown < len(table) else ""),
        x="Rating (stars)" if context.task == "rating" else "Probability of a click",
        height=110 + LEGEND_PIXELS * len(methods) + ROW_PIXELS * min(max(len(table), 3), MAX_DRAWN),
    )
    _scores(context, methods, joined, table, user)
    rating = context.task == "rating"
    number_format = "%.2f ★" if rating else "%.0f %%"
    right = "nearest star" if context.task == "rating" else "likelier answer"
    columns = {
        "Item": TextColumn(width=260),
        "Actual": NumberColumn(
            None if rating else "Actual (1: click)", format="%.4g ★" if rating else "%d", width=70
        ),
        "Rounded correctly": TextColumn(help=f"Methods whose {right} is the actual one."),
    }
    labels = [method.label for method in methods]
    for label in labels:
        columns[label] = NumberColumn(
            short(label, 28), format=number_format, width=100, help=short(label)
        )
    in_units = table.drop(columns="Nearest").assign(**(table[labels] * (1 if rating else 100)))
    tables.show(in_units, columns)


def _scores(
    context: UserContext,
    methods: list[Method],
    joined: pd.DataFrame,
    table: pd.DataFrame,
    user: str,
) -> None:
    keys = tuple(str(method.evaluation) for method in methods)
    scores = user_details.user_scores(engine.root(), keys, user).set_index("evaluation")
    main, truth = comparisons.PRIMARY_METRIC[context.task], joined["outcome"].to_numpy(np.float64)
    closest = table["Nearest"].value_counts().reindex([m.label for m in methods], fill_value=0)
    rows = []
    for method in methods:
        if method.evaluation not in scores.index:
            continue
        score = scores.loc[method.evaluation]
        predicted = joined[method.evaluation].to_numpy(np.float64)
        known = np.isfinite(predicted)
        low, high = user_details.interval(context.task, main, truth[known], predicted[known])
        row: dict[str, object] = {"Method": method.label}
        for metric in (name for name in METRICS if name in scores.columns):
            row[METRICS[metric].axis] = score[metric]
            if metric == main and np.isfinite(low):
                row["95 % interval"] = f"{low:.3f} to {high:.3f}"
        row |= {"Nearest": f"{closest[method.label]} of {len(joined)}"}
        rows.append(row | {"Held-out rows": int(score["n"])})
    if not rows:
        return
    st.markdown("### Scores of each method for this user")
    columns = {
        metric.axis: NumberColumn(metric.heading, format="%.3f", help=metric.axis)
        for metric in METRICS.values()
    }
    hint = "Number of items for which this method's prediction is nearest to the actual outcome."
    tables.show(pd.DataFrame(rows), columns | {"Nearest": TextColumn(help=hint)})
    st.caption(
        f"From the {len(joined)} held-out rows of this user alone, so small differences mean "
        "little. The interval is from resampling these rows."
    )


def history(records: pd.DataFrame, context: UserContext) -> None:
    """Draw the user's outcomes, and list the records that models may learn from."""
    if records.empty:
        page_states.empty("No records", "The data set holds no records of this user.")
        return
    ratings = context.task == "rating"
    figures.show(
        outcomes_figure(records, context.task),
        records.drop(columns="item_id"),
        "user-history",
        title="Outcomes of this user's records",
        x="Rating (stars)" if ratings else "Outcome",
        y="Records",
        height=260,
    )
    rows = records[records["split"] != context.split]
    shown = rows.rename(columns={"title": "Item", "outcome": "Outcome", "split": "Split"})
    if "time" in shown:
        shown["When"] = pd.to_datetime(shown.pop("time"), unit="s")
    st.markdown(f"### {len(rows)} records that models may learn from")
    columns = {
        "Item": TextColumn(width="large"),
        "Outcome": NumberColumn("Rating (stars)" if ratings else "Clicked", format="%.4g"),
        "Split": TextColumn(help="train: training data; validation: chooses the best epoch."),
    }
    tables.show(shown.drop(columns="item_id"), columns)


def is_right(task: str, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Say for each row whether the nearest star, or the likelier answer, is the true one."""
    if task == "click":
        return (predicted >= 0.5) == (truth >= 0.5)
    return np.floor(predicted + 0.5) == np.floor(truth + 0.5)


def items_table(
    joined: pd.DataFrame, titles: Mapping[str, str], task: str, methods: Sequence[Method]
) -> pd.DataFrame:
    """Return one row per held-out item: Item, Actual, each method's prediction, Rounded correctly, Nearest.

    joined: item_id, outcome and a column for each evaluation. Items come in descending order of
    the difference between the methods' predictions.
    """
    labels = [method.label for method in methods]
    values = joined[[method.evaluation for method in methods]].to_numpy(np.float64)
    truth = joined["outcome"].to_numpy(np.float64)
    table = pd.DataFrame(
        {"Item": [titles.get(item, item) for item in joined["item_id"]], "Actual": truth}
    )
    for label, column in zip(labels, values.T, strict=True):
        table[label] = column
    right = np.column_stack([is_right(task, truth, column) for column in values.T])
    table["Rounded correctly"] = [
        ", ".join(label for label, hit in zip(labels, row, strict=True) if hit) or "none"
        for row in right
    ]
    errors = np.abs(values - truth[:, None])
    best = np.argmin(np.nan_to_num(errors, nan=np.inf), axis=1)
    table["Nearest"] = [labels[position] for position in best]
    spread = np.nanmax(values, axis=1) - np.nanmin(values, axis=1)
    return table.iloc[np.argsort(-spread, kind="stable")].reset_index(drop=True)


def items_figure(table: pd.DataFrame, methods: Sequence[Method], task: str) -> go.Figure:
    """Draw truth and predictions of each item on one line, for the first MAX_DRAWN items.

    The axis is the whole scale of the task, so that the charts of two users can be compared.
    """
    rows = table.head(MAX_DRAWN)
    positions = list(range(len(rows)))
    figure = go.Figure()
    for position in positions:
        figure.add_hline(y=position, line={"color": NEUTRAL, "width": 0.5}, opacity=0.4)
    figure.add_scatter(
        x=rows["Actual"],
        y=positions,
        mode="markers",
        name="Actual",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 4, "color": NEUTRAL}},
        hovertemplate="Actual: %{x:.3g}<extra></extra>",
    )
    kinds: Counter[str] = Counter()
    for method in methods:
        look = marker(method.kind, size=12)
        if kinds[method.kind]:
            look |= {"symbol": f"{look['symbol']}-open"}
        kinds[method.kind] += 1
        figure.add_scatter(
            x=rows[method.label],
            y=positions,
            mode="markers",
            name=plotly_text(method.label),
            marker=look,
            hovertemplate=f"{plotly_text(method.label)}: %{{x:.2f}}<extra></extra>",
        )
    # Above the rows, since titles beside them leave little of a narrow window to the marks.
    for position, item in zip(positions, rows["Item"], strict=True):
        figure.add_annotation(
            xref="x domain",
            x=0,
            xanchor="left",
            y=position,
            yshift=TITLE_PIXELS,
            text=plotly_text(item, MAX_TITLE),
            font={"size": 12},
            borderpad=0,
            showarrow=False,
        )
    figure.update_yaxes(range=[len(rows) - 0.5, -0.8], visible=False)
    if task == "rating":
        figure.update_xaxes(range=[0.8, 5.2], tickvals=[1, 2, 3, 4, 5], zeroline=False)
    else:
        ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
        figure.update_xaxes(
            range=[-0.04, 1.04],
            tickvals=ticks,
            ticktext=[percent(share) for share in ticks],
            zeroline=False,
        )
    return figure


def outcomes_figure(records: pd.DataFrame, task: str) -> go.Figure:
    """Draw how many records a user has for each outcome, training data and held out."""
    test = records["split"] == "test"
    levels = {level: f"{level} ★" for level in range(1, 6)}
    if task == "click":
        levels = {0: "not clicked", 1: "clicked"}
    figure = go.Figure()
    for name, rows, pattern in (("Known to the models", ~test, ""), ("Held out", test, "/")):
        values = records.loc[rows, "outcome"]
        counts = (np.floor(values + 0.5) if task == "rating" else values).astype(int).value_counts()
        figure.add_bar(
            x=list(levels.values()),
            y=[int(counts.get(level, 0)) for level in levels],
            name=name,
            marker={"color": NEUTRAL, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: %{y} records<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    return figure
