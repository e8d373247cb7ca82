"""All methods evaluated on one data set and split, with their migrations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from puma_engine.backbone.templates import template_label
from puma_engine.errors import PumaError
from puma_engine.evaluation.metrics import PRIMARY_METRIC, Interval
from puma_engine.evaluation.summaries import gain
from puma_engine.pipeline.comparing import method_cost
from puma_engine.pipeline.evaluating import method_kind, method_label
from puma_engine.pipeline.stored_prompts import has_model
from puma_engine.store import Run, Workspace

COLUMNS = [
    *("evaluation", "run", "name", "kind", "label", "backbone", "origin", "path", "steps"),
    *("source_runs", "sources", "hops", "strategy", "budget", "users_trained", "seed", "seconds"),
    *("device", "created", "item_tokens", "template", "flops", "value", "low", "high", "n"),
]


def evaluated_methods(ws: Workspace, dataset: str, split: str) -> pd.DataFrame:
    """Return one row per evaluation of a data set run and split, the latest first.

    Columns: evaluation, run (None for baselines), name, kind, label, backbone, origin (the
    backbones it started from, joined by " + "), path (backbones from the origin on), steps (their
    runs), source_runs, sources, hops (changes of the model), strategy and budget (users) of the
    selection, users_trained, seed, seconds, device, created, item_tokens (0 without item prompts),
    template (None for baselines), flops (None where they were not measured), and value, low, high,
    n of the primary metric.
    """
    runs = {run.id: run for run in ws.runs(status="finished")}
    backbones = [run for run in runs.values() if run.kind == "backbone"]
    counts = Counter(run.name for run in backbones)
    names = {
        run.id: run.name if counts[run.name] == 1 else f"{run.name} ({run.id[:6]})"
        for run in backbones
    }
    metrics = ws.metrics()
    metrics = metrics[metrics["method"].isna()]  # rows of comparisons name their method
    scores = {(row["run_id"], row["metric"]): row for row in metrics.to_dict("records")}
    rows = []
    for run in runs.values():
        same_rows = run.inputs.get("dataset") == dataset and run.summary.get("split") == split
        if run.kind != "evaluation" or not same_rows:
            continue
        score = scores.get((run.id, PRIMARY_METRIC[run.summary["task"]]))
        if score is not None:
            interval = {name: score[name] for name in ("value", "low", "high", "n")}
            rows.append(_row(ws, run, runs, names) | interval)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(
    ws: Workspace, evaluation: Run, runs: dict[str, Run], names: dict[str, str]
) -> dict[str, Any]:
    prompts = runs.get(evaluation.inputs.get("prompts", ""))
    row: dict[str, Any] = method_cost(ws, evaluation) | {
        "evaluation": evaluation.id,
        "kind": method_kind(evaluation),
        "label": method_label(ws, evaluation),
        "created": evaluation.created,
        **dict.fromkeys(("run", "strategy", "budget", "seed", "template")),
        **dict.fromkeys(("path", "steps", "source_runs"), ()),
        **dict.fromkeys(("sources", "hops", "item_tokens"), 0),
        "name": evaluation.name,
        "device": evaluation.device,
    }
    if prompts is None:
        return row
    path, steps = _path(prompts, runs, names)
    sources = _sources(prompts)
    selection = runs.get(prompts.inputs.get("selection", ""))
    all_users = "all" if prompts.kind == "migration" else None
    return row | {
        "run": prompts.id,
        "name": prompts.name,
        "backbone": names.get(evaluation.inputs.get("backbone", ""), path[-1]),
        "origin": path[0],
        "path": path,
        "steps": steps,
        "source_runs": sources,
        "sources": len(sources),
        "hops": len(path) - 1,
        "strategy": selection.config["strategy"] if selection else all_users,
        "budget": selection.summary["selected"] if selection else prompts.summary.get("users"),
        "seed": prompts.seed,
        "device": prompts.device,
        "item_tokens": prompts.summary.get("item_tokens", 0),
        "template": template_label(evaluation.config),
    }


def _sources(run: Run) -> tuple[str, ...]:
    return tuple(run.inputs[role] for role in run.inputs if role.startswith("source_"))


def _path(
    run: Run, runs: dict[str, Run], names: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the backbones from the origin to that of the run, and the runs on them.

    For vectors of no language model, the name of their run is used.
    """
    if not has_model(run):
        return (run.name,), (run.id,)
    backbone = names.get(run.inputs["backbone"], run.inputs["backbone"])
    sources = [runs[source] for source in _sources(run) if source in runs]
    if (start := runs.get(run.inputs.get("start", ""))) is not None:
        path, steps = _path(start, runs, names)
        if start.inputs.get("backbone") == run.inputs["backbone"]:
            return path, (*steps[:-1], run.id)
        return (*path, backbone), (*steps, run.id)
    if not sources:
        return (backbone,), (run.id,)
    if len(sources) == 1:
        path, steps = _path(sources[0], runs, names)
        return (*path, backbone), (*steps, run.id)
    origin = " + ".join(sorted(_path(source, runs, names)[0][-1] for source in sources))
    return (origin, backbone), ("", run.id)


def gain_between(ws: Workspace, reference: str, other: str, metric: str) -> Interval | None:
    """Return the `gain` of one evaluation over another, by id; None where it is undefined."""
    try:
        return gain(ws.user_metrics(reference), ws.user_metrics(other), metric)
    except PumaError:
        return None
