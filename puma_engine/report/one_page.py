"""The decision on a comparison as one printable page: question, verdict, four figures, two pictures.

The page is one HTML file that loads nothing and prints on one sheet of A4.
`puma_engine.pipeline.summary_page` collects its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from puma_engine.evaluation.formatting import capitalised, format_percent, shortened
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC
from puma_engine.evaluation.plan_summary import ComparisonSetup, best_baseline, plan_costs
from puma_engine.evaluation.verdict import DecisionRange, Verdict
from puma_engine.report import decision_texts, svg
from puma_engine.report.decision_texts import Tile
from puma_engine.report.templating import environment
from puma_engine.report.theme import DECISIONS

MAX_NAME = 26  # characters of a plan's name in the chart


@dataclass(frozen=True)
class OnePage:
    """The content of the page.

    context: data, date and device of the measurement. margin: the accepted error, a share. ranges:
    of `puma_engine.evaluation.verdict.decision_ranges`, empty without a full retraining. tiles:
    empty without a judged migration. plans: of `puma_engine.evaluation.plan_summary.plan_table`,
    with the judged migration first. behaviour: a frame of `puma_engine.pipeline.user_behaviour` for
    the panels ("Old model", "Migrated", "Retrained") in this order, None if predictions are
    missing; anchors: number of anchor items, 0 if held-out records are shown. published: origin of
    a published comparison, otherwise "". address: of the Summary in a dashboard, None if unknown.
    written: the time of writing.
    """

    setup: ComparisonSetup
    context: Sequence[str]
    task: str
    verdict: Verdict
    margin: float
    ranges: tuple[DecisionRange, ...]
    tiles: Sequence[Tile]
    plans: pd.DataFrame
    behaviour: pd.DataFrame | None
    anchors: int
    panels: Sequence[str]
    fine_print: str
    published: str
    address: str | None
    written: str


def render_one_page(page: OnePage) -> str:
    """Return the page as HTML."""
    metric = METRICS[PRIMARY_METRIC[page.task]]
    sentence = page.verdict.headline.partition(": ")[2] or page.verdict.headline
    return (
        environment()
        .get_template("one_page.html")
        .render(
            page=page,
            title=decision_texts.title(page.setup),
            decision=DECISIONS[page.verdict.decision],
            sentence=capitalised(sentence),
            accepted=format_percent(page.margin),
            lost=f"less {metric.label}" if metric.higher_is_better else "more error",
            bar=_bar(page),
            recommended=decision_texts.breakpoint_text(page.ranges, decision_texts.MOST_NAMED)
            if page.ranges
            else "",
            costs=_costs(page) if page.tiles else None,
            behaviour=_behaviour(page) if page.tiles else None,
        )
    )


def _bar(page: OnePage) -> list[dict[str, Any]]:
    """Return the parts of the decision strip: decision, label, start, width, and whether it has the margin."""
    end = decision_texts.slider_max(page.ranges, page.margin)
    return [
        {
            "decision": part.decision,
            "label": decision_texts.decision_label(part),
            "start": format_percent(part.low) if number else "",
            # The scale has steps of 0.1 %; a part ends half a step after its last step.
            "width": f"{1000 * (min(part.high, end) - part.low) + 1:.0f}",
            "here": part.low - 0.0005 < page.margin <= part.high + 0.0005,
        }
        for number, part in enumerate(page.ranges)
        if part.low <= end
    ]


def _costs(page: OnePage) -> svg.Chart | None:
    """Return the chart of costs and kept shares of the plans; None if there are fewer than two."""
    rows = plan_costs(page.plans)
    if len(rows) < 2:
        return None
    best, line = best_baseline(page.plans), None
    if best is not None:
        line = f"{best['method']}, no language model", 100 * float(best["kept"])
    points = [
        svg.PlanPoint(
            shortened(decision_texts.plan_label(row), MAX_NAME),
            str(row.kind),
            *(100 * value for value in (row.cost, row.kept, row.kept_low, row.kept_high)),
        )
        for row in rows.itertuples()
    ]
    level = capitalised(decision_texts.aspect_name(page.task, "level"))
    cost = f"Cost in {rows['basis'].iloc[0]}, in % of full retraining"
    return svg.share_kept_by_cost(
        "What each plan costs, and what it keeps", points, line, (cost, f"{level} kept (%)")
    )


def _behaviour(page: OnePage) -> Mapping[str, Any] | None:
    """Return the charts of users' predictions, one for each panel; None if predictions are missing."""
    users = page.behaviour
    if users is None or users.empty:
        return None
    unit = "stars" if page.task == "rating" else "probability"
    means = users[[f"mean_{number}" for number in range(len(page.panels))]]
    spreads = users[[f"spread_{number}" for number in range(len(page.panels))]]
    outcomes = float(users["outcome"].min()), float(users["outcome"].max())
    ranges = (
        (float(means.min().min()), float(means.max().max())),
        float(spreads.max().max()),
        outcomes,
    )
    charts = []
    for number, name in enumerate(page.panels):
        columns = [f"mean_{number}", f"spread_{number}", "outcome"]
        rows = list(users[columns].itertuples(index=False, name=None))
        labels = f"Mean prediction ({unit})", f"Spread ({unit})"
        median = f"{name}: {users[f'spread_{number}'].median():.2f}"
        charts.append((median, svg.behaviour(f"{name}, each user", rows, ranges, labels)))
    over = decision_texts.behaviour_title(page.anchors, unit)
    return {"title": over, "unit": unit, "charts": charts, "low": outcomes[0], "high": outcomes[1]}
