"""Comparisons as runs: evaluations side by side, with paired differences and costs.

A comparison run keeps these tables. "methods" has one row a method: method (its label),
kind (source, migrated, retrained, random, shuffled or baseline), evaluation, run,
users_trained, seconds, seed, device, is_baseline. "comparison" has one row a method and
metric: method, kind, metric, value, low, high, difference, difference_low,
difference_high (this method minus the reference, paired over users; NaN for the
reference itself) and n_users. "users" has one row a user: user_id, n (compared rows),
train_rows, variance (of the train outcomes), and for each evaluation three columns with
its id: loss_<id>, and against the reference sd_<id> and half_<id>, which
`puma_engine.evaluation.user_effects` explains. What is told of all users is worked out once and kept
beside them: see `puma_engine.pipeline.user_impact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.errors import ConfigError, DataError, NotFoundError
from puma_engine.evaluation import metrics
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.user_effects import per_user_losses, row_losses
from puma_engine.pipeline.evaluating import (
    DRAWS,
    evaluate,
    method_kind,
    method_label,
    read_predictions,
)
from puma_engine.pipeline.stage import Clock, Outcome, Reference, find, run_stage
from puma_engine.pipeline.stage_progress import (
    CancelCheck,
    ProgressCallback,
    announce,
    check_cancel,
)
from puma_engine.pipeline.user_impact import store_user_impact
from puma_engine.store import Run, Workspace

KEYS = ["user_id", "item_id"]
# The steps that a migration itself costs; the source prompts are what a customer has.
MIGRATION_KINDS = ("selection", "migration")


def compare(
    ws: Workspace,
    evaluations: Sequence[Reference],
    *,
    reference: Reference | None = None,
    baselines: bool = False,
    seed: int = 0,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Put evaluations side by side: metrics, differences from a reference, and costs.

    reference: one of the evaluations (default: the full retraining if there is one, else
    the first). baselines: add the methods that need no language model, evaluated on the
    same data set and split. Methods are scored on the rows that all of them predicted,
    joined by user and item. Seconds of a migration count its selections and hops, not the
    source prompts.
    """
    unique = _unique(ws, evaluations)
    if baselines and unique:
        unique = _with_baselines(ws, unique, progress, should_cancel)
    asked = _question(ws, unique, reference, seed)
    base = ws.run(asked["inputs"]["reference"])
    task, split = _agreed(unique)

    def work(run_id: str, _folder: Path, _clock: Clock) -> Outcome:
        labels = _labels(ws, unique)
        joined, left_out = _join(ws, unique, labels)
        announce(progress, f"comparing {len(unique)} methods")
        check_cancel(should_cancel, f"comparing {len(unique)} methods")
        rows = _scores(task, unique, labels, joined, base, seed)
        methods = [_method(ws, run, labels[run.id], base) for run in unique]
        ws.put_table(run_id, "methods", pd.DataFrame(methods))
        ws.put_table(run_id, "comparison", pd.DataFrame(rows))
        ws.put_metrics(run_id, [_metric_row(row, split) for row in rows])
        users = _users(ws, unique, base, joined, labels)
        ws.put_table(run_id, "users", users)
        announce(progress, "weighing how users fare")
        others = [run.id for run in unique if method_kind(run) != "baseline" and run.id != base.id]
        store_user_impact(ws, run_id, users, others, base.id, ratings=task == "rating")
        return Outcome(summary=_summary(task, split, labels[base.id], joined, left_out))

    return run_stage(
        ws,
        "comparison",
        name=name or f"comparison-of-{len(unique)}",
        work=work,
        **asked,
    )


def find_comparison(
    ws: Workspace,
    evaluations: Sequence[Reference],
    *,
    reference: Reference | None = None,
    seed: int = 0,
) -> Run | None:
    """Return the comparison of exactly these evaluations, whatever its status, if there is one."""
    asked = _question(ws, _unique(ws, evaluations), reference, seed)
    try:
        return ws.run(ws.run_key("comparison", **asked))
    except NotFoundError:
        return None


def _unique(ws: Workspace, evaluations: Sequence[Reference]) -> list[Run]:
    runs = [find(ws, evaluation, "evaluation") for evaluation in evaluations]
    return list({run.id: run for run in runs}.values())


def _question(
    ws: Workspace, runs: list[Run], reference: Reference | None, seed: int
) -> dict[str, Any]:
    """The settings, inputs and seed that make a comparison what it is."""
    if len(runs) < 2:
        raise ConfigError("A comparison needs at least two different evaluations.")
    base = _reference(ws, runs, reference)
    _, split = _agreed(runs)
    inputs = {f"evaluation_{i}": run.id for i, run in enumerate(sorted(runs, key=_id))}
    return {
        "config": {"split": split, "seed": seed, "draws": DRAWS},
        "inputs": inputs | {"reference": base.id},
        "seed": seed,
    }


def _with_baselines(
    ws: Workspace,
    runs: list[Run],
    progress: ProgressCallback | None,
    should_cancel: CancelCheck | None,
) -> list[Run]:
    more = [
        evaluate(
            ws,
            name,
            dataset=runs[0].inputs["dataset"],
            split=runs[0].summary["split"],
            progress=progress,
            should_cancel=should_cancel,
        )
        for name in BASELINES
    ]
    return list({run.id: run for run in [*runs, *more]}.values())


def _id(run: Run) -> str:
    return run.id


def _reference(ws: Workspace, runs: list[Run], given: Reference | None) -> Run:
    if given is not None:
        chosen = find(ws, given, "evaluation")
        if chosen.id not in {run.id for run in runs}:
            raise ConfigError(
                f"The reference {chosen.name!r} is not among the compared evaluations."
            )
        return chosen
    return next((run for run in runs if method_kind(run) == "retrained"), runs[0])


def _agreed(runs: list[Run]) -> tuple[str, str]:
    found = {(run.summary["task"], run.summary["split"]) for run in runs}
    if len(found) > 1:
        texts = ", ".join(sorted(f"{task} on {split}" for task, split in found))
        raise ConfigError(f"Only evaluations of one task and split can be compared, not {texts}.")
    return found.pop()


def _labels(ws: Workspace, runs: list[Run]) -> dict[str, str]:
    """Labels by evaluation id, told apart by run name where two methods read the same."""
    plain = {run.id: method_label(ws, run) for run in runs}
    texts = list(plain.values())
    return {
        run.id: text if texts.count(text) == 1 else f"{text} [{_subject_name(ws, run)}]"
        for run, text in ((run, plain[run.id]) for run in runs)
    }


def _subject_name(ws: Workspace, run: Run) -> str:
    subject = run.inputs.get("prompts", run.id)
    return f"{ws.run(subject).name} {subject[:6]}"


def _join(ws: Workspace, runs: list[Run], labels: dict[str, str]) -> tuple[pd.DataFrame, int]:
    """One row an example that every method predicted, one column of predictions a method."""
    joined: pd.DataFrame | None = None
    largest = 0
    for run in runs:
        frame = read_predictions(ws, run)
        largest = max(largest, len(frame))
        mine = frame[[*KEYS, "prediction"]].rename(columns={"prediction": labels[run.id]})
        if joined is None:
            joined = frame[[*KEYS, "outcome"]].merge(mine, on=KEYS, validate="one_to_one")
        elif joined[KEYS].equals(frame[KEYS]):  # the same examples in the same order
            joined = joined.assign(**{labels[run.id]: frame["prediction"]})
        else:
            joined = joined.merge(mine, on=KEYS, validate="one_to_one")
    assert joined is not None
    if joined.empty:
        raise DataError("The evaluations have no example in common; evaluate them on one data set.")
    return joined, largest - len(joined)


def _scores(
    task: str, runs: list[Run], labels: dict[str, str], joined: pd.DataFrame, base: Run, seed: int
) -> list[dict[str, Any]]:
    """One row a method and metric: its interval, and its difference from the reference."""
    scored = metrics.bootstrap(
        task,
        joined["outcome"].to_numpy(np.float64),
        [joined[labels[run.id]].to_numpy() for run in runs],
        joined["user_id"].to_numpy(),
        reference=[run.id for run in runs].index(base.id),
        seed=seed,
        draws=DRAWS,
    )
    rows = []
    for run, found in zip(runs, scored, strict=True):
        for metric, one in found.items():
            row: dict[str, Any] = {"method": labels[run.id], "kind": method_kind(run)}
            row |= {"metric": metric, "value": one.own.value}
            row |= {"low": one.own.low, "high": one.own.high}
            gap = one.difference or metrics.Interval(np.nan, np.nan, np.nan, one.own.n_users)
            row |= {"difference": gap.value, "difference_low": gap.low}
            rows.append(row | {"difference_high": gap.high, "n_users": one.own.n_users})
    return rows


def comparison_users(ws: Workspace, comparison: Reference) -> pd.DataFrame:
    """Return the table "users" of a comparison; computed for runs made before it was kept."""
    run = find(ws, comparison, "comparison")
    if any(file["name"] == "users" for file in ws.artifacts(run.id)):
        return ws.get_table(run.id, "users")
    methods = ws.get_table(run.id, "methods")
    runs = [ws.run(evaluation) for evaluation in methods["evaluation"]]
    labels = dict(zip(methods["evaluation"], methods["method"], strict=True))
    joined, _ = _join(ws, runs, labels)
    return _users(ws, runs, ws.run(run.inputs["reference"]), joined, labels)


def _users(
    ws: Workspace, runs: list[Run], base: Run, joined: pd.DataFrame, labels: dict[str, str]
) -> pd.DataFrame:
    """One row a user: how active the user is, and the losses under every method."""
    task, y = str(base.summary["task"]), joined["outcome"].to_numpy(np.float64)
    # Numbered once: the losses of every method then come in the order of these names.
    codes, names = pd.factorize(joined["user_id"].to_numpy(), sort=True)
    reference = row_losses(task, y, joined[labels[base.id]].to_numpy(np.float64))
    columns: dict[str, Any] = {"user_id": pd.Series(names, dtype="str")}
    for run in runs:
        own = per_user_losses(
            codes, reference, row_losses(task, y, joined[labels[run.id]].to_numpy(np.float64))
        )
        columns["n"] = own["n"]
        for name in ("loss", "sd", "half"):
            columns[f"{name}_{run.id}"] = own[name].astype(np.float32)
    found = pd.DataFrame(columns)
    train = ws.get_table(
        base.inputs["dataset"],
        "interactions",
        columns=["user_id", "outcome"],
        where={"split": ["train"]},
    ).groupby("user_id")["outcome"]
    activity = pd.DataFrame({"train_rows": train.size(), "variance": train.var(ddof=0)})
    found = found.merge(activity, left_on="user_id", right_index=True, how="left")
    return found.fillna({"train_rows": 0, "variance": 0.0}).astype({"train_rows": "int64"})


def _method(ws: Workspace, run: Run, label: str, base: Run) -> dict[str, Any]:
    subject = ws.run(run.inputs["prompts"]) if "prompts" in run.inputs else None
    cost = method_cost(ws, run)
    return {
        "method": label,
        "kind": method_kind(run),
        "evaluation": run.id,
        "run": subject.id if subject else None,
        "users_trained": cost["users_trained"],
        "seconds": cost["seconds"],
        "seed": subject.seed if subject else None,
        "device": subject.device if subject else run.device,
        "is_baseline": run.id == base.id,
    }


def method_cost(ws: Workspace, evaluation: Run) -> dict[str, Any]:
    """Return the measured seconds of a method, its arithmetic (flops), and how many users trained it.

    For fitted prompts: their fitting (that of the file, for imported ones). For a
    migration, refined or not: every selection, hop and refining down to the source prompts,
    which are not counted. flops: of the trainings alone; None where they were not kept.
    """
    if "prompts" not in evaluation.inputs:
        return {"seconds": evaluation.seconds, "users_trained": None, "flops": None}
    subject = ws.run(evaluation.inputs["prompts"])
    trained = subject.cost.get("users_trained")
    if subject.kind == "prompts" and "start" not in subject.inputs:
        seconds = subject.cost.get("fitting_seconds") or subject.seconds
        return {
            "seconds": seconds,
            "users_trained": trained,
            "flops": subject.cost.get("flops"),
        }
    steps = [run for run in ws.lineage(subject.id) if run.kind in MIGRATION_KINDS]
    steps += [subject] if subject.kind == "prompts" else []
    work = [run.cost.get("flops") for run in steps if run.kind != "selection"]
    return {
        "seconds": sum(run.seconds or 0.0 for run in steps),
        "users_trained": trained,
        "flops": None if None in work else sum(work),
    }


def _metric_row(row: dict[str, Any], split: str) -> dict[str, Any]:
    kept = {name: row[name] for name in ("method", "metric", "value", "low", "high")}
    return kept | {"split": split, "n": row["n_users"]}


def _summary(
    task: str, split: str, reference: str, joined: pd.DataFrame, left_out: int
) -> dict[str, Any]:
    return {
        "task": task,
        "split": split,
        "reference": reference,
        "main_metric": metrics.metrics_of(task)[0],
        "rows": len(joined),
        "rows_left_out": left_out,
        "users": int(joined["user_id"].nunique()),
    }
