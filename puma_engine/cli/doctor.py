"""puma doctor: checks of the installation and the workspace, and rebuilding its database."""

from typing import Annotated

import typer

from puma_engine.cli.session import session
from puma_engine.errors import NotFoundError, StoreError


def doctor(
    scrub: Annotated[
        bool,
        typer.Option("--scrub", help="Check every page of the database, every record and model."),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Restore lost and damaged runs from their records first."),
    ] = False,
) -> None:
    """Check versions, devices, shipped data, the zoo and every file of the workspace.

    Exits with 1 if a check fails; warnings alone exit with 0.
    """
    from puma_engine.pipeline.doctor import check_installation, check_workspace

    rows = check_installation()
    try:
        if rebuild:
            rows += rebuilt_rows()
        rows += check_workspace(session.open(), scrub=scrub)
    except StoreError as error:
        status = "warn" if isinstance(error, NotFoundError) else "fail"
        rows.append({"check": "workspace", "status": status, "detail": str(error)})
    session.table(rows)
    if any(row["status"] == "fail" for row in rows):
        raise typer.Exit(1)


def rebuilt_rows() -> list[dict[str, str]]:
    """Rebuild the database, and return the result as rows of check, status and detail."""
    from puma_engine.store.rebuilding import rebuild

    result = rebuild(session.path)
    detail = f"{len(result.restored)} runs restored from their records"
    if result.set_aside is not None:
        detail += f"; the old database is at {result.set_aside}"
    rows = [{"check": "rebuild", "status": "ok", "detail": detail}]
    return rows + [
        {"check": "rebuild", "status": "fail", "detail": problem} for problem in result.problems
    ]
