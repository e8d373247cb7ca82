"""From the runs of a study to rows, means over seeds, and differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from puma_engine import pipeline
from puma_engine.evaluation import metrics
from puma_engine.evaluation.metrics import PRIMARY_METRIC
from puma_engine.store import Run, Workspace
from puma_engine.studies.cells import LENT, Cell, Study
from puma_engine.studies.differences import over_trainings, p_over_trainings

COSTS = ("seconds", "users_trained", "flops")


def collect(
    ws: Workspace,
    study: Study,
    cells: Sequence[Cell],
    runs: dict[str, str],
    *,
    whole: bool = True,
) -> dict[str, Any]:
    """Return rows (one an evaluation), summary (one a method, over seeds) and differences.

    A difference is the mean over the seeds that both have, and resamples users: its
    interval is the 95 % percentile one, p the normal approximation from it, and `real` says
    whether it is below 0.05 after Holm's correction over the others of the same reference.
    Unless whole, they are `differences_over_trainings`, which take no time.
    """
    done = [cell for cell in cells if cell.facts and cell.name in runs]
    found = {cell.name: ws.run(runs[cell.name]) for cell in done}
    rows = [_row(ws, cell, found[cell.name]) for cell in done]
    chosen = {
        cell.name: {part: _config(ws, runs[cell.name]).get(part) for part in LENT}
        for cell in cells
        if cell.stage == "best" and cell.name in runs
    }
    return {
        "rows": rows,
        "summary": summary(rows),
        "differences": _differences(ws, study, done, found)
        if whole
        else differences_over_trainings(study, rows),
        "settings": chosen,
    }


def _config(ws: Workspace, run: str) -> dict[str, Any]:
    return ws.run(run).config


def _row(ws: Workspace, cell: Cell, run: Run) -> dict[str, Any]:
    cost = pipeline.method_cost(ws, run)
    row = cell.facts | {"run": run.id} | run.summary["metrics"]
    row |= {"users": run.summary["users"], "rows": run.summary["rows"]}
    if "prompts" in run.inputs:
        subject = ws.run(run.inputs["prompts"])
        row |= {"device": subject.device, "epochs": subject.cost.get("epochs")}
        row["examples"] = subject.cost.get("examples")
    return row | cost


def facts_without_seed(row: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """Return what tells one method from another, whatever the seed."""
    return tuple(row.get(name) for name in names if name != "seed")


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of each method's scores and seconds."""
    names = _fact_names(rows)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(facts_without_seed(row, names), []).append(row)
    found = []
    for own in groups.values():
        line = {name: own[0][name] for name in names if name != "seed" and name in own[0]}
        line["seeds"] = len(own)
        for name in (*metrics.METRICS, *COSTS):
            values = [float(row[name]) for row in own if row.get(name) is not None]
            if values:
                line[name] = float(np.mean(values))
                line[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found.append(line)
    return found


def _fact_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    scores = {*metrics.METRICS}
    others = {"run", "users", "rows", "device", "epochs", "examples", *COSTS}
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(name for name in row if name not in scores | others)
    return list(names)


def differences_over_trainings(
    study: Study, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what a report's rows alone say of differences from the study's reference.

    Each is a mean over the seeds that both have, with Student's interval and p over these pairs;
    with fewer than three of them there is none.
    """
    found = []
    for line, pairs in _compared(study, rows):
        metric = next(name for name in PRIMARY_METRIC.values() if name in rows[pairs[0][0]])
        values = [float(rows[one][metric]) - float(rows[other][metric]) for one, other in pairs]
        interval = over_trainings(values)
        if interval is not None:
            line |= {"metric": metric, "value": sum(values) / len(values), "over": "trainings"}
            line |= {"low": interval[0], "high": interval[1], "p": p_over_trainings(values)}
            found.append(line | {"users": rows[pairs[0][0]]["users"]})
    _mark_real(found, study.within)
    return found


def _differences(
    ws: Workspace, study: Study, cells: Sequence[Cell], runs: dict[str, Run]
) -> list[dict[str, Any]]:
    frames = _Frames(ws, runs)
    found = [
        line | frames.difference([(cells[one], cells[other]) for one, other in pairs])
        for line, pairs in _compared(study, [cell.facts for cell in cells])
    ]
    _mark_real(found, study.within)
    return found


def _compared(
    study: Study, rows: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], list[tuple[int, int]]]]:
    """Facts of each method that has a reference, and the places of their rows in pairs by seed."""
    names = _fact_names(rows)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(facts_without_seed(row, names), []).append(place)
    found = []
    for own in groups.values():
        first = rows[own[0]]
        wanted = study.reference | {name: first.get(name) for name in ("dataset", *study.within)}
        base = [
            place
            for place, row in enumerate(rows)
            if all(row.get(name) == value for name, value in wanted.items())
        ]
        pairs = [(a, b) for a in own for b in base if _same_seed(rows[a], rows[b])]
        if pairs and own[0] not in base:
            line = {name: first[name] for name in names if name != "seed" and name in first}
            found.append((line | {"against": study.reference, "seeds": len(pairs)}, pairs))
    return found


def _same_seed(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Methods without a seed, such as baselines, are compared with every seed of the other."""
    seeds = row.get("seed"), other.get("seed")
    return None in seeds or seeds[0] == seeds[1]


class _Frames:
    """Predictions of evaluations, read once."""

    def __init__(self, ws: Workspace, runs: dict[str, Run]) -> None:
        self.ws, self.runs = ws, runs
        self.kept: dict[str, pd.DataFrame] = {}

    def read(self, cell: Cell) -> pd.DataFrame:
        run = self.runs[cell.name]
        if run.id not in self.kept:
            self.kept[run.id] = pipeline.read_predictions(self.ws, run)
        return self.kept[run.id]

    def difference(self, pairs: Sequence[tuple[Cell, Cell]]) -> dict[str, Any]:
        task = self.runs[pairs[0][0].name].summary["task"]
        keys = ["user_id", "item_id"]
        rows = self.read(pairs[0][0])[[*keys, "outcome"]]
        sides = zip(*pairs, strict=True)
        firsts, seconds = ([self._aligned(cell, rows[keys]) for cell in side] for side in sides)
        found = metrics.bootstrap_difference(
            task,
            PRIMARY_METRIC[task],
            rows["outcome"].to_numpy(np.float64),
            firsts,
            seconds,
            rows["user_id"].to_numpy(),
        )
        line = {
            "metric": PRIMARY_METRIC[task],
            "value": found.value,
            "low": found.low,
            "high": found.high,
        }
        return line | {"users": found.n_users, "p": _p(found)}

    def _aligned(self, cell: Cell, rows: pd.DataFrame) -> np.ndarray:
        """Predictions of an evaluation for rows of user and item, which it has all."""
        joined = rows.merge(self.read(cell), on=list(rows), how="left", validate="one_to_one")
        return joined["prediction"].to_numpy(np.float64)


def _p(found: metrics.Interval) -> float:
    error = (found.high - found.low) / (2 * 1.96)
    return float(math.erfc(abs(found.value) / error / math.sqrt(2))) if error > 0 else 1.0


def _mark_real(differences: list[dict[str, Any]], within: Sequence[str]) -> None:
    """Holm's step-down over the differences that share a data set and reference."""
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in differences:
        family = tuple(line.get(name) for name in ("dataset", *within))
        families.setdefault(family, []).append(line)
    for lines in families.values():
        still = True
        for place, line in enumerate(sorted(lines, key=lambda line: float(line["p"]))):
            still = still and line["p"] * (len(lines) - place) < 0.05
            line["real"] = still
