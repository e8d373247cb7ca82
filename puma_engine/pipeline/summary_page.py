"""Collect the content of the printable page about a decision for `puma_engine.report.one_page`."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import ConfigError, NotFoundError
from puma_engine.evaluation import plan_summary
from puma_engine.evaluation.formatting import method_names
from puma_engine.evaluation.verdict import decision_ranges, judge
from puma_engine.pipeline import stage
from puma_engine.pipeline.method_survey import evaluated_methods
from puma_engine.pipeline.user_behaviour import behaviour_of_evaluations
from puma_engine.pipeline.verdicts import comparison_data, user_impact_between
from puma_engine.report import decision_texts
from puma_engine.report.one_page import OnePage, render_one_page
from puma_engine.store import Run, Workspace

MAX_DRAWN = 2_000  # largest number of users in the charts


def render_summary(
    ws: Workspace,
    comparison: stage.Reference,
    *,
    margin: float = MARGIN,
    address: str | None = None,
) -> str:
    """Return the decision on a comparison as one HTML page that prints on one sheet of A4.

    margin: a share of the full retraining's value. address: of the dashboard's Summary, for a link.
    Raises ConfigError for an address without http:// or https://, and what `render_report` raises.
    """
    if address is not None and not re.match(r"https?://[^\s/]", address):
        raise ConfigError(
            f"The address of the dashboard begins with http:// or https://, not {address!r}."
        )
    run = stage.find(ws, comparison, "comparison")
    data = comparison_data(ws, run, margin=margin)
    verdict = judge(data)
    names = method_names(data.methods["method"])
    methods, scores, shares = (
        table.assign(method=table["method"].map(names))
        for table in (data.methods, data.scores, data.shares)
    )
    dataset, evaluated = _data_of(ws, run)
    split = f"{run.summary['split']} split"
    plans = plan_summary.plan_table(methods, scores, shares, data.metric, evaluated)
    migration = names.get(verdict.method or "")
    setup = plan_summary.comparison_setup(
        plans, migration, run.summary["users"], f"{dataset.name}, {split}" if dataset else split
    )
    ranges = tuple(replace(part, method=names[part.method]) for part in decision_ranges(data))
    # The judged migration and the full retraining are labelled first.
    order = 2 - plans["is_baseline"].astype(int) - 2 * (plans["method"] == migration).astype(int)
    plans = plans.iloc[order.argsort(kind="stable")]
    tiles: list[decision_texts.Tile] = []
    panels: dict[str, str] = {}
    if migration is not None:
        task = run.summary["task"]
        row = plans[plans["method"] == migration].iloc[0]
        base = plans[plans["is_baseline"].astype(bool)].iloc[0]
        impact = user_impact_between(ws, run, row["evaluation"])
        tiles = [
            decision_texts.kept_tile(task, row, "level"),
            decision_texts.kept_tile(task, row, "ranking"),
            decision_texts.cost_tile(row, base),
            decision_texts.worse_off_tile(None if impact is None else impact.effects),
        ]
        sources = plan_summary.sources_of_migration(plans, migration)
        if len(sources):
            panels[str(sources["evaluation"].iloc[0])] = "Old model"
        done = "Refined" if verdict.is_reuse else "Migrated"
        panels |= {str(row["evaluation"]): done, str(base["evaluation"]): "Retrained"}
    behaviour = behaviour_of_evaluations(ws, list(panels), MAX_DRAWN) if panels else None
    context = (
        setup.data,
        f"{run.summary['rows']:,} held-out records",
        f"{str(run.finished)[:10]}",
        setup.device and f"on {setup.device}",
    )
    published, origin = "", run.published
    if origin is not None:
        published = f"Published comparison, measured on {origin.get('device')}"
        published += f" on {str(origin.get('date'))[:10]}, not in this workspace."
    return render_one_page(
        OnePage(
            setup=setup,
            context=[part for part in context if part],
            task=run.summary["task"],
            verdict=verdict,
            margin=margin,
            ranges=ranges,
            tiles=tiles,
            plans=plans,
            behaviour=None if behaviour is None else behaviour.frame,
            anchors=0 if behaviour is None else behaviour.anchors,
            panels=list(panels.values()),
            fine_print=decision_texts.fine_print(
                run.summary["task"],
                plans,
                setup.seeds,
                None if evaluated is None else plan_summary.seed_spread(evaluated, plans),
                measured_before(ws, run),
                verdict.disagreement,
            ),
            published=published,
            address=address,
            written=now_in_words(),
        )
    )


def _data_of(ws: Workspace, run: Run) -> tuple[Run | None, pd.DataFrame | None]:
    """Return a comparison's data set and the methods evaluated on it; None for both if it is missing."""
    try:
        dataset = ws.run(ws.run(run.inputs["reference"]).inputs["dataset"])
    except (KeyError, NotFoundError):
        return None, None
    return dataset, evaluated_methods(ws, dataset.id, str(run.summary["split"]))


def measured_before(ws: Workspace, run: Run) -> int:
    """Return how many methods of a comparison come from published runs; 0 for a published comparison."""
    if run.published is not None:
        return 0
    members = (name for role, name in run.inputs.items() if role.startswith("evaluation_"))
    return sum(ws.run(name).published is not None for name in members)


def now_in_words() -> str:
    """Return the date and time in UTC for people: 1 March 2026, 09:30 UTC."""
    return datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
