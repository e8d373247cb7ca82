"""A comparison as one HTML file that a stakeholder can read, print and send on.

It loads nothing: pictures are inline SVG, and its content policy forbids the rest. What it
shows is gathered by `puma_engine.pipeline.reporting`; all of it is written as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from puma_engine.evaluation.formatting import format_seconds
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC
from puma_engine.evaluation.summaries import frontier
from puma_engine.evaluation.user_effects import UserEffects, difference_bins, with_values
from puma_engine.evaluation.verdict import Verdict, user_sentences
from puma_engine.report import html, svg
from puma_engine.report.glossary import TERMS, heading
from puma_engine.report.html import Content, Element, tag
from puma_engine.report.theme import KINDS
from puma_engine.store import Run

DECISIONS = {
    "migrate": "Migrate",
    "refine": "Migrate all, refine some",
    "retrain": "Retrain",
    "undecided": "Undecided",
    "incomplete": "No verdict yet",
}
DEFINED = (
    *("soft prompt", "migration", "retrained", "random prompts", "shuffled control"),
    *("baseline", "margin", "interval", "regress", "refined"),
)
STYLE = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
MOST_DOTS = 1500
MOST_LISTED = 20
MOST_REFINED = 500


@dataclass(frozen=True)
class Report:
    """What a report shows.

    methods and scores: the comparison's tables, methods in the order to show. facts: names
    and values of what was measured. effects: how users fare under the judged migration, or
    None. groups: tables of puma_engine.evaluation.user_effects.by_group, by title. lineage: every run
    that the comparison came from, itself first. written: the time of writing, in words.
    """

    run: Run
    verdict: Verdict
    facts: Sequence[tuple[str, str]]
    methods: pd.DataFrame
    scores: pd.DataFrame
    effects: UserEffects | None
    groups: dict[str, pd.DataFrame]
    lineage: Sequence[Run]
    written: str

    @property
    def ratings(self) -> bool:
        return bool(self.run.summary["task"] == "rating")

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(self.scores["metric"]))


def render(report: Report) -> str:
    """Return the report as one HTML page."""
    title = f"Migration report: {report.run.name}"
    body: list[Content] = [
        tag("header", tag("h1", title), tag("p", f"Written {report.written}.", cls="quiet")),
        _verdict(report.verdict),
        tag("h2", "What was measured"),
        html.facts(report.facts),
        *_methods(report),
        *_users(report),
        *_origin(report),
        *_definitions(report.metrics),
    ]
    return html.document(title, STYLE, body)


def _verdict(verdict: Verdict) -> Element:
    parts: list[Content] = [
        tag("h2", DECISIONS[verdict.decision]),
        tag("p", verdict.headline, cls="lead"),
    ]
    for title, sentences in (
        ("Evidence", verdict.evidence),
        ("What to be careful about", verdict.cautions),
    ):
        if sentences:
            parts += [tag("h3", title), tag("ul", *(tag("li", one) for one in sentences))]
    return tag("section", *parts, cls=f"verdict {verdict.decision}")


def _methods(report: Report) -> list[Content]:
    main = PRIMARY_METRIC[report.run.summary["task"]]
    own = report.scores[report.scores["metric"] == main].drop(columns="kind")
    rows = report.methods.merge(own, on="method", validate="one_to_one")
    base = rows.loc[rows["is_baseline"].astype(bool), "value"]
    points = [
        (row.method, row.kind, row.seconds, row.value, row.low, row.high)
        for row in rows.itertuples()
    ]
    edge = list(frontier(rows, main)[["seconds", "value"]].itertuples(index=False, name=None))
    return [
        tag("h2", "Methods side by side"),
        tag(
            "p",
            "Every figure with its 95 % interval in brackets. Whether two methods differ is told by the "
            "differences, which are paired over users: lines that overlap in the pictures may differ.",
        ),
        _methods_table(report),
        *_pictures(
            (
                "How good each method is (dotted: what differences are taken from)",
                svg.interval_rows(
                    "Quality of each method",
                    [(point[0], point[1], *point[3:]) for point in points],
                    METRICS[main].axis,
                    line_at=float(base.iloc[0]) if len(base) else None,
                ),
            ),
            (
                "What quality costs: methods off the dotted line are beaten in both",
                svg.cost_quality("Quality against cost", points, edge, METRICS[main].axis),
            ),
        ),
        _legend(rows["kind"]),
    ]


def _methods_table(report: Report) -> Element:
    cells = {(row.method, row.metric): row for row in report.scores.itertuples()}
    main = PRIMARY_METRIC[report.run.summary["task"]]
    head = ["Method", *(METRICS[name].heading for name in report.metrics)]
    head += [
        f"{METRICS[main].label} difference",
        "Measured time",
        "Users trained",
        "Seed",
        "Device",
    ]
    rows = []
    for item in report.methods.itertuples():
        scored = [cells[item.method, name] for name in report.metrics]
        gap = cells[item.method, main]
        rows.append(
            [
                item.method,
                *(_figure(one.value, one.low, one.high) for one in scored),  # type: ignore[arg-type]
                "reference"
                if pd.isna(gap.difference)
                else _signed(
                    gap.difference,
                    gap.difference_low,
                    gap.difference_high,
                ),
                format_seconds(float(item.seconds)),  # type: ignore[arg-type]
                _whole(item.users_trained),
                _whole(item.seed),
                str(item.device),
            ]
        )
    return html.table(head, rows, numbers=range(1, len(head) - 1))


def _users(report: Report) -> list[Content]:
    """Who gains and who loses, if the comparison has a judged migration."""
    if report.effects is None:
        return []
    values = with_values(report.effects.frame, ratings=report.ratings)
    unit = "RMSE of a user (stars)" if report.ratings else "Log loss of a user"
    gaps = values["gap"].to_numpy()
    drawn = values.sample(MOST_DOTS, random_state=0) if len(values) > MOST_DOTS else values
    few = f" (a random {MOST_DOTS:,} of {len(values):,} users)" if len(drawn) < len(values) else ""
    return [
        tag("h2", "Who gains and who loses"),
        tag(
            "p",
            f"{report.verdict.method} against {report.verdict.reference}: "
            f"{(gaps < 0).mean():.0%} of {len(gaps):,} users have a lower loss, {(gaps > 0).mean():.0%} "
            "a higher one. A user has few held-out rows, so most single differences are chance.",
        ),
        tag("ul", *(tag("li", one) for one in user_sentences(report.effects))),
        *_pictures(
            (
                f"Each user under both: below the line the migration is better{few}",
                svg.user_points(
                    "Each user under both methods",
                    list(drawn[["first", "second"]].itertuples(index=False, name=None)),
                    (f"Retrained: {unit}", f"Migrated: {unit}"),
                ),
            ),
            ("How far users move: left of zero they gain", _histogram(gaps, unit)),
            *((f"By {name}", _group_picture(name, group)) for name, group in report.groups.items()),
        ),
        *_regressing(report.verdict.refine, values),
    ]


def _histogram(gaps: np.ndarray, unit: str) -> Element:
    bars = list(difference_bins(gaps, 48).itertuples(index=False, name=None))
    return svg.bars("Distribution of differences", bars, f"Migrated minus retrained: {unit}")


def _group_picture(name: str, groups: pd.DataFrame) -> Element:
    rows = [
        (f"{row.group} ({row.users:,} users)", "migrated", row.difference, row.low, row.high)
        for row in groups.itertuples()
    ]
    label = "Difference (below 0: the migration is better)"
    return svg.interval_rows(f"Difference by {name}", rows, label, line_at=0.0)


def _regressing(refine: Sequence[str], users: pd.DataFrame) -> list[Content]:
    head = ["User", "Held-out rows", "Retrained", "Migrated", "Probability to regress"]
    rows = [
        [
            str(row.user_id),
            f"{row.n:,}",
            f"{row.first:.3f}",
            f"{row.second:.3f}",
            f"{row.probability:.0%}",
        ]
        for row in users.head(MOST_LISTED).itertuples()
    ]
    found: list[Content] = [
        tag("h3", f"The {len(rows)} users most likely to regress"),
        html.table(head, rows, numbers=range(1, len(head))),
    ]
    if refine:
        shown = ", ".join(refine[:MOST_REFINED])
        more = f" and {len(refine) - MOST_REFINED:,} more" if len(refine) > MOST_REFINED else ""
        found += [
            tag("h3", f"Users to refine ({len(refine):,})"),
            tag("p", f"{shown}{more}", cls="ids"),
        ]
    return found


def _origin(report: Report) -> list[Content]:
    """Lineage, settings, seeds and versions."""
    rows: list[list[Content]] = []
    for run in report.lineage:
        settings = json.dumps(run.config, ensure_ascii=False, indent=1)
        folded = tag("details", tag("summary", "settings"), tag("pre", settings))
        rows.append(
            [
                run.kind,
                run.name,
                tag("code", run.id),
                "" if run.seed is None else str(run.seed),
                _time(run),
                str(run.device or ""),
                str(run.finished or "")[:16].replace("T", " "),
                folded,
            ]
        )
    head = ["Kind", "Name", "Run", "Seed", "Time", "Device", "Finished (UTC)", "Settings"]
    versions: dict[str, set[str]] = {}
    for run in report.lineage:
        for name, version in run.versions.items():
            versions.setdefault(name, set()).add(version)
    listed = [(name, ", ".join(sorted(found))) for name, found in sorted(versions.items())]
    return [
        tag("h2", "Where it comes from"),
        tag(
            "p",
            "Every run behind this report, the last first. A run's id follows from its question: "
            "data, models, settings and seed.",
        ),
        html.table(head, rows, numbers=(3, 4)),
        tag("h3", "Versions"),
        html.facts(listed),
    ]


def _time(run: Run) -> str:
    """How long a run took; of imported prompts, how long they had been fitted before."""
    seconds = run.cost.get("fitting_seconds", run.seconds)
    return "" if seconds is None else format_seconds(float(seconds))


def _definitions(metrics: Sequence[str]) -> list[Content]:
    terms = [(heading(term), TERMS[term]) for term in (*DEFINED, *metrics)]
    return [tag("h2", "What the words mean"), html.facts(terms)]


def _pictures(*pictures: tuple[str, Element]) -> list[Content]:
    figures = [tag("figure", tag("figcaption", caption), picture) for caption, picture in pictures]
    return [tag("div", *figures, cls="figures")]


def _legend(kinds: pd.Series) -> Element:
    items = []
    for kind in [one for one in KINDS if one in set(kinds)]:
        look = KINDS[kind]
        shape = tag("path", d=svg.MARKS[look.symbol], fill=look.colour)
        mark = tag("svg", shape, viewBox="-7 -7 14 14", cls="mark", aria_hidden="true")
        items.append(tag("span", mark, look.label))
    return tag("p", *items, cls="legend")


def _figure(value: float, low: float, high: float, form: str = ".4f") -> Element:
    interval = tag("span", f"[{low:{form}}, {high:{form}}]", cls="interval")
    return tag("span", f"{value:{form}}", interval)


def _signed(value: float, low: float, high: float) -> Element:
    return _figure(value, low, high, "+.4f")


def _whole(value: object) -> str:
    return "" if pd.isna(value) else f"{int(value):,}"  # type: ignore[call-overload, arg-type]
