"""What the Summary shows of a comparison: its question, the plans, and the behaviour of users."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.engine import Run, comparisons
from dashboard.engine.comparisons import MARGIN
from dashboard.engine.user_impact import EvaluationPair, impact
from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.errors import StoreError, StudyError
from puma_engine.evaluation import plan_summary
from puma_engine.evaluation.formatting import capitalised, format_percent
from puma_engine.evaluation.metrics import METRICS
from puma_engine.evaluation.plan_summary import (
    ComparisonSetup,
    best_baseline,
    plan_costs,
    sources_of_migration,
)
from puma_engine.evaluation.user_effects import UserEffects
from puma_engine.evaluation.verdict import (
    MIGRATED,
    DecisionRange,
    Verdict,
    decision_ranges,
)
from puma_engine.pipeline import summary_page
from puma_engine.pipeline.user_behaviour import Behaviour, behaviour_of_evaluations
from puma_engine.pipeline.verdicts import comparison_data
from puma_engine.report import decision_texts, label_layout
from puma_engine.store import Workspace
from puma_engine.studies.evidence import results_root
from puma_engine.studies.reports import Report, datasets, load_report, shares_of
from puma_engine.studies.seeds_needed import seeds_to_decide

__all__ = [
    "MIGRATED",
    "ComparisonSetup",
    "DecisionRange",
    "best_baseline",
    "capitalised",
    "decision_texts",
    "format_percent",
    "label_layout",
    "plan_costs",
    "sources_of_migration",
]

MAX_DRAWN = 2_000
# The published study whose migrations are a curve of cost and quality, and their names in it.
PUBLISHED_STUDY = "table2"
PUBLISHED_METHODS = re.compile(rf"PUMA, (all users|[\d.]+% \({PAPER_STRATEGY}\))")


def comparison_setup(run: Run, plans: pd.DataFrame, method: str | None) -> ComparisonSetup:
    """Return what a comparison is about. method: the judged migration."""
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    name = split.name if split else f"{run.summary['split']} split"
    return plan_summary.comparison_setup(plans, method, int(run.summary["users"]), name)


def plans(run: Run) -> pd.DataFrame:
    """Return what each method of a comparison keeps and costs; see plan_summary.plan_table."""
    methods, scores = comparisons.tables(engine.root(), run.id)
    metric = comparisons.PRIMARY_METRIC[run.summary["task"]]
    shares = comparisons.shares(engine.root(), run.id)
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    evaluated = split and comparisons.methods(split)
    return plan_summary.plan_table(methods, scores, shares, metric, evaluated)


@st.cache_data(max_entries=50, show_spinner=False)
def ranges(root: str, run_id: str) -> tuple[DecisionRange, ...]:
    """Return the decisions at every accepted error that pages offer. Raises PumaError."""
    try:
        ws = Workspace.open(root)
        known = comparisons.names(ws, run_id)
        ranges = decision_ranges(comparison_data(ws, run_id, margin=MARGIN))
        return tuple(replace(part, method=known[part.method]) for part in ranges)
    except (KeyError, IndexError) as error:
        raise StoreError("The comparison's tables are not those of this version.") from error


def published_curve(run: Run, target: str, reference: str) -> pd.DataFrame:
    """Return what migrations cost and keep in the study that is published of a comparison's data and model.

    target: the name of the new model. reference: what gains are measured from. Columns: method, cost
    and kept, both shares of full retraining's; by cost. Empty without one.
    """
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    try:
        root = results_root()
    except StudyError:  # the page Evidence says so
        root = None
    if split is None or root is None:
        return pd.DataFrame(columns=["method", "cost", "kept"])
    source = str(engine.run(split.dataset).summary.get("dataset") or "")
    return _published_curve(str(root), source, target, reference)


@st.cache_data(max_entries=20, show_spinner=False)
def _published_curve(root: str, source: str, target: str, reference: str) -> pd.DataFrame:
    empty = pd.DataFrame(columns=["method", "cost", "kept"])
    report = _published_report(Path(root), source, target)
    if report is None:
        return empty
    shares = {
        line["method"]: line["kept"]
        for (_, measured_from, aspect), line in shares_of(report, source).items()
        if (measured_from, aspect) == (reference, "level")
    }
    lines = {line["method"]: line for line in report["summary"] if line["dataset"] == source}
    retraining_flops = lines.get("retrained", {}).get("flops")
    rows = [
        {
            "method": name.removeprefix("PUMA, "),
            "cost": line["flops"] / retraining_flops,
            "kept": shares[name],
        }
        for name, line in lines.items()
        if PUBLISHED_METHODS.fullmatch(name)
        and retraining_flops
        and line.get("flops")
        and shares.get(name)
    ]
    return pd.DataFrame(rows, columns=list(empty)).sort_values("cost", ignore_index=True)


def _published_report(root: Path, source: str, target: str) -> Report | None:
    """Return the study that is published of a data set and a new model; None without one."""
    for file in sorted(root.glob(f"*/{PUBLISHED_STUDY}.json")):
        try:
            report = load_report(file, "make it again")
        except StoreError:  # the page Evidence says so
            continue
        options = report.get("options", {})
        if (
            options.get("target") == target
            and not options.get("quick")
            and source in datasets(report)
        ):
            return report
    return None


def seed_spread(run: Run, plans: pd.DataFrame) -> tuple[int, int, float] | None:
    """Return how far trainings with other seeds are apart; see plan_summary.seed_spread."""
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    return None if split is None else plan_summary.seed_spread(comparisons.methods(split), plans)


def seeds_outlook(run: Run, verdict: Verdict, share: float) -> str:
    """Say how many more seeds would settle a verdict that is not settled; "" for others.

    Losses of trainings with the same seeds as the full retraining are compared with the accepted error,
    on the users of the comparison. share: the accepted error.
    """
    split = comparisons.split_of(run) if "reference" in run.inputs else None
    if verdict.decision != "undecided" or split is None:
        return ""
    methods, _ = comparisons.tables(engine.root(), run.id)
    evaluation = methods.loc[methods["method"] == verdict.method, "evaluation"].iloc[0]
    losses = plan_summary.seed_losses(
        comparisons.methods(split),
        evaluation,
        higher_is_better=METRICS[verdict.metric].higher_is_better,
    )
    about = f"whether trainings are within {format_percent(share)} on average"
    if len(losses) < 2:
        return (
            f"How many more seeds would tell {about} cannot be known from one; train the migration "
            "and full retraining with a second one."
        )
    needed = seeds_to_decide(losses, verdict.margin)
    if needed is None:
        return f"More seeds alone are unlikely to tell {about}."
    more = max(needed - len(losses), 0)
    if not more:
        return f"On these users, {len(losses)} seeds tell {about}; other users may differ."
    return (
        f"On these users, about {more} more seed{'' if more == 1 else 's'} would tell {about} "
        f"({len(losses)} so far)."
    )


def measured_before(run: Run) -> int:
    """Return how many methods of an own comparison come from published runs."""
    return summary_page.measured_before(engine.workspace(), run)


def effects(run: Run, evaluation: str) -> UserEffects | None:
    """Return the effects of an evaluation on users; None if predictions are gone."""
    reference = run.inputs.get("reference")
    if reference is None:
        return None
    ratings = run.summary["task"] == "rating"
    measured = impact(engine.root(), EvaluationPair(run.id, evaluation, reference, ratings))
    return None if measured is None else measured.effects


@st.cache_resource(max_entries=20, show_spinner=False)
def behaviour(root: str, evaluations: tuple[str, ...], anchors: int) -> Behaviour | None:
    """Return how users are served by evaluated methods, see `behaviour_of_evaluations`.

    Of at most MAX_DRAWN users. None if predictions are gone or there are too many rows. anchors: how
    many runs with anchor predictions the workspace has, since new ones change the result. Do not change
    the result.
    """
    return behaviour_of_evaluations(Workspace.open(root), evaluations, MAX_DRAWN)
