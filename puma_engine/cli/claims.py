"""puma claims: what of the paper is reproduced, from reports of studies."""

from pathlib import Path
from typing import Any

from puma_engine.cli.options import with_options
from puma_engine.cli.session import session
from puma_engine.errors import ConfigError, StudyError


@with_options(
    results="Folder of reports (default: those published with PUMA).",
    workspace_reports="Use the reports of this workspace.",
    markdown="Page to write into, between <!-- claims --> and <!-- /claims -->.",
)
def claims(
    results: Path | None = None, workspace_reports: bool = False, markdown: Path | None = None
) -> None:
    """Say for each claim of the paper whether it is reproduced, on each data set.

    The evidence is the published reports, those of a folder, or those of the workspace.
    """
    from puma_engine.studies import evidence

    if workspace_reports and results is not None:
        raise ConfigError("Give --workspace-reports or --results, not both.")
    if workspace_reports:
        reports = evidence.workspace_evidence(session.open())
    else:
        root = results or evidence.results_root()
        if root is None or not root.is_dir():
            raise StudyError(
                f"There are no published reports in {root or 'docs/results'}; name their folder with "
                "--results, or use those of the workspace with --workspace-reports."
            )
        reports = evidence.published_evidence(root)
    rows = evidence.findings(reports)
    if not rows:
        raise StudyError(
            "There are no reports of studies that answer a claim; `puma study table2 --quick` makes "
            "one, which --workspace-reports reads from the workspace and --results from its folder."
        )
    if markdown is not None:
        if not markdown.is_file():
            raise ConfigError(f"There is no page {markdown} to write the claims into.")
        page = markdown.read_text(encoding="utf-8")
        page = evidence.replace_between_marks(page, evidence.findings_markdown(rows))
        markdown.write_text(page, encoding="utf-8")
    shown = [
        {
            "claim": finding.claim.name,
            "data": finding.dataset,
            "here": finding.verdict,
            "figures": finding.figures,
            "report": finding.evidence.name if finding.evidence else None,
        }
        for finding in rows
    ]
    details: list[dict[str, Any]] = [
        {
            "text": finding.claim.text,
            "rule": finding.claim.rule,
            "made": finding.evidence.made if finding.evidence else None,
        }
        for finding in rows
    ]
    session.table(shown, raw=[row | more for row, more in zip(shown, details, strict=True)])
