"""puma runs: list runs, show them, and follow their lineage."""

from typing import Annotated

import typer

from puma_engine.cli.options import with_options
from puma_engine.cli.session import run_row, session

app = typer.Typer(name="runs", help="Runs: list, show, rename, delete, lineage.")
Reference = Annotated[str, typer.Argument(help="Run: id, prefix or name.")]


@app.command("list")
@with_options(
    kind="dataset, backbone, prompts, selection, migration, evaluation or comparison.",
    status="running, finished, failed or interrupted.",
    limit="Largest number of runs.",
)
def list_(kind: str | None = None, status: str | None = None, limit: int | None = None) -> None:
    """List runs, the newest first."""
    runs = session.open().runs(kind=kind, status=status, limit=limit)
    session.table([run_row(run) for run in runs], raw=runs)


@app.command("show")
def show(run: Reference) -> None:
    """Show a run: settings, seed, versions, device, seconds, cost, results."""
    session.show(session.open().run(run))


@app.command("lineage")
def lineage(run: Reference) -> None:
    """List a run and all its ancestors."""
    ws = session.open()
    runs = ws.lineage(ws.run(run).id)
    session.table([run_row(step) for step in runs], raw=runs)


@app.command("metrics")
def metrics(run: Reference) -> None:
    """List the metrics of an evaluation or comparison, with intervals."""
    ws = session.open()
    session.table(ws.metrics(ws.run(run).id).to_dict("records"))


@app.command("rename")
def rename(run: Reference, name: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Give a run another name."""
    ws = session.open()
    session.show(run_row(ws.rename(ws.run(run, alone=True).id, name)))


@app.command("note")
def note(
    run: Reference,
    text: Annotated[str, typer.Argument(help="The remark; an empty one removes it.")],
) -> None:
    """Store a remark with a run."""
    ws = session.open()
    session.show(ws.note(ws.run(run).id, text or None))


@app.command("delete")
def delete(
    run: Reference,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cascade: Annotated[
        bool,
        typer.Option("--cascade", help="Also delete all runs made from it, after listing them."),
    ] = False,
) -> None:
    """Delete a run and its files; refused while other runs depend on it, unless they go with it."""
    ws = session.open()
    target = ws.run(run, alone=True)
    if cascade:
        runs = [target, *ws.descendants(target.id)]
        if not yes:
            session.table([run_row(step) for step in runs], raw=runs)
            typer.confirm(f"Delete these {len(runs)} runs?", abort=True)
        ws.delete_all(target.id)
        session.show({"deleted": [step.id for step in runs]})
        return
    if not yes:
        typer.confirm(f"Delete the {target.kind} run {target.name!r} ({target.id})?", abort=True)
    ws.delete(target.id)
    session.show({"deleted": target.id, "name": target.name})
