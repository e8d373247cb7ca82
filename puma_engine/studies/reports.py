"""Store reports of studies in a workspace, load them, and write them as tables and figures."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

from puma_engine.errors import StoreError
from puma_engine.evaluation.formatting import format_count, format_share_interval
from puma_engine.evaluation.metrics import METRICS
from puma_engine.evaluation.shares_kept import ASPECTS, REFERENCES
from puma_engine.files import parse_json, write_json
from puma_engine.report import svg
from puma_engine.store import Workspace
from puma_engine.studies.builder import SMALL_SHARE
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.differences import (
    Report,
    Row,
    differences_over_budgets,
    primary_metric,
    ranking_metric,
)
from puma_engine.studies.results import methods_of
from puma_engine.studies.shares import shares_of_rows

FOLDER = "studies"
PARTS = ("study", "command", "date", "rows", "summary", "differences", "failed", "missing")
COST_STUDIES = ("table3", "mixed")
# Columns besides the primary metric, and their digits.
MORE_COLUMNS = {"participation_ratio": "participation ratio"}
DIGITS = {"participation_ratio": 1}
# Hashes of the reports that this process has checked by rendering them.
_CHECKED: set[str] = set()
METHODS = {
    "global_mean": "global mean",
    "item_mean": "item mean",
    "user_item_bias": "user + item bias",
    "matrix_factorisation": "matrix factorisation",
    "retrained": "full retraining",
    "source": "source prompts, source model",
}


def save_report(ws: Workspace, report: Report) -> None:
    """Store a report in the workspace; replace an earlier one of the same study."""
    folder = ws.root / FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{report['study']}.json", report)


def stored_report(ws: Workspace, name: str) -> Report:
    """Return the report of a study in a workspace. Raises StoreError, see load_report."""
    return load_report(ws.root / FOLDER / f"{name}.json", f"run `puma study {name}`")


def stored_reports(ws: Workspace) -> list[str]:
    """Return the names of the studies that have a report in a workspace."""
    return [name for name in STUDIES if (ws.root / FOLDER / f"{name}.json").is_file()]


def load_report(file: Path, remedy: str) -> Report:
    """Return the report in a JSON file. Raises StoreError if it is missing or damaged.

    remedy: the advice at the end of the error message.
    """
    try:
        content = file.read_bytes()
        report = parse_json(content)
        if not isinstance(report, dict):
            raise ValueError("it is not a JSON object")
        missing = [part for part in PARTS if part not in report]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        digest = hashlib.sha256(content).hexdigest()
        if digest not in _CHECKED:
            _check_content(report)
            _CHECKED.add(digest)
    except (OSError, ValueError) as error:
        # The text of an OSError would repeat the file's name.
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"The report {file} cannot be read ({reason}); {remedy}.") from error
    return report


def _check_content(report: Report) -> None:
    """Raise ValueError if parts of a report are damaged that tables and figures read."""
    lists = ("rows", "summary", "differences")
    has_expected_types = all(
        isinstance(report[part], list) and all(isinstance(line, dict) for line in report[part])
        for part in lists
    )
    has_expected_types &= isinstance(report["failed"], dict) and isinstance(report["missing"], list)
    has_expected_types &= all(
        isinstance(report[part], str) for part in ("study", "command", "date")
    )
    if not has_expected_types:
        raise ValueError("its parts are not of the types that a study writes")
    try:
        markdown(report)
        figures(report)
    except Exception as error:  # a value of another type may fail anywhere
        raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from error


def write_tables_and_figures(report: Report, folder: Path) -> list[Path]:
    """Write a report's tables (Markdown) and figures (SVG) to a folder; return the files."""
    texts = {f"{report['study']}.md": markdown(report)} | figures(report)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def markdown(report: Report) -> str:
    """Return the tables of a report as Markdown, one for each data set."""
    parts = [f"`{report['command']}`, {report['date']}, {device_names(report)}."]
    if report["missing"] or report["failed"]:
        parts.append(
            f"Incomplete: {len(report['missing'])} cells were not run and "
            f"{len(report['failed'])} failed."
        )
    if report.get("note"):
        parts.append(str(report["note"]))
    table = _table_of_budgets if compares_budgets(report) else _table_of_methods
    for dataset in datasets(report):
        parts.append(f"### {dataset}\n\n{table(report, dataset)}")
    return "\n\n".join(parts) + "\n"


def figures(report: Report) -> dict[str, str]:
    """Return a figure for each data set as SVG, by file name: differences, or cost and quality."""
    draw = _cost_figure if report["study"] in COST_STUDIES else _difference_figure
    charts = {dataset: draw(report, dataset) for dataset in datasets(report)}
    return {
        f"{report['study']}-{dataset}.svg": chart.file()
        for dataset, chart in charts.items()
        if chart is not None
    }


def datasets(report: Report) -> list[str]:
    """Return the names of the data sets in the order of the rows."""
    return list(dict.fromkeys(line["dataset"] for line in report["summary"]))


def device_names(report: Report) -> str:
    """Return the devices of the trainings, separated by commas."""
    names = {row["device"] for row in report["rows"] if row.get("device")}
    return ", ".join(sorted(names)) or "cpu"


def compares_budgets(report: Report) -> bool:
    """Return whether a report compares selection strategies over budgets."""
    return bool(report["study"] == "table4")


def metric_title(metric: str) -> str:
    """Return the title of a metric's axis or column, with its better direction."""
    side = "higher" if METRICS[metric].higher_is_better else "lower"
    return f"test {METRICS[metric].label} ({side} is better)"


def label_of(line: Row) -> str:
    """Return the label of a method, a hop or a pair of backbones in tables and figures."""
    method: str = line["method"]
    name = re.sub(r"(?<=\d)%", " %", METHODS.get(method, method))
    if line.get("hops"):
        return f"{name}, {format_count(line['hops'], 'hop')} to {line['target']}"
    if line.get("origin"):
        pair = f"{line['origin']} → {line['target']}"
        return pair if method == "migrated" else f"{name}, {pair}"
    if line.get("tokens"):
        return f"{name}, {format_count(line['tokens'], 'token')}"
    if line.get("trained_on"):
        return f"{name}, trained on {line['trained_on']}"
    if line.get("change"):
        return f"{name}, {line['change']}"
    return f"{name} on {line['target']}" if line.get("target") else name


def key_of(line: Row) -> tuple[Any, ...]:
    """Return the labels that identify a method in all parts of a report."""
    names = ("dataset", "method", "share", "origin", "target", "hops", "sources", "tokens")
    return tuple(line.get(name) for name in (*names, "trained_on", "change"))


def _lines(report: Report, part: str, dataset: str) -> list[Row]:
    return [line for line in report[part] if line["dataset"] == dataset]


def _row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _table_of_methods(report: Report, dataset: str) -> str:
    lines = _lines(report, "summary", dataset)
    measured = {primary_metric(lines[0]): "differences"}
    if ranking := ranking_metric(lines):
        measured[ranking] = "ranking_differences"
    differences = {
        (part, key_of(line)): line for part in measured.values() for line in report.get(part, ())
    }
    shares = shares_of(report, dataset)
    references = [name for name in REFERENCES if any(name == key[1] for key in shares)]
    names = ["method", "seeds", "users trained"]
    for metric in measured:
        names += [metric_title(metric), "difference [95 %]"]
    names += [f"share kept over {REFERENCES[name]}" for name in references]
    # Reports of earlier versions lack it.
    extra_columns = [
        name for name in MORE_COLUMNS if any(line.get(name) is not None for line in lines)
    ]
    names += [MORE_COLUMNS[name] for name in extra_columns] + ["seconds", "TFLOP"]
    rows = [_row(*names), _row(*["---"] * len(names))]
    for line in lines:
        cells = []
        for metric, part in measured.items():
            score = f"{line[metric]:.4f}"
            if line["seeds"] > 1 and line.get(f"{metric}_sd"):
                score += f" ± {line[f'{metric}_sd']:.4f}"
            difference = differences.get((part, key_of(line)))
            interval = "–" if difference is None else _interval(difference)
            if difference is not None and not difference["real"]:
                interval += " (could be chance)"
            cells += [score, interval]
        for reference in references:
            parts = [shares.get((key_of(line), reference, aspect)) for aspect in ASPECTS]
            cells.append("; ".join(_share(part) for part in parts if part) or "–")
        trained, flops = line.get("users_trained"), line.get("flops")
        rows.append(
            _row(
                label_of(line),
                line["seeds"] if line.get("kind") != "baseline" else "–",
                "–" if trained is None else f"{trained:,.0f}",
                *cells,
                *(
                    f"{line[name]:.{DIGITS[name]}f}" if name in line else "–"
                    for name in extra_columns
                ),
                f"{line['seconds']:.1f}",
                "–" if flops is None else f"{flops / 1e12:,.1f}",
            )
        )
    return "\n".join(rows)


def shares_of(report: Report, dataset: str) -> dict[tuple[Any, str, str], Row]:
    """Return the lines of a data set's shares kept, by method, reference and aspect.

    For reports of earlier versions they are computed from the rows, with intervals over trainings.
    """
    lines = report.get("shares_kept")
    if lines is None and report["study"] in STUDIES:
        rows = report["rows"]
        lines = shares_of_rows(STUDIES[report["study"]], rows, methods_of(rows))
    return {
        (key_of(line), line["reference"], line["aspect"]): line
        for line in lines or ()
        if line["dataset"] == dataset
    }


def _share(line: Row) -> str:
    """Return a share with its interval: RMSE 98 % [97 %, 99 %]."""
    label = METRICS[line["metric"]].label
    if line["kept"] is None:
        return f"{label}: no sure gain"
    return f"{label} " + format_share_interval(line["kept"], line["kept_low"], line["kept_high"])


def _table_of_budgets(report: Report, dataset: str) -> str:
    lines = _lines(report, "summary", dataset)
    tables = [_budgets_in(report, dataset, primary_metric(lines[0]), "differences")]
    if ranking := ranking_metric(lines):
        tables.append(_budgets_in(report, dataset, ranking, "ranking_differences"))
    return "\n\n".join(tables)


def _budgets_in(report: Report, dataset: str, metric: str, part: str) -> str:
    """Return the table of budgets in one metric. part: the part of the report with its differences."""
    lines = _lines(report, "summary", dataset)
    shares = sorted({line["share"] for line in lines})
    real = {key_of(line) for line in report.get(part, ()) if line["real"]}
    rows = [
        f"Mean {metric_title(metric)} by share of users trained on; \\* differs from random over users. Over all: "
        "mean difference from random, in pairs of the same budget and seed, with its interval over trainings.",
        "",
        _row("strategy", *(f"{100 * share:g} %" for share in shares), "over all", "pairs"),
        _row(*["---"] * (len(shares) + 3)),
    ]
    tests = differences_over_budgets(report, dataset, metric=metric)
    for method in dict.fromkeys(line["method"] for line in lines):
        by_share = {line["share"]: line for line in lines if line["method"] == method}
        cells = [
            f"{by_share[share][metric]:.4f}" + (" \\*" if key_of(by_share[share]) in real else "")
            if share in by_share
            else "–"
            for share in shares
        ]
        test = tests.get(method)
        cells += [_interval(vars(test)), str(test.pairs)] if test else ["–", "–"]
        rows.append(_row(method, *cells))
    return "\n".join(rows)


def _interval(line: Row) -> str:
    return f"{line['value']:+.4f} [{line['low']:+.4f}, {line['high']:+.4f}]"


def _difference_figure(report: Report, dataset: str) -> Any:
    lines = _lines(report, "differences", dataset)
    if not lines:
        return None
    shares = sorted({line["share"] for line in lines if line.get("share")})
    budget = ""
    if shares:
        share = min(shares, key=lambda share: abs(math.log(share / SMALL_SHARE)))
        lines = [line for line in lines if line.get("share") == share]
        budget = f", {100 * share:g} % of the users"
    metric = lines[0]["metric"]
    better = "right" if METRICS[metric].higher_is_better else "left"
    reference = lines[0]["against"]["method"]
    reference = METHODS.get(reference, reference)
    title = f"{dataset}: what differs from {reference}{budget} ({better} is better)"
    rows = [
        (label_of(line), line["kind"], line["value"], line["low"], line["high"]) for line in lines
    ]
    return svg.interval_rows(
        title, rows, f"Difference of test {METRICS[metric].label}", line_at=0.0
    )


def _cost_figure(report: Report, dataset: str) -> Any:
    import pandas as pd

    from puma_engine.evaluation.summaries import frontier

    lines = [line for line in _lines(report, "summary", dataset) if line.get("kind") != "baseline"]
    metric = primary_metric(lines[0])
    rows = []
    for line in lines:
        value, sd = line[metric], line.get(f"{metric}_sd") or 0.0
        rows.append((label_of(line), line["kind"], line["seconds"], value, value - sd, value + sd))
    points = pd.DataFrame({"cost": [row[2] for row in rows], "value": [row[3] for row in rows]})
    best = frontier(points, metric)
    edge = list(zip(best["cost"], best["value"], strict=True))
    title = metric_title(metric)
    return svg.cost_quality(
        f"{dataset}: quality that measured seconds buy",
        rows,
        edge,
        title[0].upper() + title[1:],
    )
