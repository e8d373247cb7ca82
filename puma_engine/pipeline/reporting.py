"""Reports and tables as files: a comparison for people, a run's tables for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from puma_engine.defaults import MARGIN
from puma_engine.errors import ConfigError, DataError, NotFoundError, StoreError
from puma_engine.evaluation.metrics import METRICS, draws_used
from puma_engine.evaluation.user_effects import UserEffects, by_group, quantile_groups
from puma_engine.evaluation.verdict import Verdict, judge
from puma_engine.files import atomic_write
from puma_engine.pipeline.comparing import comparison_users
from puma_engine.pipeline.stage import Reference, find
from puma_engine.pipeline.user_impact import effects_between
from puma_engine.pipeline.verdicts import comparison_data
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.report.html_report import Report

SCORES = ("metrics", "user_metrics")
FORMATS = (".csv", ".parquet")


def render_report(ws: Workspace, comparison: Reference, *, margin: float = MARGIN) -> str:
    """Return a comparison as one self-contained HTML page (see puma_engine.report.html_report)."""
    from puma_engine.report.html_report import render

    return render(_gather(ws, find(ws, comparison, "comparison"), margin))


def write_report(
    ws: Workspace, comparison: Reference, path: str | Path, *, margin: float = MARGIN
) -> Path:
    """Write a comparison as one self-contained HTML file; nothing is left behind on failure."""
    file = Path(path)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"A report is an .html file, not {file.name!r}; give such a name.")
    page = render_report(ws, comparison, margin=margin)
    _write(file, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return file


def table_names(ws: Workspace, run: Reference) -> list[str]:
    """Return the tables of a run that can be exported."""
    found = find(ws, run)
    files = [file["name"] for file in ws.artifacts(found.id) if file["format"] == "parquet"]
    names = [name for name in files if name not in SCORES]
    has_scores = found.kind in ("evaluation", "comparison")
    return names + [name for name in SCORES[: 2 if found.kind == "evaluation" else 1] if has_scores]


def read_table(ws: Workspace, run: Reference, name: str) -> pd.DataFrame:
    """Read a table of a run: one of its Parquet files, or metrics or user_metrics."""
    found, names = find(ws, run), table_names(ws, run)
    if name not in names:
        known = ", ".join(names) or "none"
        raise NotFoundError(
            f"The {found.kind} run {found.name!r} has no table {name!r}; it has {known}."
        )
    if name == "metrics":
        return ws.metrics(found.id)
    return ws.user_metrics(found.id) if name == "user_metrics" else ws.get_table(found.id, name)


def export_table(ws: Workspace, run: Reference, name: str, path: str | Path) -> Path:
    """Write a table of a run to a CSV or Parquet file, by the ending of its name."""
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"A table becomes a .csv or .parquet file, not {file.name!r}.")
    frame = read_table(ws, run, name)
    if file.suffix.lower() == ".csv":
        _write(file, lambda temporary: frame.to_csv(temporary, index=False))
    else:
        _write(file, lambda temporary: frame.to_parquet(temporary, index=False))
    return file


def _write(file: Path, writer: Any) -> None:
    try:
        atomic_write(file, writer)
    except OSError as error:
        raise StoreError(
            f"The file {file} cannot be written: {error.strerror or error}."
        ) from error


def _gather(ws: Workspace, run: Run, margin: float) -> Report:
    from puma_engine.report.html_report import Report
    from puma_engine.report.theme import rank

    question = comparison_data(ws, run, margin=margin)
    verdict = judge(question)
    order = question.methods.assign(place=question.methods["kind"].map(rank))
    effects, groups = _people(ws, run, question.methods, verdict)
    return Report(
        run,
        verdict,
        _facts(ws, run, question.scores, margin),
        order.sort_values(["place", "seconds"], ignore_index=True).drop(columns="place"),
        question.scores,
        effects,
        groups,
        ws.lineage(run.id),
        datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
    )


def _people(
    ws: Workspace, run: Run, methods: pd.DataFrame, verdict: Verdict
) -> tuple[UserEffects | None, dict[str, pd.DataFrame]]:
    """How users fare under the judged migration, and by groups of users."""
    if verdict.method is None:
        return None, {}
    try:
        users = comparison_users(ws, run)
    except (StoreError, DataError):
        return None, {}
    evaluations = methods.set_index("method")["evaluation"]
    effects = effects_between(
        users, evaluations[verdict.method], evaluations[str(verdict.reference)]
    )
    activity = users.set_index("user_id")
    titles = {"variance of a user's outcomes": "variance", "train rows of a user": "train_rows"}
    return effects, {
        title: by_group(
            effects.frame, quantile_groups(activity[name]), root=run.summary["task"] == "rating"
        )
        for title, name in titles.items()
    }


def _intervals(run: Run, scores: pd.DataFrame) -> str:
    """How intervals were made; metrics with other numbers of draws than most are named."""
    requested = run.config["draws"]
    used = {name: draws_used(name, requested) for name in scores["metric"].unique()}
    fewer = [
        f"{METRICS[name].label} {draws:,}" for name, draws in used.items() if draws < requested
    ]
    draws = f"{requested:,} draws" + (f" ({', '.join(fewer)})" if fewer else "")
    return f"95 %, bootstrap over users, {draws}, seed {run.config['seed']}"


def _facts(ws: Workspace, run: Run, scores: pd.DataFrame, margin: float) -> list[tuple[str, str]]:
    facts = run.summary
    found = [
        ("Comparison", f"{run.name} ({run.id})"),
        ("Measured on", f"{str(run.finished)[:16].replace('T', ' ')} UTC"),
        ("Task", "ratings from 1 to 5" if facts["task"] == "rating" else "clicks, yes or no"),
        (
            "Compared",
            f"{facts['users']:,} users, {facts['rows']:,} rows of the {facts['split']} split",
        ),
        ("Left out", f"{facts['rows_left_out']:,} rows that not every method predicted"),
        ("Differences from", str(facts["reference"])),
        ("Margin", f"{100 * margin:g} % of full retraining's value"),
        ("Intervals", _intervals(run, scores)),
    ]
    for ancestor in ws.lineage(run.id):
        if ancestor.kind == "dataset":
            about = ancestor.summary
            found.append(
                (
                    "Data set",
                    f"{ancestor.name}: {about['users']:,} users, {about['items']:,} items, "
                    f"{about['interactions']:,} records, content {about['content_hash']}",
                )
            )
        elif ancestor.kind == "backbone":
            found.append(("Language model", _backbone(ancestor)))
    return found


def _backbone(run: Run) -> str:
    about = run.summary
    words = [run.name]
    if "parameters" in about:
        words.append(f"{about['parameters']:,} parameters")
    if "width" in about:
        words.append(f"width {about['width']:,}")
    return ", ".join(words)
