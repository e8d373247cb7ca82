"""puma report and puma export: results for people and for other programs."""

import sys
from pathlib import Path

import typer

from puma_engine.cli.options import with_options
from puma_engine.cli.session import session
from puma_engine.defaults import MARGIN

app = typer.Typer(name="export", help="Tables of runs as files.")


@with_options(
    "comparison",
    comparison="Comparison run: id, prefix or name.",
    out="File to write (.html).",
    margin="Tolerated loss, as a share of the score of full retraining.",
    one_page="Write the decision alone, on one page that prints on a sheet of A4.",
    address="Address of the dashboard's Summary, which the one page links to.",
)
def report(
    comparison: str,
    out: Path,
    margin: float = MARGIN,
    one_page: bool = False,
    address: str | None = None,
) -> None:
    """Write a comparison as one self-contained HTML file: verdict, figures, lineage."""
    from puma_engine.pipeline.reporting import write_report

    file = write_report(
        session.open(), comparison, out, margin=margin, one_page=one_page, address=address
    )
    session.show({"file": str(file), "bytes": file.stat().st_size})


@app.command()
@with_options(
    "run",
    "name",
    run="Run: id, prefix or name.",
    name="Table, such as predictions, methods, users, metrics, user_metrics.",
    out="File to write (.csv or .parquet).",
    spreadsheet="Put an apostrophe before texts that a spreadsheet would run as formulas.",
)
def table(run: str, name: str, out: Path, spreadsheet: bool = False) -> None:
    """Write one table of a run to a CSV or Parquet file.

    Values are written unchanged, so that ids can be joined. A warning counts texts that a
    spreadsheet would run as formulas.
    """
    from puma_engine.pipeline.reporting import export_table, read_table
    from puma_engine.report.spreadsheets import without_formulas

    ws = session.open()
    file = export_table(ws, run, name, out, spreadsheet=spreadsheet)
    session.show({"file": str(file), "bytes": file.stat().st_size})
    if file.suffix.lower() == ".csv" and not spreadsheet:
        _, formulas = without_formulas(read_table(ws, run, name))
        if formulas:
            print(
                f"Warning: a spreadsheet would run {formulas:,} texts of {file} as formulas; open it with "
                "a program that does not, or write it with --spreadsheet.",
                file=sys.stderr,
            )
