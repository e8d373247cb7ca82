"""puma gc, backup, restore and users: tidy and back up a workspace, and erase a user."""

from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.session import session, text_of
from puma_engine.errors import StoreError

users = typer.Typer(name="users", help="Users of a workspace: erase one.")


def gc(
    days: Annotated[
        float, typer.Option("--days", min=0, help="Days that ended jobs and their logs are kept.")
    ] = 90.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove old jobs and logs, uploads and leftovers that nothing needs; compact the database.

    Runs and their results are kept; `puma runs delete` removes them.
    """
    from puma_engine.jobs.tidying import leftovers, tidy

    ws = session.open()
    removable = leftovers(ws, days=days) if dry_run else tidy(ws, days=days)
    rows = [{"path": item.path, "bytes": item.bytes, "why": item.why} for item in removable]
    if session.as_json:
        session.json({"dry_run": dry_run, "removed": rows})
        return
    if rows:
        session.table(rows)
    total = text_of(sum(item.bytes for item in removable))
    print(f"{len(rows)} files and folders, {total} bytes, {'would go' if dry_run else 'are gone'}.")


@users.command("erase")
def erase(
    user: Annotated[str, typer.Argument(help="User id, as in the data sets.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show where the user is, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Text of the audit line, such as a ticket.")
    ] = None,
) -> None:
    """Erase a user: data, prompts, metrics, predictions, maps, uploads, logs and database pages.

    Adapters and heads that were trained on the user are listed and kept, and so are pooled metrics.
    The audit table gets a line without the user's id. No job may be queued or running.
    """
    from puma_engine.pipeline.erasing import erase_user

    ws = session.open()
    if not (dry_run or yes):
        erased = erase_user(ws, user, dry_run=True)
        session.show({"runs": erased.runs, "uploads": erased.uploads, "logs": erased.logs})
        typer.confirm(f"Erase the user {user!r} from them?", abort=True)
    session.show(erase_user(ws, user, dry_run=dry_run, reason=reason))


def backup(
    target: Annotated[Path, typer.Argument(help="New folder for the copy.")],
) -> None:
    """Copy the workspace to a new folder, also while jobs run, and check the copy.

    Checkpoints of unfinished runs and uploads are left out. Exits with 1 if the copy has a problem.
    """
    from puma_engine.store.backups import backup as copy

    _show_copy(copy(session.open(), target))


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that puma backup made.")],
) -> None:
    """Copy a backup to the path of the workspace, which must not exist, and check it."""
    from puma_engine.store.backups import restore as copy

    _show_copy(copy(source, session.path))


def _show_copy(copied: Any) -> None:
    session.show(copied)
    if copied.problems:
        raise StoreError(f"The copy has {len(copied.problems)} problems: {copied.problems[0]}")
