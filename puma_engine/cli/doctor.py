"""puma doctor: checks of the installation and the workspace."""

import typer

from puma_engine.cli.session import session
from puma_engine.errors import NotFoundError, StoreError


def doctor() -> None:
    """Check versions, devices, shipped data, the zoo and every file of the workspace.

    Exits with 1 if a check fails; warnings alone exit with 0.
    """
    from puma_engine.pipeline.doctor import check_installation, check_workspace

    rows = check_installation()
    try:
        rows += check_workspace(session.open())
    except StoreError as error:
        status = "warn" if isinstance(error, NotFoundError) else "fail"
        rows.append({"check": "workspace", "status": status, "detail": str(error)})
    session.table(rows)
    if any(row["status"] == "fail" for row in rows):
        raise typer.Exit(1)
