"""All methods that were evaluated on one data set and split, with where each came from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from puma_engine.errors import PumaError
from puma_engine.evaluation.metrics import PRIMARY_METRIC, Interval
from puma_engine.evaluation.summaries import gain
from puma_engine.pipeline.comparing import method_cost
from puma_engine.pipeline.evaluating import method_kind, method_label
from puma_engine.store import Run, Workspace

COLUMNS = [
    *("evaluation", "run", "name", "kind", "label", "backbone", "origin", "path", "steps"),
    *("source_runs", "sources", "hops", "strategy", "budget", "users_trained", "seed", "seconds"),
    *("device", "created", "item_tokens", "value", "low", "high", "n"),
]


def evaluated_methods(
    ws: Workspace, dataset: str, split: str, metric: str | None = None
) -> pd.DataFrame:
    """Return one row an evaluation of a data set run and split, the latest first.

    Columns: evaluation, run (None for baselines), name, kind, label, backbone, origin (the
    backbones it started from, " + " between several), path (backbones from the origin on),
    steps (their runs), source_runs, sources, hops (0 without migration), strategy and
    budget (users) of the selection, users_trained, seed, seconds, device, created, item_tokens
    (0 without item prompts), and value, low, high, n of the metric (default: RMSE, or uAUC for clicks).
    """
    runs = {run.id: run for run in ws.runs(status="finished")}
    names = _unique_names([run for run in runs.values() if run.kind == "backbone"])
    wanted = [
        run
        for run in runs.values()
        if run.kind == "evaluation"
        and run.inputs.get("dataset") == dataset
        and run.summary.get("split") == split
    ]
    scores = ws.metrics()
    scores = scores[scores["method"].isna()]
    rows = []
    for run in wanted:
        name = metric or PRIMARY_METRIC[run.summary["task"]]
        own = scores[(scores["run_id"] == run.id) & (scores["metric"] == name)]
        if len(own):
            facts = own.iloc[0][["value", "low", "high", "n"]].to_dict()
            rows.append(_row(ws, run, runs, names) | facts)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(
    ws: Workspace, evaluation: Run, runs: dict[str, Run], names: dict[str, str]
) -> dict[str, Any]:
    subject = runs.get(evaluation.inputs.get("prompts", ""))
    row: dict[str, Any] = {"evaluation": evaluation.id, "run": None, "name": evaluation.name}
    row |= {"kind": method_kind(evaluation), "label": method_label(ws, evaluation)}
    row |= method_cost(ws, evaluation) | {"created": evaluation.created}
    row |= {"device": evaluation.device, "sources": 0, "hops": 0, "path": (), "steps": ()}
    row |= {"source_runs": (), "strategy": None, "budget": None, "seed": None}
    row["item_tokens"] = subject.summary.get("item_tokens", 0) if subject is not None else 0
    if subject is None:
        return row
    path, steps = _path(subject, runs, names)
    selection = runs.get(subject.inputs.get("selection", ""))
    migrated = subject.kind == "migration"
    return row | {
        "run": subject.id,
        "name": subject.name,
        "backbone": path[-1],
        "origin": path[0],
        "path": path,
        "steps": steps,
        "source_runs": _sources(subject),
        "sources": len(_sources(subject)),
        "hops": len(path) - 1,
        "strategy": selection.config["strategy"] if selection else "all" if migrated else None,
        "budget": selection.summary["selected"] if selection else subject.summary.get("users"),
        "seed": subject.seed,
        "device": subject.device,
    }


def _sources(run: Run) -> tuple[str, ...]:
    return tuple(run.inputs[role] for role in run.inputs if role.startswith("source_"))


def _path(
    run: Run, runs: dict[str, Run], names: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Backbones from the origin to the run's own, and the runs that stand on them."""
    own = names.get(run.inputs["backbone"], run.inputs["backbone"])
    sources = [runs[source] for source in _sources(run) if source in runs]
    if not sources:
        return (own,), (run.id,)
    if len(sources) == 1:
        path, steps = _path(sources[0], runs, names)
        return (*path, own), (*steps, run.id)
    start = " + ".join(sorted(_path(source, runs, names)[0][-1] for source in sources))
    return (start, own), ("", run.id)


def _unique_names(backbones: list[Run]) -> dict[str, str]:
    counts = Counter(run.name for run in backbones)
    return {
        run.id: run.name if counts[run.name] == 1 else f"{run.name} ({run.id[:6]})"
        for run in backbones
    }


def gain_between(ws: Workspace, reference: str, other: str, metric: str) -> Interval | None:
    """Return `puma_engine.evaluation.summaries.gain` of two evaluations by id; None where it is undefined."""
    try:
        return gain(ws.user_metrics(reference), ws.user_metrics(other), metric)
    except PumaError:
        return None
