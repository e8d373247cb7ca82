"""puma claims: what of the paper is reproduced, from reports of studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma_engine.cli.config_options import renamed_option
from puma_engine.cli.session import session
from puma_engine.errors import ConfigError, StudyError

if TYPE_CHECKING:
    from puma_engine.studies.evidence import Evidence, Finding


def register(app: typer.Typer) -> None:
    """Add the command of this module to the tree."""
    app.command("claims")(claims)


def claims(
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Folder of reports (default: those published with PUMA)."),
    ] = None,
    workspace_reports: Annotated[
        bool,
        typer.Option("--workspace-reports", help="Use the reports of this workspace."),
    ] = False,
    own: Annotated[bool, renamed_option("--own", "--workspace-reports")] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown", help="Page to write into, between <!-- claims --> and <!-- /claims -->."
        ),
    ] = None,
) -> None:
    """Say for each claim of the paper whether it is reproduced, on each data set.

    The evidence is the published reports, those of a folder, or those of the workspace.
    """
    from puma_engine.studies.evidence import findings, findings_markdown, replace_between_marks

    rows = findings(_evidence(results, workspace_reports or own))
    if not rows:
        raise StudyError(
            "There are no reports of studies that answer a claim; `puma study table2 --quick` makes "
            "one, which --workspace-reports reads from the workspace and --results from its folder."
        )
    if markdown is not None:
        if not markdown.is_file():
            raise ConfigError(f"There is no page {markdown} to write the claims into.")
        page = markdown.read_text(encoding="utf-8")
        page = replace_between_marks(page, findings_markdown(rows))
        markdown.write_text(page, encoding="utf-8")
    session().table([_row(finding) for finding in rows], raw=[_record(finding) for finding in rows])


def _evidence(results: Path | None, of_workspace: bool) -> list[Evidence]:
    from puma_engine.studies.evidence import published_evidence, results_root, workspace_evidence

    if of_workspace and results is not None:
        raise ConfigError("Give --workspace-reports or --results, not both.")
    if of_workspace:
        return workspace_evidence(session().open())
    root = results or results_root()
    if root is None or not root.is_dir():
        raise StudyError(
            f"There are no published reports in {root or 'docs/results'}; name their folder with "
            "--results, or use those of the workspace with --workspace-reports."
        )
    return published_evidence(root)


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "claim": finding.claim.name,
        "data": finding.dataset,
        "here": finding.verdict,
        "figures": finding.figures,
        "report": finding.evidence.name if finding.evidence else None,
    }


def _record(finding: Finding) -> dict[str, Any]:
    made = finding.evidence.made if finding.evidence else None
    return _row(finding) | {"text": finding.claim.text, "rule": finding.claim.rule, "made": made}
