"""A comparison as one HTML file that a stakeholder can read, print and forward.

It loads nothing: charts are inline SVG, and its content security policy forbids everything else.
The templates escape every text. `puma_engine.pipeline.reporting` collects its content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC, metrics_of
from puma_engine.evaluation.shares_kept import ASPECTS, REFERENCES, aspect_label
from puma_engine.evaluation.summaries import frontier, with_costs
from puma_engine.evaluation.user_effects import UserImpact, with_values
from puma_engine.evaluation.verdict import Verdict, user_sentences
from puma_engine.report import svg
from puma_engine.report.glossary import TERMS, heading
from puma_engine.report.templating import environment
from puma_engine.report.theme import DECISIONS, KINDS
from puma_engine.store import Run

DEFINED_TERMS = (
    *("soft prompt", "migration", "retrained", "random prompts", "shuffled control"),
    *("baseline", "margin", "interval", "share kept", "regress", "refined"),
)
GROUP_TITLES = {"variance": "variance of a user's outcomes", "train_rows": "train rows of a user"}
MAX_DOTS = 1500
MAX_LISTED = 20
MAX_REFINED = 500


@dataclass(frozen=True)
class Report:
    """The content of a report.

    details: names and values about the measurement. methods and scores: the comparison's tables,
    methods in the order to show. shares: the table of `puma_engine.evaluation.shares_kept`. impact:
    the impact of the judged migration on users, or None. lineage: the comparison and all runs that
    it was made from. written: the time of writing.
    """

    run: Run
    verdict: Verdict
    details: Sequence[tuple[str, str]]
    methods: pd.DataFrame
    scores: pd.DataFrame
    shares: pd.DataFrame
    impact: UserImpact | None
    lineage: Sequence[Run]
    written: str


def render(report: Report) -> str:
    """Return the report as one HTML page."""
    metrics = list(metrics_of(report.run.summary["task"]))
    versions: dict[str, set[str]] = {}
    for run in report.lineage:
        for name, version in run.versions.items():
            versions.setdefault(name, set()).add(version)
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            decision=DECISIONS[report.verdict.decision],
            methods=_methods(report, metrics),
            shares=_shares(report),
            users=_users(report),
            versions=[(name, ", ".join(sorted(known))) for name, known in sorted(versions.items())],
            definitions=[(heading(term), TERMS[term]) for term in (*DEFINED_TERMS, *metrics)],
        )
    )


def _methods(report: Report, metrics: list[str]) -> dict[str, Any]:
    """Return the table of methods, its charts, and the legend of kinds."""
    metric = METRICS[PRIMARY_METRIC[report.run.summary["task"]]]
    scores = {(row.method, row.metric): row for row in report.scores.itertuples()}
    primary = report.scores[report.scores["metric"] == metric.name].drop(columns="kind")
    rows = report.methods.merge(primary, on="method", validate="one_to_one")
    base = rows.loc[rows["is_baseline"].astype(bool), "value"]
    names = ["method", "kind", "value", "low", "high"]
    points = list(rows[names].itertuples(index=False, name=None))
    costs, arithmetic = with_costs(rows)
    paid = list(
        costs[["method", "kind", "cost", "value", "low", "high"]].itertuples(index=False, name=None)
    )
    edge = list(frontier(costs, metric.name)[["cost", "value"]].itertuples(index=False, name=None))
    quality = svg.interval_rows(
        "Quality of each method",
        points,
        metric.axis,
        line_at=float(base.iloc[0]) if len(base) else None,
    )
    cost = svg.cost_quality("Quality against cost", paid, edge, metric.axis, arithmetic=arithmetic)
    return {
        "headings": [METRICS[name].heading for name in metrics],
        "primary": metric.label,
        "rows": [
            (
                row,
                [scores.get((row.method, name)) for name in metrics],
                scores[row.method, metric.name],
            )
            for row in report.methods.itertuples()
        ],
        "charts": [
            ("How good each method is (dotted: what differences are taken from)", quality),
            ("What quality costs: methods off the dotted line are beaten in both", cost),
        ],
        "legend": [
            (svg.MARKS[kind.symbol], kind)
            for name, kind in KINDS.items()
            if name in set(rows["kind"])
        ],
    }


def _shares(report: Report) -> dict[str, Any] | None:
    """Return the table of shares of full retraining's gains that methods keep; None without a reference."""
    task, shares = report.run.summary["task"], report.shares
    if shares.empty:
        return None
    cells = {(row.method, row.reference, row.aspect): row for row in shares.itertuples()}
    columns = [
        (reference, aspect)
        for reference in REFERENCES
        for aspect in ASPECTS
        if reference in set(shares["reference"])
    ]
    return {
        "headings": [
            f"{aspect_label(task, aspect)}, over {REFERENCES[reference]}"
            for reference, aspect in columns
        ],
        "rows": [
            (method, [cells.get((method, *column)) for column in columns])
            for method in report.methods["method"]
            if method in set(shares["method"])
        ],
    }


def _users(report: Report) -> dict[str, Any] | None:
    """Return the impact on users: sentences, charts and tables."""
    impact, ratings = report.impact, report.run.summary["task"] == "rating"
    if impact is None:
        return None
    noun, done = report.verdict.noun, "Refined" if report.verdict.is_reuse else "Migrated"
    unit = "RMSE of a user (stars)" if ratings else "Log loss of a user"
    total = impact.effects.users
    sample = with_values(impact.sample, ratings=ratings)
    if len(sample) > MAX_DOTS:
        sample = sample.sample(MAX_DOTS, random_state=0)
    some = f" (a random {len(sample):,} of {total:,} users)" if len(sample) < total else ""
    points = svg.user_points(
        "Each user under both methods",
        list(sample[["first", "second"]].itertuples(index=False, name=None)),
        (f"Retrained: {unit}", f"{done}: {unit}"),
    )
    bins = svg.histogram(
        "Distribution of differences",
        list(impact.bars[["from", "to", "users"]].itertuples(index=False, name=None)),
        f"{done} minus retrained: {unit}",
    )
    charts = [
        (f"Each user under both: below the line the {noun} is better{some}", points),
        ("How far users move: left of zero they gain", bins),
    ]
    for name, groups in impact.groups.items():
        rows = [
            (f"{row.group} ({row.users:,} users)", "migrated", row.difference, row.low, row.high)
            for row in groups.itertuples()
        ]
        label = f"Difference (below 0: the {noun} is better)"
        title = GROUP_TITLES[name]
        picture = svg.interval_rows(f"Difference by {title}", rows, label, line_at=0.0)
        charts.append((f"By {title}", picture))
    refine = report.verdict.refine
    return {
        "total": total,
        "better": impact.better,
        "worse": impact.worse,
        "sentences": user_sentences(impact.effects),
        "charts": charts,
        "likely": list(
            with_values(impact.effects.frame, ratings=ratings).head(MAX_LISTED).itertuples()
        ),
        "refine": ", ".join(refine[:MAX_REFINED]),
        "more": max(0, len(refine) - MAX_REFINED),
    }
