"""puma report and puma export: results for people and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma_engine.cli.session import session
from puma_engine.defaults import MARGIN

app = typer.Typer(help="Tables of runs as files.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    root.command("report")(report)
    root.add_typer(app, name="export")


def report(
    comparison: Annotated[str, typer.Argument(help="Comparison run: id, prefix or name.")],
    out: Annotated[Path, typer.Option("--out", help="File to write (.html).")],
    margin: Annotated[
        float,
        typer.Option(
            "--margin", help="Tolerated loss, as a share of the score of full retraining."
        ),
    ] = MARGIN,
) -> None:
    """Write a comparison as one self-contained HTML file: verdict, figures, lineage."""
    from puma_engine.pipeline.reporting import write_report

    file = write_report(session().open(), comparison, out, margin=margin)
    session().show({"file": str(file), "bytes": file.stat().st_size})


@app.command("table")
def table(
    run: Annotated[str, typer.Argument(help="Run: id, prefix or name.")],
    name: Annotated[
        str,
        typer.Argument(help="Table, such as predictions, methods, users, metrics, user_metrics."),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write (.csv or .parquet).")],
) -> None:
    """Write one table of a run to a CSV or Parquet file."""
    from puma_engine.pipeline.reporting import export_table

    file = export_table(session().open(), run, name, out)
    session().show({"file": str(file), "bytes": file.stat().st_size})
