"""Comparisons as runs: several evaluations with paired differences and costs.

Tables of a comparison run:
- "methods", one row for each method: method (its label), kind (source, migrated, retrained, random,
  shuffled or baseline), evaluation, run, users_trained, seconds, seed, device, is_baseline
  (whether it is the reference).
- "comparison", one row for each method and metric: method, kind, metric, value, low, high, difference,
  difference_low, difference_high (this method minus the reference, paired over users; NaN for
  the reference), n_users and draws (bootstrap draws of the intervals; absent in older runs).
- "shares_kept", one row for each method, reference and aspect (level or ranking), where the differences are
  from full retraining and there are random prompts on its backbone or the item mean: what the method
  keeps of the gain of full retraining (see `puma_engine.evaluation.shares_kept`). Older runs do not
  store it, nor pair accuracy: `comparison_scores` and `comparison_shares` compute them.
- "source_changes", one row for each source, method and metric, where there are source prompts: the
  difference of the method from them (see `puma_engine.evaluation.source_changes`). Older runs do not
  store it: `comparison_changes` computes it.
- "users", one row for each user: user_id, n (compared rows), train_rows, variance (of the train
  outcomes), and per evaluation loss_<id>, sd_<id> and half_<id>, the last two of the differences
  from the reference (see `puma_engine.evaluation.user_effects.per_user_losses`).
- what is derived from "users": see `puma_engine.pipeline.user_impact`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from puma_engine.backbone.templates import template_label
from puma_engine.datasets.losses import row_losses
from puma_engine.errors import ConfigError, DataError, NotFoundError, StoreError
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.metrics import (
    METRICS,
    PRIMARY_METRIC,
    Interval,
    SampledMetrics,
    estimates,
    metrics_of,
    sample_metrics,
)
from puma_engine.evaluation.plan_summary import CHOSEN_KINDS
from puma_engine.evaluation.shares_kept import ASPECTS, COLUMNS, measured_shares, shares_of_scores
from puma_engine.evaluation.source_changes import COLUMNS as CHANGE_COLUMNS
from puma_engine.evaluation.source_changes import measured_changes
from puma_engine.evaluation.user_effects import per_user_losses
from puma_engine.pipeline import stage
from puma_engine.pipeline.evaluating import (
    BLENDED,
    DRAWS,
    REUSED,
    method_kind,
    method_label,
    read_predictions,
    reuses_prompts,
    run_evaluation,
)
from puma_engine.pipeline.user_impact import store_user_impact
from puma_engine.requests import EvaluationRequest
from puma_engine.store import Run, Workspace

KEYS = ["user_id", "item_id"]
# Kinds of runs that count as the cost of a migration; source prompts exist before it.
MIGRATION_KINDS = ("selection", "migration")
SHARES, CHANGES = "shares_kept", "source_changes"
# Results that comparisons of earlier versions do not store, by workspace, run, name and hashes of files. A
# bootstrap over users takes seconds, and a page needs the result for each margin.
MAX_COMPUTED = 64
_COMPUTED: dict[tuple[str, ...], Any] = {}
_COMPUTING = threading.Lock()
T = TypeVar("T")


def compare(
    ws: Workspace,
    evaluations: Sequence[stage.Reference],
    *,
    reference: stage.Reference | None = None,
    baselines: bool = False,
    seed: int = 0,
    name: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Compare evaluations: metrics, differences from a reference, and costs.

    reference: one of the evaluations (default: the full retraining if there is one, else the
    first). baselines: add the methods that need no language model, evaluated on the same data set
    and split. seed: of the bootstrap. Methods are scored on the rows that all of them predicted,
    joined by user and item. Seconds of a migration include its selections and hops, not the source
    prompts.

    Raises ConfigError for fewer than two evaluations, evaluations of different tasks or splits,
    or a reference that is not among them; DataError where no row is common to all.
    """
    execution = stage.Execution(None, progress, should_cancel)
    runs = _unique_runs(ws, evaluations)
    if baselines and runs:
        data_and_split = {"dataset": runs[0].inputs["dataset"], "split": runs[0].summary["split"]}
        requests = [EvaluationRequest(subject=baseline, **data_and_split) for baseline in BASELINES]
        runs += [run_evaluation(ws, request, execution) for request in requests]
        runs = list({run.id: run for run in runs}.values())
    key = _comparison_key(ws, runs, reference, seed)
    base = ws.run(key["inputs"]["reference"])
    task, split = str(base.summary["task"]), str(base.summary["split"])

    def compute(run_id: str, _folder: Path, _clock: stage.Clock) -> stage.StageResult:
        labels = {run.id: method_label(ws, run) for run in runs}
        texts = list(labels.values())
        for run in runs:
            if texts.count(labels[run.id]) > 1:  # equal labels get the names of the runs too
                scored = run.inputs.get("prompts", run.id)
                labels[run.id] += f" [{ws.run(scored).name} {scored[:6]}]"
        joined, left_out = _join(ws, runs, labels)
        execution.announce(f"comparing {len(runs)} methods")
        sampled = _sample(task, runs, labels, joined, metrics_of(task), seed)
        scores = _scores(runs, labels, base, sampled)
        methods = [_method_row(ws, run, labels[run.id], base) for run in runs]
        ws.put_table(run_id, "methods", pd.DataFrame(methods))
        ws.put_table(run_id, "comparison", scores)
        columns = ["method", "metric", "value", "low", "high", "n_users"]
        rows = scores[columns].rename(columns={"n_users": "n"}).assign(split=split)
        ws.put_metrics(run_id, rows.to_dict("records"))
        shares = _shares(ws, runs, labels, base, sampled)
        if len(shares):
            ws.put_table(run_id, SHARES, shares)
        changes = _changes(runs, labels, sampled)
        if len(changes):
            ws.put_table(run_id, CHANGES, changes)
        users = _user_table(ws, runs, base, joined, labels)
        ws.put_table(run_id, "users", users)
        execution.announce("estimating the effect on each user")
        compared = [run.id for run in runs if method_kind(run) != "baseline" and run.id != base.id]
        store_user_impact(ws, run_id, users, compared, base.id, ratings=task == "rating")
        return stage.StageResult(
            summary={
                "task": task,
                "split": split,
                "reference": labels[base.id],
                "main_metric": PRIMARY_METRIC[task],
                "rows": len(joined),
                "rows_left_out": left_out,
                "users": len(users),
            }
        )

    return stage.run_stage(
        ws, "comparison", name=name or f"comparison-of-{len(runs)}", compute=compute, **key
    )


def find_comparison(
    ws: Workspace,
    evaluations: Sequence[stage.Reference],
    *,
    reference: stage.Reference | None = None,
    seed: int = 0,
) -> Run | None:
    """Return the comparison of exactly these evaluations, in any status, or None.

    Raises ConfigError as `compare` does.
    """
    key = _comparison_key(ws, _unique_runs(ws, evaluations), reference, seed)
    try:
        return ws.run(ws.run_key("comparison", **key))
    except NotFoundError:
        return None


def _unique_runs(ws: Workspace, evaluations: Sequence[stage.Reference]) -> list[Run]:
    runs = [stage.find(ws, evaluation, "evaluation") for evaluation in evaluations]
    return list({run.id: run for run in runs}.values())


def _comparison_key(
    ws: Workspace, runs: list[Run], reference: stage.Reference | None, seed: int
) -> dict[str, Any]:
    """Return config, inputs and seed of a comparison, which its run id is a hash of."""
    if len(runs) < 2:
        raise ConfigError("A comparison needs at least two different evaluations.")
    kinds = {(run.summary["task"], run.summary["split"]) for run in runs}
    if len(kinds) > 1:
        texts = ", ".join(sorted(f"{task} on {split}" for task, split in kinds))
        raise ConfigError(f"Only evaluations of one task and split can be compared, not {texts}.")
    if reference is None:
        base = next((run for run in runs if method_kind(run) == "retrained"), runs[0])
    else:
        base = stage.find(ws, reference, "evaluation")
        if base.id not in {run.id for run in runs}:
            raise ConfigError(f"The reference {base.name!r} is not among the compared evaluations.")
    inputs = {f"evaluation_{i}": run_id for i, run_id in enumerate(sorted(run.id for run in runs))}
    return {
        "config": {"split": base.summary["split"], "seed": seed, "draws": DRAWS},
        "inputs": inputs | {"reference": base.id},
        "seed": seed,
    }


def _join(ws: Workspace, runs: list[Run], labels: dict[str, str]) -> tuple[pd.DataFrame, int]:
    """Return the rows that every method predicted, and how many rows of the largest evaluation are left out.

    Columns: user_id, item_id, outcome, and the predictions of each method by its label.
    Raises DataError if no row is left.
    """
    joined: pd.DataFrame | None = None
    largest = 0
    for run in runs:
        frame = read_predictions(ws, run).rename(columns={"prediction": labels[run.id]})
        largest = max(largest, len(frame))
        if joined is None:
            joined = frame[[*KEYS, "outcome", labels[run.id]]]
        elif joined[KEYS].equals(frame[KEYS]):  # the same rows in the same order
            joined = joined.assign(**{labels[run.id]: frame[labels[run.id]]})
        else:
            columns = [*KEYS, labels[run.id]]
            joined = joined.merge(frame[columns], on=KEYS, validate="one_to_one")
    if joined is None or joined.empty:
        raise DataError("The evaluations have no example in common; evaluate them on one data set.")
    return joined, largest - len(joined)


def _sample(
    task: str,
    runs: list[Run],
    labels: dict[str, str],
    joined: pd.DataFrame,
    names: Sequence[str],
    seed: int,
) -> SampledMetrics:
    """Return some metrics of every method, over all rows and for resampled users."""
    return sample_metrics(
        task,
        joined["outcome"].to_numpy(np.float64),
        [joined[labels[run.id]].to_numpy() for run in runs],
        joined["user_id"].to_numpy(),
        names,
        seed=seed,
        draws=DRAWS,
    )


def _scores(
    runs: list[Run], labels: dict[str, str], base: Run, sampled: SampledMetrics
) -> pd.DataFrame:
    """Return the table "comparison"."""
    scored = estimates(sampled, [run.id for run in runs].index(base.id))
    unknown = Interval(np.nan, np.nan, np.nan, 0)
    rows = []
    for run, metrics in zip(runs, scored, strict=True):
        for metric, estimate in metrics.items():
            interval, difference = estimate.interval, estimate.difference or unknown
            rows.append(
                {
                    "method": labels[run.id],
                    "kind": method_kind(run),
                    "metric": metric,
                    **{name: getattr(interval, name) for name in ("value", "low", "high")},
                    "difference": difference.value,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "n_users": interval.n_users,
                    "draws": interval.draws,
                }
            )
    return pd.DataFrame(rows)


def _shares(
    ws: Workspace, runs: list[Run], labels: dict[str, str], base: Run, sampled: SampledMetrics
) -> pd.DataFrame:
    """Return the table "shares_kept"; empty without a reference for gains."""
    return measured_shares(
        str(base.summary["task"]),
        sampled,
        {labels[run.id]: 1 for run in runs},
        retrained=labels[base.id],
        references=_share_references(ws, runs, labels, base),
    )


def _share_references(
    ws: Workspace, runs: list[Run], labels: dict[str, str], base: Run
) -> dict[str, str]:
    """Return the labels of the references of full retraining's gains; none without full retraining.

    Random prompts must be on the backbone of full retraining, in its template.
    """

    def backbone(run: Run) -> str | None:
        return ws.run(run.inputs["prompts"]).inputs["backbone"] if "prompts" in run.inputs else None

    references: dict[str, str] = {}
    if method_kind(base) == "retrained":
        for run in runs:
            same_template = template_label(run.config) == template_label(base.config)
            if method_kind(run) == "random" and same_template and backbone(run) == backbone(base):
                references.setdefault("random", labels[run.id])
            elif run.config["method"] == "item_mean":
                references.setdefault("item_mean", labels[run.id])
    return references


def comparison_scores(ws: Workspace, comparison: stage.Reference) -> pd.DataFrame:
    """Return the table "comparison", one row for each method and metric.

    Metrics that an older comparison does not store are computed from its predictions, and left out
    if these are missing.
    """
    run = stage.find(ws, comparison, "comparison")
    scores = ws.get_table(run.id, "comparison")
    stored, task = set(scores["metric"]), str(run.summary["task"])
    missing = [name for name in metrics_of(task) if name not in stored]

    def compute() -> pd.DataFrame:
        runs, labels, base = _members(ws, run)
        joined, _ = _join(ws, runs, labels)
        sampled = _sample(task, runs, labels, joined, missing, int(run.config["seed"]))
        return _scores(runs, labels, base, sampled)

    if missing:
        with suppress(StoreError, DataError):
            computed = cached_result(ws, run, "comparison", compute)
            order = {method: number for number, method in enumerate(scores["method"])}
            scores = pd.concat([scores, computed[list(scores.columns)]]).sort_values(
                "method", key=lambda names: names.map(order), kind="stable", ignore_index=True
            )
    return scores


def comparison_shares(ws: Workspace, comparison: stage.Reference) -> pd.DataFrame:
    """Return the table "shares_kept" of a comparison; see `puma_engine.evaluation.shares_kept`.

    It is computed for runs that do not store it: from predictions, or if these are missing from
    scores, without intervals of shares. It is empty if the differences are not from full
    retraining, if there is no reference, or if the evaluations are missing.
    """
    run = stage.find(ws, comparison, "comparison")
    if any(file["name"] == SHARES for file in ws.artifacts(run.id)):
        return ws.get_table(run.id, SHARES)
    return cached_result(ws, run, SHARES, lambda: _shares_of_older(ws, run))


def _shares_of_older(ws: Workspace, run: Run) -> pd.DataFrame:
    """Compute the table "shares_kept" of a comparison that does not store it."""
    task, none = str(run.summary["task"]), pd.DataFrame(columns=list(COLUMNS))
    try:
        runs, labels, base = _members(ws, run)
    except StoreError:
        return none
    references = _share_references(ws, runs, labels, base)
    if not references:
        return none
    try:
        joined, _ = _join(ws, runs, labels)
    except (StoreError, DataError):
        scores = ws.get_table(run.id, "comparison")
        return shares_of_scores(task, scores, retrained=labels[base.id], references=references)
    names = [metric[task] for metric in ASPECTS.values()]
    sampled = _sample(task, runs, labels, joined, names, int(run.config["seed"]))
    return _shares(ws, runs, labels, base, sampled)


def comparison_changes(ws: Workspace, comparison: stage.Reference) -> pd.DataFrame:
    """Return the table "source_changes"; see `puma_engine.evaluation.source_changes`.

    It is computed for runs that do not store it. It is empty if their predictions are missing or no
    source prompts were compared.
    """
    run = stage.find(ws, comparison, "comparison")
    if any(file["name"] == CHANGES for file in ws.artifacts(run.id)):
        return ws.get_table(run.id, CHANGES)

    def compute() -> pd.DataFrame:
        runs, labels, _ = _members(ws, run)
        joined, _ = _join(ws, runs, labels)
        task, seed = str(run.summary["task"]), int(run.config["seed"])
        names = [metric[task] for metric in ASPECTS.values()]
        chosen = [member for member in runs if method_kind(member) in CHOSEN_KINDS]
        sampled = _sample(task, chosen, labels, joined, names, seed)
        return _changes(chosen, labels, sampled)

    none = pd.DataFrame(columns=list(CHANGE_COLUMNS))
    if "source" not in set(ws.get_table(run.id, "methods")["kind"]):
        return none
    try:
        return cached_result(ws, run, CHANGES, compute)
    except (StoreError, DataError):
        return none


def _changes(runs: list[Run], labels: dict[str, str], sampled: SampledMetrics) -> pd.DataFrame:
    """Return the table "source_changes" for level and ranking; empty without source prompts."""
    sources = [labels[run.id] for run in runs if method_kind(run) == "source"]
    changes = measured_changes(sampled, [labels[run.id] for run in runs], sources)
    task = METRICS[sampled.names[0]].task
    names = [metric[task] for metric in ASPECTS.values()]
    return changes[changes["metric"].isin(names)].reset_index(drop=True)


def cached_result(ws: Workspace, run: Run, name: str, compute: Callable[[], T]) -> T:
    """Return a result that a comparison does not store, computed once for its current files."""
    ids = [run.id, *run.inputs.values()]
    files = ws.query(
        "SELECT run_id, file, sha256 FROM artifacts"
        f" WHERE run_id IN ({', '.join('?' * len(ids))}) ORDER BY run_id, name",
        ids,
    )
    present = [row["sha256"] for row in files if (ws.folder(row["run_id"]) / row["file"]).is_file()]
    key = (str(ws.path), run.id, name, *present)
    with _COMPUTING:
        if key not in _COMPUTED:
            while len(_COMPUTED) >= MAX_COMPUTED:
                del _COMPUTED[next(iter(_COMPUTED))]
            _COMPUTED[key] = compute()
        return copy.deepcopy(_COMPUTED[key])


def _members(ws: Workspace, run: Run) -> tuple[list[Run], dict[str, str], Run]:
    """Return the evaluations of a comparison, the labels of their methods, and the reference.

    Raises StoreError if one of them is missing.
    """
    if "reference" not in run.inputs:
        raise StoreError(f"The comparison {run.name!r} names no reference; make it again.")
    methods = ws.get_table(run.id, "methods")
    runs = [ws.run(evaluation) for evaluation in methods["evaluation"]]
    labels = dict(zip(methods["evaluation"], methods["method"], strict=True))
    return runs, labels, ws.run(run.inputs["reference"])


def comparison_users(ws: Workspace, comparison: stage.Reference) -> pd.DataFrame:
    """Return the table "users" of a comparison; it is computed for runs that do not store it."""
    run = stage.find(ws, comparison, "comparison")
    if any(file["name"] == "users" for file in ws.artifacts(run.id)):
        return ws.get_table(run.id, "users")
    runs, labels, base = _members(ws, run)
    joined, _ = _join(ws, runs, labels)
    return _user_table(ws, runs, base, joined, labels)


def _user_table(
    ws: Workspace, runs: list[Run], base: Run, joined: pd.DataFrame, labels: dict[str, str]
) -> pd.DataFrame:
    """Return the table "users": activity of each user, and losses under every method."""
    task, y = str(base.summary["task"]), joined["outcome"].to_numpy(np.float64)

    def losses_of(run: Run) -> np.ndarray:
        return row_losses(task, y, joined[labels[run.id]].to_numpy(np.float64))

    # Sorted codes: the losses of every method then come in the order of user_ids.
    codes, user_ids = pd.factorize(joined["user_id"].to_numpy(), sort=True)
    reference = losses_of(base)
    columns: dict[str, Any] = {"user_id": pd.Series(user_ids, dtype="str")}
    for run in runs:
        losses = per_user_losses(codes, reference, losses_of(run))
        columns["n"] = losses["n"]
        for name in ("loss", "sd", "half"):
            columns[f"{name}_{run.id}"] = losses[name].astype(np.float32)
    train = ws.get_table(
        base.inputs["dataset"],
        "interactions",
        columns=["user_id", "outcome"],
        where={"split": ["train"]},
    ).groupby("user_id")["outcome"]
    activity = pd.DataFrame({"train_rows": train.size(), "variance": train.var(ddof=0)})
    users = pd.DataFrame(columns).merge(activity, left_on="user_id", right_index=True, how="left")
    return users.fillna({"train_rows": 0, "variance": 0.0}).astype({"train_rows": "int64"})


def _method_row(ws: Workspace, run: Run, label: str, base: Run) -> dict[str, Any]:
    """Return a row of the table "methods"."""
    prompts_run = ws.run(run.inputs["prompts"]) if "prompts" in run.inputs else None
    cost = method_cost(ws, run)
    return {
        "method": label,
        "kind": method_kind(run),
        "evaluation": run.id,
        "run": prompts_run.id if prompts_run else None,
        "users_trained": cost["users_trained"],
        "seconds": cost["seconds"],
        "seed": prompts_run.seed if prompts_run else None,
        "device": prompts_run.device if prompts_run else run.device,
        "is_baseline": run.id == base.id,
    }


def method_cost(ws: Workspace, evaluation: Run) -> dict[str, Any]:
    """Return the measured seconds of a method, its flops, and how many users trained it.

    Reused prompts cost nothing, and refined ones of them their selection and refining. A blend costs
    its prompts and its baseline. Fitted prompts cost their fitting (for imported ones, as recorded in
    the file). A migration costs its selections, hops and refining, without the source prompts. Items
    that were read from disk count with the time of their computation. flops: of trainings only; None
    if they were not measured.
    """
    if "prompts" not in evaluation.inputs:
        return {"seconds": evaluation.seconds, "users_trained": None, "flops": None}
    if evaluation.config["method"] == BLENDED:
        prompts, baseline = (
            method_cost(ws, ws.run(evaluation.inputs[r])) for r in ("own", "baseline")
        )
        seconds = (prompts["seconds"] or 0.0) + (baseline["seconds"] or 0.0)
        return prompts | {"seconds": seconds}
    prompts_run = ws.run(evaluation.inputs["prompts"])
    if evaluation.config["method"] == REUSED:
        return {"seconds": 0.0, "users_trained": 0, "flops": 0.0}
    trained = prompts_run.cost.get("users_trained")
    if prompts_run.kind == "prompts" and "start" not in prompts_run.inputs:
        seconds = prompts_run.cost.get("fitting_seconds") or _seconds_without_cache(prompts_run)
        return {
            "seconds": seconds,
            "users_trained": trained,
            "flops": prompts_run.cost.get("flops"),
        }
    steps = [run for run in ws.lineage(prompts_run.id) if run.kind in MIGRATION_KINDS]
    if prompts_run.kind == "prompts":
        if reuses_prompts(prompts_run, ws.run(prompts_run.inputs["start"])):
            # The prompts exist already, however they were made.
            steps = [run for run in steps if run.id == prompts_run.inputs.get("selection")]
        steps.append(prompts_run)
    flops = [run.cost.get("flops") for run in steps if run.kind != "selection"]
    return {
        "seconds": sum(_seconds_without_cache(run) or 0.0 for run in steps),
        "users_trained": trained,
        "flops": None if None in flops else sum(flops),
    }


def _seconds_without_cache(run: Run) -> float | None:
    """Return a run's seconds as if it had computed the items that it read from disk.

    Otherwise the first method on a model would pay for the items of all others.
    """
    if run.seconds is None:
        return None
    return run.seconds + float(run.cost.get("item_seconds_from_disk", 0.0))
