"""Assess the claims of the paper by reports: a verdict for each claim and data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from puma_engine.errors import ConfigError, StudyError
from puma_engine.store import Workspace
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.claims import CLAIMS, IN_RANKING, INTERVALS, Claim, ClaimVerdict, Verdict
from puma_engine.studies.differences import Report
from puma_engine.studies.reports import (
    datasets,
    device_names,
    load_report,
    stored_report,
    stored_reports,
)
from puma_engine.zoo import ZOO

ENVIRONMENT = "PUMA_RESULTS"
QUICK = "Quick trial: "
# Names in texts of models that are not in the zoo.
MODEL_NAMES = {"smollm2": "SmolLM2"}
# Between the source and the target where both are outside the zoo.
TO = " to "
BEGIN, END = "<!-- claims -->", "<!-- /claims -->"


@dataclass(frozen=True)
class Evidence:
    """A report of a study. name: the path of its file in the folder of reports, without extension."""

    name: str
    report: Report

    @property
    def study(self) -> str:
        """Name of the study."""
        return str(self.report["study"])

    @property
    def quick(self) -> bool:
        """Whether the study was a trial on few users."""
        return bool(self.report.get("options", {}).get("quick"))

    @property
    def other_models(self) -> dict[str, str]:
        """The models outside the zoo by role, "source" and "target"; empty for zoo models."""
        options = self.report.get("options", {})
        models = {role: options.get(role) for role in ("source", "target")}
        return {
            role: model for role, model in models.items() if model is not None and model not in ZOO
        }

    @property
    def route(self) -> str:
        """The models outside the zoo: "on smollm2", "from smollm2", "from smollm2 to qwen", or ""."""
        models = self.other_models
        if len(models) == 2:
            return f"from {models['source']}{TO}{models['target']}"
        for role, preposition in (("target", "on"), ("source", "from")):
            if role in models:
                return f"{preposition} {models[role]}"
        return ""

    def size(self, dataset: str) -> tuple[int, int]:
        """Return the largest number of users in a row of a data set, and the number of seeds."""
        rows = [row for row in self.report["rows"] if row["dataset"] == dataset]
        seeds = {row["seed"] for row in rows if row.get("seed") is not None}
        return max((int(row["users"]) for row in rows), default=0), len(seeds)

    @property
    def provenance(self) -> str:
        """Date and devices of the report."""
        return f"{self.report['date']}, {device_names(self.report)}"


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim on one data set, and the report behind it (None: no evidence).

    ranking: the verdict of the same report in ranking, if the primary metric is another one.
    assessed: the full verdict, None without evidence.
    """

    claim: Claim
    dataset: str
    verdict: Verdict
    figures: str
    evidence: Evidence | None = None
    ranking: ClaimVerdict | None = None
    assessed: ClaimVerdict | None = None


def results_root() -> Path | None:
    """Return the folder of the published reports, of the checkout or the package, or None.

    Raises StudyError if PUMA_RESULTS names a folder that does not exist.
    """
    configured = os.environ.get(ENVIRONMENT)
    if configured and not Path(configured).expanduser().is_dir():
        raise StudyError(
            f"{ENVIRONMENT} names {configured}, which is not a folder; set it, or unset it."
        )
    package = Path(__file__).resolve().parents[1]
    candidates = (package.parent / "docs" / "results", package / "shipped" / "results")
    roots = [Path(configured).expanduser()] if configured else candidates
    return next((root for root in roots if root.is_dir()), None)


def published_evidence(root: Path) -> list[Evidence]:
    """Return the reports below a folder, those of zoo models first. Raises StoreError for a damaged one."""
    evidence = []
    for file in sorted(file for file in root.rglob("*.json") if file.stem in STUDIES):
        path = file.relative_to(root).with_suffix("")
        # By default a study's folder has the study's name.
        name = path.name if path.parts[:-1] in ((), (path.name,)) else path.as_posix()
        evidence.append(Evidence(name, load_report(file, "make it again")))
    return sorted(evidence, key=lambda item: item.route != "")


def workspace_evidence(ws: Workspace) -> list[Evidence]:
    """Return the latest report of every study of a workspace. Raises StoreError."""
    return [Evidence(name, stored_report(ws, name)) for name in stored_reports(ws)]


def findings(reports: Sequence[Evidence]) -> list[Finding]:
    """Return a finding for every claim on every data set that the reports cover.

    Of several reports of a study with the rows that a claim needs, the one with the most users is
    used, then the most seeds, then the newest. Reports of quick trials are only used if there is no
    other.
    """
    studies = {claim.study for claim in CLAIMS}
    names = sorted(
        {name for item in reports if item.study in studies for name in datasets(item.report)}
    )
    return [_finding(claim, dataset, reports) for claim in CLAIMS for dataset in names]


def _finding(claim: Claim, dataset: str, reports: Iterable[Evidence]) -> Finding:
    of_study = [
        item for item in reports if item.study == claim.study and item.size(dataset) > (0, 0)
    ]
    eligible = [item for item in of_study if not item.quick] or of_study
    for item in sorted(
        eligible, key=lambda item: (*item.size(dataset), item.report["date"]), reverse=True
    ):
        verdict = claim.assess(item.report, dataset)
        if verdict is not None:
            figures = (QUICK if item.quick else "") + verdict.figures
            ranking = claim.assess_ranking(item.report, dataset)
            return Finding(claim, dataset, verdict.verdict, figures, item, ranking, verdict)
    return Finding(claim, dataset, "no evidence", "No report has the rows that this claim needs.")


def findings_by_column(reports: Sequence[Evidence]) -> dict[str, dict[str, Finding]]:
    """Return findings by data set and name of the claim; data sets without evidence are left out.

    The zoo's columns come first, then those of a target outside it, then those of a source. Reports on a
    model outside the zoo have a column of their own, named by data set, role and model:
    "goodbooks, on smollm2" for a target, "goodbooks, from smollm2" for a source, and "goodbooks, from
    smollm2 to qwen" for both.
    """
    by_model: dict[str, list[Evidence]] = {}
    for item in reports:
        by_model.setdefault(item.route, []).append(item)
    columns: dict[str, dict[str, Finding]] = {}
    for model in sorted(by_model, key=lambda model: (model.startswith("from "), model)):
        group = by_model[model]
        for finding in findings(group):
            name = f"{finding.dataset}, {model}" if model else finding.dataset
            columns.setdefault(name, {})[finding.claim.name] = finding
    return {
        name: column
        for name, column in columns.items()
        if any(finding.evidence is not None for finding in column.values())
    }


def findings_by_model(reports: Sequence[Evidence]) -> list[Finding]:
    """Return the findings of every column, claim by claim; `dataset` is the column's heading.

    A heading is a data set, or its name with another model, such as "goodbooks on SmolLM2".
    """
    columns = findings_by_column(reports)
    return [
        replace(column[claim.name], dataset=column_heading(name))
        for claim in CLAIMS
        for name, column in columns.items()
    ]


def column_heading(column: str, words: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the name of a column of `findings_by_column` for readers: goodbooks on SmolLM2.

    words: other names of data sets.
    """
    dataset, _, role = column.partition(", ")
    name, model = words.get(dataset, dataset), model_of_column(column)
    return f"{name} {role.partition(' ')[0]} {model_heading(model)}" if model else name


def model_of_column(column: str) -> str:
    """Return the model outside the zoo that a column of `findings_by_column` is about, or "".

    For a source and a target outside the zoo: both, "smollm2 to qwen".
    """
    return column.partition(", ")[2].partition(" ")[2]


def model_heading(model: str) -> str:
    """Return the name of `model_of_column` for readers: SmolLM2, or SmolLM2 to qwen."""
    return TO.join(MODEL_NAMES.get(name, name) for name in model.split(TO))


def findings_by_claim(findings: Iterable[Finding]) -> dict[Claim, list[Finding]]:
    """Group findings by claim, those with evidence first."""
    groups: dict[Claim, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.claim, []).append(finding)
    for group in groups.values():
        group.sort(key=lambda finding: finding.evidence is None)
    return groups


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Return findings as a table, with the rules by which claims are assessed."""
    groups = findings_by_claim(findings)
    lines = ["| claim of the paper | data | here | figures | from |", "| --- " * 5 + "|"]
    for claim, group in groups.items():
        text = claim.text
        for finding in group:
            if finding.evidence is None:
                continue
            source = f"`{finding.evidence.name}`, {finding.evidence.provenance}"
            verdict, figures = f"**{finding.verdict}**", finding.figures
            figures += _outlook(finding.assessed)
            if finding.ranking is not None:
                verdict += f"; in ranking **{finding.ranking.verdict}**"
                figures += f". In ranking: {finding.ranking.figures}{_outlook(finding.ranking)}"
            lines.append(_row(text, finding.dataset, verdict, figures, source))
            text = ""
        missing = [finding.dataset for finding in group if finding.evidence is None]
        if missing:
            lines.append(_row(text, ", ".join(missing), "no evidence", "", f"`{claim.study}`"))
    rules = [f"- **{claim.text}** {claim.rule}" for claim in groups]
    return "\n".join([*lines, "", "How each is judged:", "", *rules, "", INTERVALS, "", IN_RANKING])


def _outlook(assessed: ClaimVerdict | None) -> str:
    """Return what would decide an undecided claim, as text behind its figures."""
    outlook = "" if assessed is None else assessed.outlook
    return f". {outlook.removesuffix('.')}" if outlook else ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def replace_between_marks(page: str, text: str) -> str:
    """Return a page with new text between its marks; raise ConfigError if it lacks them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"The page has no lines {BEGIN} and {END} to put the claims between.")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
