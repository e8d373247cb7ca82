"""Reports of studies, of the workspace or published with PUMA, as tables."""

from typing import Any

import pandas as pd

from dashboard import engine
from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.evaluation.formatting import format_share_interval
from puma_engine.evaluation.metrics import METRICS
from puma_engine.evaluation.shares_kept import REFERENCES
from puma_engine.report.decision_texts import percent
from puma_engine.studies import claims, evidence, reports
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.differences import (
    differences_over_budgets,
    paired_difference,
    primary_metric,
    ranking_metric,
)
from puma_engine.studies.evidence import Evidence
from puma_engine.studies.reports import label_of

__all__ = ["claims", "evidence", "reports"]

RANDOM = "random"
# Words of reports, and what pages say instead.
PLAIN = {
    "the shuffled control": "the same with prompts swapped between users",
    "the source prompts shuffled between users": "the prompts swapped between users",
    "undecided": "not settled yet",
    "backbones": "models",
    "Backbones": "Models",
}


def plain(text: str) -> str:
    """Return a text of the studies in the words of the pages."""
    for word, replacement in PLAIN.items():
        text = text.replace(word, replacement)
    return text


def names() -> list[str]:
    """Return the studies that have a report in the workspace."""
    return reports.stored_reports(engine.workspace())


def of_workspace() -> tuple[list[Evidence], list[engine.StoreError]]:
    """Return every report of the workspace, and the errors of those that are damaged."""
    readable, damaged = [], []
    for name in names():
        try:
            readable.append(Evidence(name, report(name)))
        except engine.StoreError as error:
            damaged.append(error)
    return readable, damaged


def published_reports() -> list[Evidence] | None:
    """Return the reports published with PUMA; None without their folder.

    Raises StoreError or StudyError for a damaged report.
    """
    root = evidence.results_root()
    return None if root is None else evidence.published_evidence(root)


def description(name: str) -> str:
    """Return the question of a study."""
    return plain(STUDIES[name].description)


def descriptions() -> list[tuple[str, str]]:
    """Return the name and the question of every study."""
    return [(name, description(name)) for name in STUDIES]


def report(name: str) -> dict[str, Any]:
    """Return the report of a study of the workspace; raises StoreError."""
    return reports.stored_report(engine.workspace(), name)


def summary(report: dict[str, Any], dataset: str) -> tuple[str, pd.DataFrame]:
    """Return the main metric, and one row per method: means over seeds, spread, shares and cost.

    Shares kept of full retraining's gains are texts, in columns named by reference and aspect.
    """
    lines = [line for line in report["summary"] if line["dataset"] == dataset]
    metric, ranking = primary_metric(lines[0]), ranking_metric(lines)
    shares = reports.shares_of(report, dataset)
    rows = [
        {
            "method": _name(line),
            "kind": line.get("kind"),
            "share": line.get("share"),
            "seeds": line["seeds"] if line.get("kind") != "baseline" else None,
            "users trained": line.get("users_trained"),
            metric: line[metric],
            "sd over seeds": line.get(f"{metric}_sd"),
            **({ranking: line[ranking]} if ranking else {}),
            **{
                f"{METRICS[share['metric']].label} over {REFERENCES[reference]}": share_text(share)
                for (key, reference, _), share in shares.items()
                if key == reports.key_of(line)
            },
            "seconds": line.get("seconds"),
        }
        for line in lines
    ]
    return metric, pd.DataFrame(rows).dropna(axis="columns", how="all")


def share_text(share: dict[str, Any]) -> str:
    """Return the share kept of a gain with its interval, or that there is no sure gain."""
    if share["kept"] is None:
        return "no sure gain"
    return format_share_interval(share["kept"], share["kept_low"], share["kept_high"])


def budgets(report: dict[str, Any], dataset: str) -> pd.DataFrame:
    """Return one row per strategy, in the report's order, with its mean score at each budget.

    Columns: method, one for each share of users, then difference (the mean difference from random
    users in pairs of the same budget and seed), interval (over trainings, as text) and pairs (their
    number). The last three are empty for random users and with fewer than three pairs.
    """
    metric, scores = summary(report, dataset)
    wide = scores.pivot(index="method", columns="share", values=metric)
    wide.columns = [percent(share) for share in wide.columns]
    wide = wide.loc[scores["method"].unique()].reset_index()
    by_name = differences_over_budgets(report, dataset)
    gaps = [by_name.get(name) for name in wide["method"]]
    wide["difference"] = [gap.value if gap else None for gap in gaps]
    wide["interval"] = [f"{gap.low:+.4f} to {gap.high:+.4f}" if gap else None for gap in gaps]
    wide["pairs"] = pd.array([gap.pairs if gap else None for gap in gaps], dtype="Int64")
    return wide


def leading(table: pd.DataFrame, metric: str) -> list[str]:
    """Return the paper's strategy and the best over all budgets, of those in the table."""
    ranked = table.dropna(subset="difference").sort_values("difference")
    best = (
        ranked["method"].tail(1) if METRICS[metric].higher_is_better else ranked["method"].head(1)
    )
    paper = [name for name in table["method"] if name == PAPER_STRATEGY]
    return list(dict.fromkeys([*paper, *best]))


def against(report: dict[str, Any]) -> str:
    """Return the labels of the methods that a report's differences are from."""
    return ", ".join(dict.fromkeys(_name(line["against"]) for line in report["differences"]))


def differences(report: dict[str, Any], dataset: str) -> pd.DataFrame:
    """Return one row per difference: method, kind, share, value, low, high, real (significant).

    over: what the interval resamples, users or trainings. trainings: the interval over trainings
    as text, empty for fewer than three.
    """
    names = ("kind", "share", "value", "low", "high", "seeds", "users", "real")
    rows = []
    for line in report["differences"]:
        if line["dataset"] != dataset:
            continue
        paired = paired_difference(report, line)
        interval = None if paired is None else paired.training_interval
        row = {"method": _name(line), "over": line.get("over", "users")}
        row |= {name: line.get(name) for name in names}
        rows.append(row | {"trainings": interval and f"{interval[0]:+.4f} to {interval[1]:+.4f}"})
    return pd.DataFrame(rows, columns=["method", *names, "over", "trainings"])


def _name(line: dict[str, Any]) -> str:
    """Return the label of a method of a report; the control has its name in plain words."""
    return label_of(line).replace("shuffled control", "check: prompts swapped between users")
