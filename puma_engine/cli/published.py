"""puma publish and puma published: comparisons that were measured elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from puma_engine.cli.session import date_text, run_row, session
from puma_engine.defaults import ADDED_MIB, PUBLISHED_MIB

app = typer.Typer(name="published", help="Comparisons measured elsewhere: add, list, remove.")


def publish(
    comparison: Annotated[str, typer.Argument(help="Comparison run: id, prefix or name.")],
    out: Annotated[Path, typer.Option("--out", help="Archive to write, such as results.zip.")],
    command: Annotated[
        str | None, typer.Option("--command", help="How it was measured, stored as text.")
    ] = None,
    max_mib: Annotated[
        float, typer.Option("--max-mib", min=0.1, help="Largest size of the archive in MiB.")
    ] = PUBLISHED_MIB,
) -> None:
    """Write a comparison and all runs that it was made from to one archive, prompts in 16 bits.

    `puma published add` adds it to another workspace. It contains the rows and ids of the data's
    users. Adapters are left out, and prompt tables that exceed the size: all but one of each kind
    first, then those of the controls.
    """
    from puma_engine.pipeline import publish as write

    session.show(write(session.open(), comparison, out, command=command, most_mib=max_mib))


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="Archive that puma publish wrote.")],
    max_mib: Annotated[
        float, typer.Option("--max-mib", min=0.1, help="MiB that the archive may unpack to.")
    ] = ADDED_MIB,
) -> None:
    """Add a published comparison, to view, compare and export it; it is marked as published."""
    from puma_engine.pipeline import add_published

    ws = session.open(create=True)
    added = add_published(ws, file, most_mib=max_mib)
    session.show(
        run_row(ws.run(added.subject))
        | {"runs_added": len(added.added), "runs_present": len(added.present)}
    )


@app.command("list")
def list_() -> None:
    """List the published comparisons of this workspace, with their device and date."""
    from puma_engine.pipeline import published_comparisons

    runs = published_comparisons(session.open())
    rows = []
    for run in runs:
        origin = run.published or {}
        rows.append(
            {
                "id": run.id,
                "name": run.name,
                "device": origin.get("device"),
                "date": date_text(origin.get("date")),
                "command": origin.get("command"),
            }
        )
    session.table(rows, raw=runs)


@app.command()
def remove(
    comparison: Annotated[str, typer.Argument(help="Published comparison: id, prefix or name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a published comparison with its runs, except those from which own runs were made."""
    from puma_engine.pipeline import remove_published

    ws = session.open()
    run = ws.run(comparison)
    if not yes:
        typer.confirm(f"Delete the published comparison {run.name!r} ({run.id})?", abort=True)
    session.show({"deleted": [other.id for other in remove_published(ws, run)]})
