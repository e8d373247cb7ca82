"""puma claims: what of the paper is reproduced, from reports of studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    own: Annotated[
        bool, typer.Option("--own", help="Judge by the studies of this workspace.")
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown", help="Page to write into, between <!-- claims --> and <!-- /claims -->."
        ),
    ] = None,
) -> None:
    """Say for each claim of the paper whether it is reproduced, on each data set.

    Judged by the published studies, by those of a folder, or by those of the workspace.
    """
    from puma_engine.studies.evidence import findings, put_into
    from puma_engine.studies.evidence import markdown as findings_markdown

    found = findings(_reports(results, own))
    if not found:
        raise StudyError(
            "There are no reports of studies that answer a claim; `puma study table2 --quick` makes "
            "one, which --own reads from the workspace and --results from its folder."
        )
    if markdown is not None:
        if not markdown.is_file():
            raise ConfigError(f"There is no page {markdown} to write the claims into.")
        page = markdown.read_text(encoding="utf-8")
        text = put_into(page, findings_markdown(found))
        markdown.write_text(text, encoding="utf-8")
    session().table([_row(one) for one in found], raw=[_record(one) for one in found])


def _reports(results: Path | None, own: bool) -> list[Evidence]:
    from puma_engine.studies.evidence import of_workspace, published, results_root

    if own and results is not None:
        raise ConfigError("Give --own or --results, not both.")
    if own:
        return of_workspace(session().open())
    root = results or results_root()
    if root is None or not root.is_dir():
        raise StudyError(
            f"There are no published reports in {root or 'docs/results'}; name their folder with "
            "--results, or take the studies of the workspace with --own."
        )
    return published(root)


def _row(one: Finding) -> dict[str, Any]:
    return {
        "claim": one.claim.name,
        "data": one.dataset,
        "here": one.verdict,
        "figures": one.figures,
        "report": one.evidence.name if one.evidence else None,
    }


def _record(one: Finding) -> dict[str, Any]:
    made = one.evidence.made if one.evidence else None
    return _row(one) | {"text": one.claim.text, "rule": one.claim.rule, "made": made}
