"""Collect the results of a study: rows, means over seeds, and differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from puma_engine import pipeline
from puma_engine.evaluation import metrics
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC, RANKING_METRIC
from puma_engine.store import Run, Workspace
from puma_engine.studies.cells import TUNED_SETTINGS, Cell, Study
from puma_engine.studies.differences import Row, paired_t_test, primary_metric
from puma_engine.studies.shares import shares_of_rows

COSTS = ("seconds", "users_trained", "flops")
SCORES = tuple(METRICS)
PROMPT_METRICS = ("participation_ratio",)
MEASURED = (*SCORES, *PROMPT_METRICS, *COSTS)
NOT_LABELS = {"run", "users", "rows", "device", "epochs", "examples", *MEASURED}
SIGNIFICANCE = 0.05
# Parts of a report with differences, and their metrics by task.
COMPARED_METRICS = {
    "differences": PRIMARY_METRIC,
    "ranking_differences": {
        task: metric for task, metric in RANKING_METRIC.items() if metric != PRIMARY_METRIC[task]
    },
}


def collect(
    ws: Workspace,
    study: Study,
    cells: Sequence[Cell],
    runs: dict[str, str],
    *,
    over_users: bool = True,
) -> dict[str, Any]:
    """Return the results of a study as parts of its report.

    over_users: whether intervals and p are over users; otherwise they are over trainings
    (`differences_over_trainings`), which needs no predictions. runs: ids of the runs of finished
    cells.

    Parts. rows: one for each evaluation, with its labels, scores and cost. summary: one for each
    method, means over seeds. differences: each method against the study's reference, the mean over
    the seeds that both have, in the primary metric. Intervals are 95 % percentile intervals over
    resampled users, p is their normal approximation, and `real` is whether p is below 0.05 after
    Holm's correction over the differences from the same reference. ranking_differences: the same in
    the ranking metric, if the primary metric is another one. shares_kept: the shares of full
    retraining's gain that methods keep, if it is the study's reference (`shares_of_rows`).
    settings: the choices of the "best" cells.
    """
    evaluated = [cell for cell in cells if cell.labels and cell.name in runs]
    evaluations = {cell.name: ws.run(runs[cell.name]) for cell in evaluated}
    rows = [_row(ws, cell, evaluations[cell.name]) for cell in evaluated]
    settings = {}
    for cell in cells:
        if cell.stage == "best" and cell.name in runs:
            config = ws.run(runs[cell.name]).config
            settings[cell.name] = {part: config.get(part) for part in TUNED_SETTINGS}
    parts: dict[str, Any] = {"rows": rows, "summary": summary(rows), "settings": settings}
    predictions = (
        _Predictions(ws, [evaluations[cell.name] for cell in evaluated]) if over_users else None
    )
    for part, metrics_by_task in COMPARED_METRICS.items():
        if predictions is not None:
            parts[part] = _differences_over_users(study, evaluated, predictions, metrics_by_task)
        else:
            parts[part] = differences_over_trainings(study, rows, metrics_by_task)
    sample = None if predictions is None else predictions.sample
    parts["shares_kept"] = shares_of_rows(study, rows, methods_of(rows), sample)
    return parts


def _row(ws: Workspace, cell: Cell, run: Run) -> Row:
    row = cell.labels | {"run": run.id} | pipeline.pooled_metrics(ws, run)
    row |= {"users": run.summary["users"], "rows": run.summary["rows"]}
    if "prompts" in run.inputs:
        prompts = ws.run(run.inputs["prompts"])
        row |= {"device": prompts.device, "epochs": prompts.cost.get("epochs")}
        row["examples"] = prompts.cost.get("examples")
        row |= {name: prompts.summary[name] for name in PROMPT_METRICS if name in prompts.summary}
    return row | pipeline.method_cost(ws, run)


class _Predictions:
    """The predictions of evaluations, by number, read once and joined by user and item.

    Evaluations with the same rows in the same order need no join; each other pair is joined once.
    """

    keys = ("user_id", "item_id")

    def __init__(self, ws: Workspace, runs: Sequence[Run]) -> None:
        self.ws, self.runs = ws, runs
        self.frames: dict[str, pd.DataFrame] = {}
        self.joined: dict[tuple[str, str], np.ndarray] = {}

    def rows(self, number: int) -> pd.DataFrame:
        run = self.runs[number]
        if run.id not in self.frames:
            self.frames[run.id] = pipeline.read_predictions(self.ws, run)
        return self.frames[run.id]

    def aligned(self, number: int, first: int) -> np.ndarray:
        """Return the predictions of an evaluation in the order of the rows of another."""
        pair, keys = (self.runs[number].id, self.runs[first].id), list(self.keys)
        predicted, rows = self.rows(number), self.rows(first)[keys]
        if predicted[keys].equals(rows):
            return predicted["prediction"].to_numpy(np.float64)
        if pair not in self.joined:
            joined = rows.merge(predicted, on=keys, how="left", validate="one_to_one")
            self.joined[pair] = joined["prediction"].to_numpy(np.float64)
        return self.joined[pair]

    def task(self, number: int) -> str:
        return str(self.runs[number].summary["task"])

    def sample(self, numbers: Sequence[int], names: Sequence[str]) -> metrics.SampledMetrics:
        """Return metrics of evaluations for resampled users."""
        rows = self.rows(numbers[0])
        return metrics.sample_metrics(
            self.task(numbers[0]),
            rows["outcome"].to_numpy(np.float64),
            [self.aligned(number, numbers[0]) for number in numbers],
            rows["user_id"].to_numpy(),
            names,
        )


def methods_of(rows: Sequence[Row]) -> list[tuple[Row, list[int]]]:
    """Return the labels of each method, and the indices of its rows, one for each seed."""
    names = dict.fromkeys(
        name for row in rows for name in row if name not in NOT_LABELS and name != "seed"
    )
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row.get(name) for name in names), []).append(index)
    return [
        ({name: rows[group[0]][name] for name in names if name in rows[group[0]]}, group)
        for group in groups.values()
    ]


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return mean and standard deviation over seeds of each method's scores and costs."""
    lines = []
    for labels, group in methods_of(rows):
        line = labels | {"seeds": len(group)}
        for name in MEASURED:
            values = [float(rows[i][name]) for i in group if rows[i].get(name) is not None]
            if values:
                line[name] = float(np.mean(values))
                line[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        lines.append(line)
    return lines


def differences_over_trainings(
    study: Study, rows: Sequence[Row], metrics_by_task: Mapping[str, str] = PRIMARY_METRIC
) -> list[Row]:
    """Return the differences from the study's reference with intervals and p over trainings.

    metrics_by_task: the metric to compare for each task; rows of other tasks, and rows without it,
    are left out. Only rows are needed: Student's t over the seeds that both methods have. Methods
    with fewer than three such seeds are left out.
    """
    lines = []
    for line, pairs in _pairs(study, rows):
        metric = metrics_by_task.get(METRICS[primary_metric(rows[pairs[0][0]])].task)
        if metric is None or any(rows[i].get(metric) is None for pair in pairs for i in pair):
            continue
        test = paired_t_test([float(rows[a][metric]) - float(rows[b][metric]) for a, b in pairs])
        if test is not None:
            line |= {"metric": metric, "value": test.value, "over": "trainings"}
            line |= {"low": test.low, "high": test.high, "p": test.p}
            lines.append(line | {"users": rows[pairs[0][0]]["users"]})
    mark_significant(lines, study.within)
    return lines


def _pairs(study: Study, rows: Sequence[Row]) -> list[tuple[Row, list[tuple[int, int]]]]:
    """Return each method that has a reference, and the indices of their rows in pairs by seed.

    Methods without a seed, such as baselines, are paired with every seed of the other.
    """
    compared = []
    for labels, group in methods_of(rows):
        reference_labels = study.reference | {
            name: labels.get(name) for name in ("dataset", *study.within)
        }
        reference_rows = [
            index
            for index, row in enumerate(rows)
            if all(row.get(name) == value for name, value in reference_labels.items())
        ]
        seeds = [row.get("seed") for row in rows]
        pairs = [
            (a, b)
            for a in group
            for b in reference_rows
            if None in (seeds[a], seeds[b]) or seeds[a] == seeds[b]
        ]
        if pairs and group[0] not in reference_rows:
            compared.append((labels | {"against": study.reference, "seeds": len(pairs)}, pairs))
    return compared


def _differences_over_users(
    study: Study,
    cells: Sequence[Cell],
    predictions: _Predictions,
    metrics_by_task: Mapping[str, str],
) -> list[Row]:
    lines = []
    for line, pairs in _pairs(study, [cell.labels for cell in cells]):
        first = pairs[0][0]
        task = predictions.task(first)
        if task not in metrics_by_task:
            continue
        metric, rows = metrics_by_task[task], predictions.rows(first)
        difference = metrics.bootstrap_difference(
            task,
            metric,
            rows["outcome"].to_numpy(np.float64),
            [predictions.aligned(a, first) for a, _ in pairs],
            [predictions.aligned(b, first) for _, b in pairs],
            rows["user_id"].to_numpy(),
        )
        if not math.isfinite(difference.value):
            continue
        line |= {"metric": metric, "value": difference.value}
        line |= {"low": difference.low, "high": difference.high}
        error = (difference.high - difference.low) / (2 * 1.96)
        p = math.erfc(abs(difference.value) / error / math.sqrt(2)) if error > 0 else 1.0
        lines.append(line | {"users": difference.n_users, "p": float(p)})
    mark_significant(lines, study.within)
    return lines


def mark_significant(differences: list[Row], within: Sequence[str]) -> None:
    """Set `real` by Holm's step-down procedure over the differences from the same reference."""
    families: dict[tuple[Any, ...], list[Row]] = {}
    for line in differences:
        families.setdefault(tuple(line.get(n) for n in ("dataset", *within)), []).append(line)
    for lines in families.values():
        rejected = True
        for rank, line in enumerate(sorted(lines, key=lambda line: float(line["p"]))):
            rejected = rejected and line["p"] * (len(lines) - rank) < SIGNIFICANCE
            line["real"] = rejected
