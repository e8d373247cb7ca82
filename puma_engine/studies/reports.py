"""Reports of studies: stored, loaded, and drawn as tables and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from puma_engine.errors import StoreError
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC
from puma_engine.files import write_json
from puma_engine.report import svg
from puma_engine.store import Workspace
from puma_engine.studies.catalog import STUDIES
from puma_engine.studies.differences import overall

FOLDER = "studies"
PARTS = ("study", "command", "date", "rows", "summary", "differences", "failed", "missing")


def keep_report(ws: Workspace, report: dict[str, Any]) -> None:
    """Keep what is known of a study; the latest report of each counts."""
    folder = ws.root / FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{report['study']}.json", report)


def read_report(ws: Workspace, name: str) -> dict[str, Any]:
    """Return the report of a study in its workspace, or raise StoreError as load_report does."""
    return load_report(ws.root / FOLDER / f"{name}.json", f"run `puma study {name}`")


def load_report(file: Path, remedy: str) -> dict[str, Any]:
    """Return the report that a file holds, or raise StoreError if it is missing or damaged.

    remedy: what to do then, as the error ends.
    """
    try:
        return _parsed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # What the system says of a file repeats its name.
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"The report {file} cannot be read ({reason}); {remedy}.") from error


def _parsed(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    lost = [part for part in PARTS if part not in found]
    if lost:
        raise ValueError(f"it has no {', '.join(lost)}")
    return found


def reported(ws: Workspace) -> list[str]:
    """Names of the studies that have a report here."""
    return [name for name in STUDIES if (ws.root / FOLDER / f"{name}.json").is_file()]


FRONTIERS = ("table3", "mixed")
METHODS = {
    "global_mean": "global mean",
    "item_mean": "item mean",
    "user_item_bias": "user + item bias",
    "matrix_factorisation": "matrix factorisation",
    "retrained": "full retraining",
    "source": "source prompts, source model",
}


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of a study, one a data set."""
    parts = [f"`{report['command']}`, {report['date']}, {device_names(report)}."]
    if report["missing"] or report["failed"]:
        parts.append(
            f"Incomplete: {len(report['missing'])} cells were not run and "
            f"{len(report['failed'])} failed."
        )
    if report.get("note"):
        parts.append(str(report["note"]))
    table = _budgets if is_of_budgets(report) else _methods
    for dataset in datasets(report):
        parts.append(f"### {dataset}\n\n{table(report, dataset)}")
    return "\n\n".join(parts) + "\n"


def figures(report: dict[str, Any]) -> dict[str, str]:
    """Return SVG texts by file name: differences, or cost against quality."""
    found = {}
    for dataset in datasets(report):
        draw = _frontier if report["study"] in FRONTIERS else _differences
        picture = draw(report, dataset)
        if picture is not None:
            found[f"{report['study']}-{dataset}.svg"] = picture.file()
    return found


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the tables and figures of a report beside its JSON; return the files."""
    texts = {f"{report['study']}.md": markdown(report)} | figures(report)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def datasets(report: dict[str, Any]) -> list[str]:
    """Names of the data sets in the order of the rows."""
    return list(dict.fromkeys(line["dataset"] for line in report["summary"]))


def device_names(report: dict[str, Any]) -> str:
    """The devices that trained, in words."""
    names = {row["device"] for row in report["rows"] if row.get("device")}
    return ", ".join(sorted(names)) or "cpu"


def is_of_budgets(report: dict[str, Any]) -> bool:
    """Say whether a report compares selection strategies over budgets."""
    return bool(report["study"] == "table4")


def metric_of(lines: list[dict[str, Any]]) -> str:
    """The main metric of some summary lines."""
    return next(metric for metric in PRIMARY_METRIC.values() if metric in lines[0])


def title_of(metric: str) -> str:
    """Return what the axis or column of a metric is called, with its better side."""
    side = "higher" if METRICS[metric].higher_is_better else "lower"
    return f"test {METRICS[metric].label} ({side} is better)"


def label_of(line: dict[str, Any]) -> str:
    """What readers call a method, a step or a pair."""
    name = METHODS.get(line["method"], line["method"])
    if line.get("hops"):
        return f"{name}, {_count(line['hops'], 'hop')} to {line['target']}"
    if line.get("origin"):
        pair = f"{line['origin']} → {line['target']}"
        return pair if line["method"] == "migrated" else f"{name}, {pair}"
    if line.get("tokens"):
        return f"{name}, {_count(line['tokens'], 'token')}"
    return f"{name} on {line['target']}" if line.get("target") else name


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    facts = ("dataset", "method", "share", "origin", "target", "hops", "sources", "tokens")
    return tuple(line.get(name) for name in facts)


def _methods(report: dict[str, Any], dataset: str) -> str:
    lines = [line for line in report["summary"] if line["dataset"] == dataset]
    metric = metric_of(lines)
    differences = {_key(line): line for line in report["differences"]}
    rows = [
        f"| method | seeds | users trained | {title_of(metric)} | difference [95 %] | seconds | TFLOP |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        found = differences.get(_key(line))
        trained = line.get("users_trained")
        seeds = line["seeds"] if line.get("kind") != "baseline" else "–"
        cells = [label_of(line), seeds, "–" if trained is None else f"{trained:,.0f}"]
        cells += [_spread(line, metric), _interval(found), f"{line['seconds']:.1f}"]
        cells.append("–" if line.get("flops") is None else f"{line['flops'] / 1e12:,.1f}")
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def _budgets(report: dict[str, Any], dataset: str) -> str:
    lines = [line for line in report["summary"] if line["dataset"] == dataset]
    metric = metric_of(lines)
    shares = sorted({line["share"] for line in lines})
    real = {_key(line) for line in report["differences"] if line["real"]}
    rows = [
        f"Mean {title_of(metric)} by share of users trained on; \\* differs from random over users. Over all: "
        "mean difference from random, in pairs of the same budget and seed, with its interval over trainings.",
        "",
        "| strategy | " + " | ".join(f"{share:.0%}" for share in shares) + " | over all | pairs |",
        "| --- |" + " --- |" * (len(shares) + 2),
    ]
    whole = overall(report, dataset)
    for method in dict.fromkeys(line["method"] for line in lines):
        own = {line["share"]: line for line in lines if line["method"] == method}
        cells = [
            f"{own[share][metric]:.4f}" + (" \\*" if _key(own[share]) in real else "")
            if share in own
            else "–"
            for share in shares
        ]
        one = whole.get(method)
        cells += [f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" if one else "–"]
        cells += [str(one.pairs) if one else "–"]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _spread(line: dict[str, Any], metric: str) -> str:
    spread = line.get(f"{metric}_sd")
    return f"{line[metric]:.4f}" + (f" ± {spread:.4f}" if spread and line["seeds"] > 1 else "")


def _interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    mark = "" if found["real"] else " (could be chance)"
    return f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]{mark}"


def _differences(report: dict[str, Any], dataset: str) -> Any:
    own = [line for line in report["differences"] if line["dataset"] == dataset]
    if not own:
        return None
    share = max((line.get("share") or 0 for line in own), default=0)
    shares = sorted({line["share"] for line in own if line.get("share")})
    if shares:
        share = min(shares, key=lambda one: abs(math.log(one / 0.07)))
        own = [line for line in own if line.get("share") == share]
    rows = [
        (label_of(line), line["kind"], line["value"], line["low"], line["high"]) for line in own
    ]
    better = "right" if METRICS[own[0]["metric"]].higher_is_better else "left"
    against = METHODS.get(own[0]["against"]["method"], own[0]["against"]["method"])
    where = f", {share:.0%} of the users" if shares else ""
    title = f"{dataset}: what differs from {against}{where} ({better} is better)"
    label = f"Difference of test {METRICS[own[0]['metric']].label}"
    return svg.interval_rows(title, rows, label, line_at=0.0)


def _frontier(report: dict[str, Any], dataset: str) -> Any:
    lines = [
        line
        for line in report["summary"]
        if line["dataset"] == dataset and line.get("kind") != "baseline"
    ]
    metric = metric_of(lines)
    sign = -1 if METRICS[metric].higher_is_better else 1
    rows = []
    for line in lines:
        spread = line.get(f"{metric}_sd") or 0.0
        value = line[metric]
        rows.append(
            (label_of(line), line["kind"], line["seconds"], value, value - spread, value + spread)
        )
    edge: list[tuple[float, float]] = []
    for _, _, seconds, value, *_ in sorted(rows, key=lambda row: row[2]):
        if not edge or sign * value < sign * edge[-1][1]:
            edge.append((seconds, value))
    title = f"{dataset}: quality that measured seconds buy"
    axis = title_of(metric)
    return svg.cost_quality(title, rows, edge, axis[0].upper() + axis[1:])
