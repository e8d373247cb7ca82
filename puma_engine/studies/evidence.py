"""Reports as evidence for the paper's claims, and the findings as a table of Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma_engine.errors import ConfigError, StudyError
from puma_engine.store import Workspace
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.claims import CLAIMS, INTERVALS, Claim, Verdict
from puma_engine.studies.reports import datasets, device_names, load_report, read_report, reported

ENVIRONMENT = "PUMA_RESULTS"
QUICK = "Quick trial: "
NO_FIGURES = "No report has the rows that could tell."


@dataclass(frozen=True)
class Evidence:
    """A report of a study; name: its file's path among those beside it, without the ending."""

    name: str
    report: dict[str, Any]

    @property
    def study(self) -> str:
        """Name of the study."""
        return str(self.report["study"])

    @property
    def quick(self) -> bool:
        """Whether it was only a trial on few users."""
        return bool(self.report.get("options", {}).get("quick"))

    def size(self, dataset: str) -> tuple[int, int]:
        """Most users of a row of a data set, and most trainings of a method."""
        own = [row for row in self.report["rows"] if row["dataset"] == dataset]
        seeds = {row["seed"] for row in own if row.get("seed") is not None}
        return max((int(row["users"]) for row in own), default=0), len(seeds)

    @property
    def made(self) -> str:
        """When and on what it was made."""
        return f"{self.report['date']}, {device_names(self.report)}"


@dataclass(frozen=True)
class Finding:
    """What a claim comes to on one data set, and the report that says so (None: no evidence)."""

    claim: Claim
    dataset: str
    verdict: Verdict
    figures: str
    evidence: Evidence | None = None


def results_root() -> Path | None:
    """Return the folder of the published reports, of the checkout or the package, or None.

    PUMA_RESULTS names another folder, which must exist.
    """
    named = os.environ.get(ENVIRONMENT)
    if named and not Path(named).expanduser().is_dir():
        raise StudyError(f"{ENVIRONMENT} names {named}, which is no folder; set it, or unset it.")
    package = Path(__file__).resolve().parents[1]
    candidates = (package.parent / "docs" / "results", package / "shipped" / "results")
    roots = [Path(named).expanduser()] if named else candidates
    return next((root for root in roots if root.is_dir()), None)


def published(root: Path) -> list[Evidence]:
    """Return the reports below a folder, by name; raises StoreError for one that is damaged."""
    files = sorted(file for file in root.rglob("*.json") if file.stem in STUDIES)
    return [Evidence(_name(file, root), load_report(file, "make it again")) for file in files]


def _name(file: Path, root: Path) -> str:
    own = file.relative_to(root).with_suffix("")
    # The usual folder of a study has the study's name.
    return own.name if own.parts[:-1] in ((), (own.name,)) else own.as_posix()


def of_workspace(ws: Workspace) -> list[Evidence]:
    """Return the latest report of every study run in a workspace; raises StoreError."""
    return [Evidence(name, read_report(ws, name)) for name in reported(ws)]


def findings(reports: Sequence[Evidence]) -> list[Finding]:
    """Return every claim on every data set that any report is of.

    Of several reports of a study that one counts which is of most users, then of most seeds,
    then the newest, and has the rows that the claim needs. Quick ones count only where there
    is no other.
    """
    answering = {claim.study for claim in CLAIMS}
    known = dict.fromkeys(
        dataset
        for evidence in reports
        if evidence.study in answering
        for dataset in datasets(evidence.report)
    )
    return [_judge(claim, dataset, reports) for claim in CLAIMS for dataset in sorted(known)]


def _judge(claim: Claim, dataset: str, reports: Iterable[Evidence]) -> Finding:
    own = [
        evidence
        for evidence in reports
        if evidence.study == claim.study and evidence.size(dataset) > (0, 0)
    ]
    whole = [evidence for evidence in own if not evidence.quick] or own
    best_first = sorted(
        whole, key=lambda one: (*one.size(dataset), one.report["date"]), reverse=True
    )
    for evidence in best_first:
        found = claim.judge(evidence.report, dataset)
        if found is not None:
            figures = (QUICK if evidence.quick else "") + found.figures
            return Finding(claim, dataset, found.verdict, figures, evidence)
    return Finding(claim, dataset, "no evidence", NO_FIGURES)


def grouped(found: Iterable[Finding]) -> dict[Claim, list[Finding]]:
    """Return findings by claim, those with evidence first."""
    groups: dict[Claim, list[Finding]] = {}
    for one in found:
        groups.setdefault(one.claim, []).append(one)
    return {
        claim: sorted(own, key=lambda one: one.evidence is None) for claim, own in groups.items()
    }


BEGIN, END = "<!-- claims -->", "<!-- /claims -->"


def markdown(found: Sequence[Finding]) -> str:
    """Return the table of all claims, and the rules by which they are judged."""
    lines = ["| claim of the paper | data | here | figures | from |", "| --- " * 5 + "|"]
    for claim, own in grouped(found).items():
        text = claim.text
        for one in own:
            if one.evidence is None:
                continue
            source = f"`{one.evidence.name}`, {one.evidence.made}"
            lines.append(_row(text, one.dataset, f"**{one.verdict}**", one.figures, source))
            text = ""
        lost = [one.dataset for one in own if one.evidence is None]
        if lost:
            lines.append(_row(text, ", ".join(lost), "no evidence", "", f"`{claim.study}`"))
    rules = [f"- **{claim.text}** {claim.rule}" for claim in grouped(found)]
    return "\n".join([*lines, "", "How each is judged:", "", *rules, "", INTERVALS])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def put_into(page: str, block: str) -> str:
    """Return a page with a new text between its marks; raises ConfigError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"The page has no lines {BEGIN} and {END} to put the claims between.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"
