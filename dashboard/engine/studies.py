"""Reports of studies, of the workspace or published, as tables for the Studies page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from dashboard import engine
from puma_engine.metrics import HIGHER_IS_BETTER, NAMES
from puma_engine.study.catalog import STUDIES
from puma_engine.study.claims import CLAIMS, INTERVALS
from puma_engine.study.evidence import (
    QUICK,
    Evidence,
    Finding,
    findings,
    grouped,
    published,
    results_root,
)
from puma_engine.study.kept import read_report, reported
from puma_engine.study.render import datasets, label_of, metric_of, title_of

__all__ = [
    "CLAIMS",
    "HIGHER_IS_BETTER",
    "INTERVALS",
    "NAMES",
    "Evidence",
    "Finding",
    "about",
    "datasets",
    "differences",
    "every",
    "figures",
    "findings",
    "grouped",
    "kept",
    "names",
    "report",
    "shared",
    "summary",
    "tally",
    "title_of",
]


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


def against(found: dict[str, Any]) -> str:
    """What all differences of a report are measured against, in words."""
    return ", ".join(dict.fromkeys(label_of(line["against"]) for line in found["differences"]))


def differences(found: dict[str, Any], dataset: str) -> pd.DataFrame:
    """A row a difference: method, kind, share, value, low, high and whether it is real.

    over: what its interval resamples, users or trainings.
    """
    lines = [line for line in found["differences"] if line["dataset"] == dataset]
    names = ("kind", "share", "value", "low", "high", "seeds", "users", "real")
    rows = [
        {"method": label_of(line), "over": line.get("over", "users")}
        | {name: line.get(name) for name in names}
        for line in lines
    ]
    return pd.DataFrame(rows, columns=["method", *names, "over"])
