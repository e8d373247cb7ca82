"""Write reports and tables: a comparison as HTML for people, the tables of a run for programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import ConfigError, NotFoundError
from puma_engine.evaluation.formatting import method_names
from puma_engine.evaluation.metrics import METRICS, draws_used
from puma_engine.evaluation.verdict import judge
from puma_engine.files import atomic_write, write_text
from puma_engine.pipeline import stage
from puma_engine.pipeline.anchors import ARTIFACT as ANCHORS
from puma_engine.pipeline.anchors import read_anchors
from puma_engine.pipeline.summary_page import now_in_words, render_summary
from puma_engine.pipeline.verdicts import comparison_data, user_impact_between
from puma_engine.report.spreadsheets import without_formulas
from puma_engine.store import Run, Workspace

SCORES = ("metrics", "user_metrics")
FORMATS = (".csv", ".parquet")


def render_report(ws: Workspace, comparison: stage.Reference, *, margin: float = MARGIN) -> str:
    """Return a comparison as one self-contained HTML page (see puma_engine.report.html_report).

    margin: a share of the full retraining's value. Raises ConfigError for a margin outside
    (0, 1), NotFoundError or StoreError for a run that is not a finished comparison.
    """
    from puma_engine.report.html_report import Report, render
    from puma_engine.report.theme import rank

    run = stage.find(ws, comparison, "comparison")
    data = comparison_data(ws, run, margin=margin)
    verdict = judge(data)
    names = method_names(data.methods["method"])
    methods = data.methods.assign(rank=data.methods["kind"].map(rank))
    evaluations = methods.set_index("method")["evaluation"]
    methods, scores, shares = (
        table.assign(method=table["method"].map(names))
        for table in (methods, data.scores, data.shares)
    )
    report = Report(
        run,
        replace(
            verdict,
            method=names.get(verdict.method or ""),
            reference=names.get(verdict.reference or ""),
        ),
        _details(ws, run, data.scores, margin),
        methods.sort_values(["rank", "seconds"], ignore_index=True).drop(columns="rank"),
        scores,
        shares,
        user_impact_between(ws, run, evaluations[verdict.method]) if verdict.method else None,
        ws.lineage(run.id),
        now_in_words(),
    )
    return render(report)


def write_report(
    ws: Workspace,
    comparison: stage.Reference,
    path: str | Path,
    *,
    margin: float = MARGIN,
    one_page: bool = False,
    address: str | None = None,
) -> Path:
    """Write a comparison as one self-contained HTML file; a failure leaves no file behind.

    one_page: the decision on one printable page, see `render_summary`, instead of the whole report.
    address: of the dashboard's Summary, for the one page's link. Raises ConfigError for a file name
    that does not end in .html or .htm, or an address without one_page; StoreError if the file
    cannot be written; and what `render_report` and `render_summary` raise.
    """
    file = Path(path)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"A report is an .html file, not {file.name!r}; give such a name.")
    if one_page:
        page = render_summary(ws, comparison, margin=margin, address=address)
    elif address is None:
        page = render_report(ws, comparison, margin=margin)
    else:
        raise ConfigError("Only the one-page summary links to the dashboard; add one_page.")
    write_text(file, page)
    return file


def table_names(ws: Workspace, run: stage.Reference) -> list[str]:
    """Return the tables of a run that can be exported."""
    run = stage.find(ws, run)
    names = [file["name"] for file in ws.artifacts(run.id) if file["format"] == "parquet"]
    stored = {"evaluation": SCORES, "comparison": SCORES[:1], ANCHORS: (ANCHORS,)}.get(run.kind, ())
    return [name for name in names if name not in SCORES] + list(stored)


def read_table(ws: Workspace, run: stage.Reference, name: str) -> pd.DataFrame:
    """Read a table of a run: one of its Parquet files, or metrics, user_metrics or anchors.

    Raises NotFoundError for a table that the run does not have.
    """
    run, names = stage.find(ws, run), table_names(ws, run)
    if name not in names:
        known = ", ".join(names) or "none"
        raise NotFoundError(
            f"The {run.kind} run {run.name!r} has no table {name!r}; it has {known}."
        )
    if name == "metrics":
        return ws.metrics(run.id)
    if name == ANCHORS:
        return read_anchors(ws, run).frame
    return ws.user_metrics(run.id) if name == "user_metrics" else ws.get_table(run.id, name)


def export_table(
    ws: Workspace,
    run: stage.Reference,
    name: str,
    path: str | Path,
    *,
    spreadsheet: bool = False,
) -> Path:
    """Write a table of a run to a CSV or Parquet file, by the file name's suffix.

    Values are written unchanged, so that other programs can join the table by its ids. spreadsheet:
    put an apostrophe before texts of a CSV file that a spreadsheet would run as formulas. Raises
    ConfigError for another suffix, or a Parquet file for a spreadsheet; StoreError where the file
    cannot be written; and what `read_table` raises.
    """
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"A table becomes a .csv or .parquet file, not {file.name!r}.")
    if spreadsheet and file.suffix.lower() != ".csv":
        raise ConfigError(f"A table for a spreadsheet is a .csv file, not {file.name!r}.")
    frame = read_table(ws, run, name)
    if spreadsheet:
        frame, _ = without_formulas(frame)
    write = frame.to_csv if file.suffix.lower() == ".csv" else frame.to_parquet
    atomic_write(file, lambda temporary: write(temporary, index=False))
    return file


def _details(ws: Workspace, run: Run, scores: pd.DataFrame, margin: float) -> list[tuple[str, str]]:
    """Return names and values about a comparison: data, models, margin, intervals."""
    summary, draws = run.summary, run.config["draws"]
    fewer = {name: used for name in scores["metric"] if (used := draws_used(name, draws)) < draws}
    exceptions = ", ".join(f"{METRICS[name].label} {used:,}" for name, used in fewer.items())
    intervals = f"95 %, bootstrap over users, {draws:,} draws"
    intervals += f" ({exceptions})" if exceptions else ""
    details = [
        ("Comparison", f"{run.name} ({run.id})"),
        ("Measured on", f"{str(run.finished)[:16].replace('T', ' ')} UTC"),
        ("Task", "ratings from 1 to 5" if summary["task"] == "rating" else "clicks, yes or no"),
        (
            "Compared",
            f"{summary['users']:,} users, {summary['rows']:,} rows of the {summary['split']} split",
        ),
        ("Left out", f"{summary['rows_left_out']:,} rows that not every method predicted"),
        ("Differences from", str(summary["reference"])),
        ("Error I accept (margin)", f"{100 * margin:g} % of full retraining's value"),
        ("Intervals", f"{intervals}, seed {run.config['seed']}"),
    ]
    if (published := run.published) is not None:
        text = f"measured on {published['device']}, not in this workspace"
        text += f", with: {published['command']}" if published.get("command") else ""
        details.append(("Published", text))
    for ancestor in ws.lineage(run.id):
        summary = ancestor.summary
        if ancestor.kind == "dataset":
            text = f"{ancestor.name}: {summary['users']:,} users, {summary['items']:,} items, "
            text += f"{summary['interactions']:,} records, content {summary['content_hash']}"
            details.append(("Data set", text))
        elif ancestor.kind == "backbone":
            text = ancestor.name
            text += f", {summary['parameters']:,} parameters" if "parameters" in summary else ""
            text += f", width {summary['width']:,}" if "width" in summary else ""
            details.append(("Language model", text))
    return details
