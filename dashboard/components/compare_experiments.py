"""What the workspace's runs say together: model pairs, chains, fusions, selection strategies."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard import engine, pages
from dashboard.components import compare_figures, figures, page_states
from dashboard.components.compare_methods import digits
from dashboard.engine import METRICS, comparisons
from dashboard.engine.comparisons import Place, summaries


def pairs(place: Place) -> None:
    """The gain of migrating over retraining, for each source and target (paper's Figure 4)."""
    metric = comparisons.PRIMARY_METRIC[place.task]
    table = summaries.model_pairs(_methods(place))
    if len(table) < 2:
        _more(
            "Not enough model pairs",
            "Migrate to two or more backbones, or from two, fit `retrained` prompts on each "
            "target, and evaluate all of them on this data set and split.",
        )
        return
    gains = [comparisons.gain(engine.root(), *ids, metric) for ids in _ids(table)]
    table["gain"] = [one.value if one else float("nan") for one in gains]
    table["low"] = [one.low if one else float("nan") for one in gains]
    table["high"] = [one.high if one else float("nan") for one in gains]
    figures.show(
        compare_figures.gain_heatmap(table),
        table,
        "pairs",
        title="Where migrating beats retraining: gains above 1 do (* the 95 % interval excludes 1)",
        x="Target backbone",
        y="Source backbone",
        height=max(320, 110 + 56 * table["origin"].nunique()),
    )
    st.caption(_gain_words(metric))


def _ids(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["retrained"], table["evaluation"], strict=True))


def _methods(place: Place) -> pd.DataFrame:
    """Evaluated methods whose prompts are the users' alone, as in the paper's figures."""
    found = comparisons.methods(place)
    return found[found["item_tokens"] == 0]


def _gain_words(metric: str) -> str:
    ratio = "retrained / migrated" if metric == "rmse" else "migrated / retrained"
    return (
        f"Gain = {METRICS[metric].heading} {ratio} on the same target and users. Each cell shows the "
        "migration that trained on most users, the latest of these."
    )


def chains(place: Place) -> None:
    """Quality after each hop of a chain (paper's Figure 5)."""
    table = summaries.chains(_methods(place))
    if table.groupby("run").size().max() < 2 if len(table) else True:
        _more(
            "No chain yet",
            "Migrate on from prompts that were migrated themselves, `puma chain SOURCE TARGET "
            "TARGET`, and evaluate every hop on this data set and split.",
        )
        return
    metric = comparisons.PRIMARY_METRIC[place.task]
    figures.show(
        compare_figures.chain_lines(table),
        table,
        "chains",
        title="What each hop of a chain costs in quality: a flat line loses nothing",
        x="Hop (0: source prompts)",
        y=METRICS[metric].axis,
    )


def fusions(place: Place) -> None:
    """Fused sources against each of them alone (paper's Figure 6)."""
    table = summaries.aggregations(_methods(place))
    if table.empty:
        _more(
            "No fusion yet",
            "Migrate two sources at once, `puma aggregate SOURCE SOURCE --target TARGET`, and at "
            "least one of them alone to the same target; evaluate both here.",
        )
        return
    metric = comparisons.PRIMARY_METRIC[place.task]
    figures.show(
        compare_figures.fusion_bars(table),
        table,
        "fusions",
        title="Does fusing sources help: the fusion against each source alone",
        x=METRICS[metric].axis,
        height=max(300, 90 + 40 * len(table)),
    )


def strategies(place: Place) -> None:
    """Selection strategies side by side (paper's Table 4)."""
    table = summaries.strategies(_methods(place))
    if table.loc[table["strategy"] != "all", "strategy"].nunique() < 2:
        _more(
            "Not enough strategies",
            "Migrate the same source to the same target with two or more strategies at one "
            "budget, such as `--strategy random` and `--strategy kmeans-variance`; evaluate each.",
        )
        return
    metric = comparisons.PRIMARY_METRIC[place.task]
    st.caption("Source and target of these migrations:")
    st.text(f"{table['origin'].iloc[0]} → {table['target'].iloc[0]}")
    figures.show(
        compare_figures.strategy_dots(table),
        table,
        "strategies",
        title="Which users to train on: a dot a run, with its 95 % interval",
        x=METRICS[metric].axis,
        height=max(320, 100 + 40 * table["strategy"].nunique()),
    )
    shown = table[["strategy", "budget", "seed", "value", "low", "high", "seconds"]]
    names = [
        "Strategy",
        "Users trained",
        "Seed",
        METRICS[metric].heading,
        "95 % from",
        "95 % to",
        "Seconds",
    ]
    st.dataframe(
        shown.set_axis(names, axis=1),
        hide_index=True,
        column_config=digits(METRICS[metric].heading),
    )


def _more(title: str, text: str) -> None:
    page_states.empty(title, text, icon=":material/lab_research:")
    pages.link("plan", label="Plan such a migration")


SECTIONS: dict[str, Callable[[Place], None]] = {
    "pairs": pairs,
    "chains": chains,
    "fusions": fusions,
    "strategies": strategies,
}
