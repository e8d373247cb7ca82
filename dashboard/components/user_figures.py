"""Tables and charts of one user; pure functions of frames that are joined by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard.components.formatting import drawn
from dashboard.components.theme import KINDS, NEUTRAL, marker
from dashboard.engine.user_details import Method, Prediction

ROW_PIXELS = 30
LEGEND_PIXELS = 16
MOST_DRAWN = 30


def is_right(task: str, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Say for each row whether the nearest star, or the likelier answer, is the true one."""
    if task == "click":
        return (predicted >= 0.5) == (truth >= 0.5)
    return np.floor(predicted + 0.5) == np.floor(truth + 0.5)


def items_table(
    joined: pd.DataFrame, titles: Mapping[str, str], task: str, methods: Sequence[Method]
) -> pd.DataFrame:
    """One row a held-out item: Item, Truth, each method's prediction, Right, Closest.

    joined: item_id, outcome and a column for each evaluation. The items that the methods
    judge most differently come first.
    """
    columns = [method.evaluation for method in methods]
    values = joined[columns].to_numpy(np.float64)
    truth = joined["outcome"].to_numpy(np.float64)
    table = pd.DataFrame(
        {"Item": [titles.get(item, item) for item in joined["item_id"]], "Truth": truth}
    )
    for method, column in zip(methods, values.T, strict=True):
        table[method.label] = column
    right = np.column_stack([is_right(task, truth, column) for column in values.T])
    labels = [method.label for method in methods]
    table["Right"] = [
        ", ".join(label for label, hit in zip(labels, row, strict=True) if hit) or "none"
        for row in right
    ]
    miss = np.abs(values - truth[:, None])
    best = np.argmin(np.nan_to_num(miss, nan=np.inf), axis=1)
    table["Closest"] = [labels[place] for place in best]
    spread = np.nanmax(values, axis=1) - np.nanmin(values, axis=1)
    return table.iloc[np.argsort(-spread, kind="stable")].reset_index(drop=True)


def items_figure(table: pd.DataFrame, methods: Sequence[Method]) -> go.Figure:
    """Truth and predictions of each item on one line; as many lines as fit."""
    rows = table.head(MOST_DRAWN)
    places = list(range(len(rows)))
    figure = go.Figure()
    for place in places:
        figure.add_hline(y=place, line={"color": NEUTRAL, "width": 0.5}, opacity=0.4)
    figure.add_scatter(
        x=rows["Truth"],
        y=places,
        mode="markers",
        name="Truth",
        marker={"symbol": "line-ns", "size": 20, "line": {"width": 4, "color": NEUTRAL}},
        hovertemplate="Truth: %{x:.3g}<extra></extra>",
    )
    seen: dict[str, int] = {}
    for method in methods:
        seen[method.kind] = seen.get(method.kind, 0) + 1
        look = marker(method.kind, size=12)
        if seen[method.kind] > 1:
            look |= {"symbol": f"{look['symbol']}-open"}
        figure.add_scatter(
            x=rows[method.label],
            y=places,
            mode="markers",
            name=drawn(method.label),
            marker=look,
            hovertemplate=f"{drawn(method.label)}: %{{x:.2f}}<extra></extra>",
        )
    names = [drawn(item, 44) for item in rows["Item"]]
    figure.update_yaxes(
        tickvals=places, ticktext=names, autorange="reversed", showgrid=False, zeroline=False
    )
    return figure


def height_of(rows: int, methods: int) -> int:
    """Pixels of a chart with one line a row, and a legend that may need one for each method."""
    return 110 + LEGEND_PIXELS * methods + ROW_PIXELS * min(max(rows, 3), MOST_DRAWN)


def outcomes_figure(records: pd.DataFrame, task: str) -> go.Figure:
    """How many records a user has for each outcome, those trained on and those held out."""
    held = records["split"] == "test"
    figure = go.Figure()
    for name, rows, pattern in (("Known to the models", ~held, ""), ("Held out", held, "/")):
        values = records.loc[rows, "outcome"]
        shown = np.floor(values + 0.5).astype(int) if task == "rating" else values.astype(int)
        counts = shown.value_counts()
        levels = range(1, 6) if task == "rating" else range(2)
        figure.add_bar(
            x=[_outcome_name(task, level) for level in levels],
            y=[int(counts.get(level, 0)) for level in levels],
            name=name,
            marker={"color": NEUTRAL, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: %{y} records<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    return figure


def _outcome_name(task: str, level: int) -> str:
    if task == "click":
        return "clicked" if level else "not clicked"
    return f"{level} ★"


def neighbours_figure(frame: pd.DataFrame, first: Method, second: Method) -> go.Figure:
    """Cosine of each neighbour in both spaces, coloured by where it is near."""
    figure = go.Figure()
    other = marker(second.kind)
    if second.kind == first.kind:
        other |= {"symbol": f"{other['symbol']}-open"}
    groups = (
        ("near in both", frame["both"], {"color": NEUTRAL, "symbol": "star", "size": 14}),
        ("near in the first only", frame["only"] == "first", marker(first.kind)),
        ("near in the second only", frame["only"] == "second", other),
    )
    for name, rows, look in groups:
        figure.add_scatter(
            x=frame.loc[rows, "first_cosine"].astype("float32"),
            y=frame.loc[rows, "second_cosine"].astype("float32"),
            mode="markers",
            name=name,
            marker={"size": 11} | look,
            customdata=frame.index[rows].to_numpy()[:, None] + 1,
            hovertemplate="row %{customdata[0]} of the table: %{x:.2f} and %{y:.2f}<extra></extra>",
        )
    return figure


def answers_figure(found: Sequence[tuple[Method, Prediction]]) -> go.Figure:
    """The probability of each answer, side by side for each method."""
    figure = go.Figure()
    patterns = ("", "/", "x", ".", "+")
    seen: dict[str, int] = {}
    for method, answer in found:
        place = seen[method.kind] = seen.get(method.kind, -1) + 1
        figure.add_bar(
            x=[f"{name} ★" if answer.task == "rating" else name for name in answer.answers],
            y=list(answer.answers.values()),
            name=drawn(method.label),
            marker={
                "color": KINDS[method.kind].colour,
                "pattern": {"shape": patterns[place % len(patterns)]},
            },
            hovertemplate=f"{drawn(method.label)}<br>%{{x}}: %{{y:.1%}}<extra></extra>",
        )
    figure.update_layout(barmode="group")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def answers_table(found: Sequence[tuple[Method, Prediction]]) -> pd.DataFrame:
    """One row a method: its prediction, and the probability of each answer."""
    rows = []
    for method, answer in found:
        name = "Predicted rating" if answer.task == "rating" else "Probability of a click"
        shares = {f"P({one})": share for one, share in answer.answers.items()}
        rows.append({"Method": method.label, name: answer.value, **shares})
    return pd.DataFrame(rows)
