"""Reports of studies, of the workspace or published, as tables for the Studies page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from dashboard import engine
from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.evaluation.metrics import METRICS
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.claims import CLAIMS, INTERVALS
from puma_engine.studies.differences import gap, overall
from puma_engine.studies.evidence import (
    QUICK,
    Evidence,
    Finding,
    findings,
    grouped,
    published,
    results_root,
)
from puma_engine.studies.reports import (
    datasets,
    is_of_budgets,
    label_of,
    metric_of,
    read_report,
    reported,
    title_of,
)

__all__ = [
    "CLAIMS",
    "INTERVALS",
    "METRICS",
    "RANDOM",
    "Evidence",
    "Finding",
    "about",
    "budgets",
    "datasets",
    "differences",
    "every",
    "figures",
    "findings",
    "grouped",
    "is_of_budgets",
    "kept",
    "leading",
    "names",
    "report",
    "shared",
    "summary",
    "tally",
    "title_of",
]

RANDOM = "random"


def names() -> list[str]:
    """Studies that have a report in the workspace."""
    return reported(engine.workspace())


def kept() -> tuple[list[Evidence], list[engine.StoreError]]:
    """Every report of the workspace, and what is wrong with those that are damaged."""
    found, damaged = [], []
    for name in names():
        try:
            found.append(Evidence(name, report(name)))
        except engine.StoreError as error:
            damaged.append(error)
    return found, damaged


def shared() -> list[Evidence] | None:
    """The reports published with PUMA, None without their folder; raises StoreError and StudyError."""
    root = results_root()
    return None if root is None else published(root)


def about(name: str) -> str:
    """What a study asks."""
    return STUDIES[name].about


def every() -> list[tuple[str, str]]:
    """All studies: name, and what each asks."""
    return [(study.name, study.about) for study in STUDIES.values()]


def report(name: str) -> dict[str, Any]:
    """Return the report of a study of the workspace; raises StoreError."""
    return read_report(engine.workspace(), name)


def figures(found: Finding) -> str:
    """What a finding rests on, without the words that say it was a quick trial."""
    # No line may begin with the sign of a number before it.
    return found.figures.removeprefix(QUICK).replace(" %", "\u00a0%")


def tally(found: Iterable[Finding]) -> Counter[str]:
    """How many findings there are of each verdict."""
    return Counter(one.verdict for one in found)


def summary(found: dict[str, Any], dataset: str) -> tuple[str, pd.DataFrame]:
    """The main metric, and a row a method: means over seeds with their spread, and cost."""
    lines = [line for line in found["summary"] if line["dataset"] == dataset]
    metric = metric_of(lines)
    rows = [
        {
            "method": label_of(line),
            "kind": line.get("kind"),
            "share": line.get("share"),
            "seeds": line["seeds"] if line.get("kind") != "baseline" else None,
            "users trained": line.get("users_trained"),
            metric: line[metric],
            "sd over seeds": line.get(f"{metric}_sd"),
            "seconds": line.get("seconds"),
        }
        for line in lines
    ]
    return metric, pd.DataFrame(rows).dropna(axis="columns", how="all")


def budgets(found: dict[str, Any], dataset: str) -> pd.DataFrame:
    """A row a strategy, in the report's order: its mean score at each budget, and over all.

    Columns: method, a share of users each, then the mean difference from random users in pairs
    of the same budget and seed, its interval over trainings (as text) and the number of pairs;
    empty for random users and with fewer than three pairs.
    """
    metric, scores = summary(found, dataset)
    wide = scores.pivot(index="method", columns="share", values=metric)
    wide.columns = [f"{share:.0%}" for share in wide.columns]
    wide = wide.loc[scores["method"].unique()].reset_index()
    known = overall(found, dataset)
    whole = [known.get(name) for name in wide["method"]]
    wide["difference"] = [one.value if one else None for one in whole]
    wide["interval"] = [f"{one.low:+.4f} to {one.high:+.4f}" if one else None for one in whole]
    wide["pairs"] = pd.array([one.pairs if one else None for one in whole], dtype="Int64")
    return wide


def leading(table: pd.DataFrame, metric: str) -> list[str]:
    """The paper's strategy and the one that is ahead over all budgets, of those in the table."""
    known = table.dropna(subset="difference").sort_values("difference")
    best = (
        known["method"].iloc[[-1 if METRICS[metric].higher_is_better else 0]] if len(known) else []
    )
    paper = [name for name in table["method"] if name == PAPER_STRATEGY]
    return list(dict.fromkeys([*paper, *best]))


def against(found: dict[str, Any]) -> str:
    """What all differences of a report are measured against, in words."""
    return ", ".join(dict.fromkeys(label_of(line["against"]) for line in found["differences"]))


def differences(found: dict[str, Any], dataset: str) -> pd.DataFrame:
    """A row a difference: method, kind, share, value, low, high and whether it is real.

    over: what its interval resamples, users or trainings. trainings: its interval over trainings
    as text, empty for fewer than three.
    """
    lines = [line for line in found["differences"] if line["dataset"] == dataset]
    names = ("kind", "share", "value", "low", "high", "seeds", "users", "real")
    rows = [
        {"method": label_of(line), "over": line.get("over", "users")}
        | {name: line.get(name) for name in names}
        | {"trainings": _over_trainings(found, line)}
        for line in lines
    ]
    return pd.DataFrame(rows, columns=["method", *names, "over", "trainings"])


def _over_trainings(found: dict[str, Any], line: dict[str, Any]) -> str | None:
    one = gap(found, line)
    ends = None if one is None else one.over_seeds
    return None if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"
