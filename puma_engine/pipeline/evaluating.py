"""Evaluations as runs: predictions on a split, metrics with intervals, metrics of each user."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.backbone.templates import Template
from puma_engine.datasets import Dataset
from puma_engine.errors import ConfigError, NotFoundError, StoreError
from puma_engine.evaluation import metrics
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.blending import Blend
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import backbone_run, load_backbone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import (
    check_width,
    has_model,
    load_prompts,
    model_of,
    template_of,
)
from puma_engine.requests import EvaluationRequest
from puma_engine.store import Run, Workspace

PREDICTIONS = "predictions"
USER_METRICS = "user_metrics"
DRAWS = 1000
# Method of prompts that another model, or another wording, reads unchanged.
REUSED = "reused"
# Method of prompts whose predictions are blended with a baseline's.
BLENDED = "blended"
LABELS = {
    "source": "Source prompts",
    "retrained": "Full retraining",
    "random": "Random prompts",
    REUSED: "Prompts reused as they are",
}


def evaluate(
    ws: Workspace,
    subject: stage.Reference,
    *,
    dataset: stage.Reference | None = None,
    backbone: stage.Reference | Path | None = None,
    blend: str | None = None,
    split: str = "test",
    template: str | None = None,
    precision: str = "auto",
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Predict every row of a split and score it, pooled and for each user.

    subject: a prompts or migration run, scored on its own data set unless another is given; or the
    name of a baseline that needs no language model (global_mean, item_mean, user_item_bias,
    matrix_factorisation), with a data set. backbone: another model that reads the prompts
    unchanged, such as the same weights in another precision; this shows what a migration can save.
    blend: a baseline whose predictions are blended with the prompts', with weights fitted on
    validation rows. split: train, validation or test. Every metric has a 95 % interval from
    resampling users. Raises NotFoundError, ConfigError, DataError.
    """
    request = EvaluationRequest.from_arguments(locals())
    return run_evaluation(ws, request, stage.Execution(device, progress, should_cancel))


def run_evaluation(ws: Workspace, request: EvaluationRequest, execution: stage.Execution) -> Run:
    """Execute a request to evaluate; see `evaluate`."""
    if request.blend is not None:
        return _run_blended(ws, request, execution)
    split, subject, run = request.split, request.subject, None
    config: dict[str, Any]
    if subject in BASELINES:
        if request.dataset is None:
            raise ConfigError(f"The baseline {subject!r} needs a data set (--dataset).")
        if request.backbone is not None:
            raise ConfigError(f"No language model reads the baseline {subject!r}; leave it out.")
        if request.template is not None or request.precision != "auto":
            given = "template" if request.template is not None else "precision"
            raise ConfigError(
                f"The baseline {subject!r} is no language model and has no {given}; leave it out."
            )
        data = stage.find(ws, request.dataset, "dataset")
        config = {"method": subject, "split": split, "draws": DRAWS}
        label, inputs = stage.slug(subject, data.name), {"dataset": data.id}
    else:
        try:
            run = stage.find(ws, subject, *stage.PROMPT_KINDS)
        except NotFoundError as error:
            raise NotFoundError(f"{error} The baselines are {', '.join(BASELINES)}.") from None
        reader = model_of(run)
        data = stage.find(ws, request.dataset or run.inputs["dataset"], "dataset")
        config = {
            "method": run.config["role"],
            "split": split,
            "precision": request.precision,
            "draws": DRAWS,
        }
        template = template_of(run, request.template)
        config |= template.to_config()
        label, inputs = run.name, {"prompts": run.id, "dataset": data.id}
        if request.backbone is not None:
            model = backbone_run(ws, request.backbone, device=execution.device)
            check_width(run, model)
            config["method"] = REUSED
            inputs["backbone"] = reader = model.id
            label = stage.slug(REUSED, run.name, "on", model.name)

    def compute(run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        execution.announce(f"evaluating {run.name if run else subject}")
        dataset, device = load_dataset(ws, data), "cpu"
        if run is None:
            baseline = BASELINES[subject]()
            baseline.fit(dataset.rows("train"), dataset.rows("validation"))
            predicted = np.asarray(baseline.predict(dataset.rows(split)), dtype=np.float64)
        else:
            from puma_engine.evaluation import prediction
            from puma_engine.pipeline.fitting import device_name

            backbone = load_backbone(
                ws, reader, device=execution.device, precision=request.precision
            )
            table, device = load_prompts(ws, run), device_name(str(backbone.device))
            clock.restart()
            predicted = prediction.predict(backbone, table, dataset, split, template=template)
        summary = store_scores(ws, run_id, dataset, split, predicted)
        return stage.StageResult(device, {}, summary)

    by_ids = replace(
        request,
        subject=subject if run is None else run.id,
        dataset=data.id,
        backbone=inputs.get("backbone"),
    )
    return stage.run_stage(
        ws,
        "evaluation",
        name=request.name or stage.slug("eval", label, None if split == "test" else split),
        config=config,
        inputs=inputs,
        compute=compute,
        remote_compute=execution.remote_compute("evaluate", by_ids),
    )


def _run_blended(ws: Workspace, request: EvaluationRequest, execution: stage.Execution) -> Run:
    """Score the blend of prompts and a baseline, from evaluations of both on the split and on validation rows.

    The weights and the intercept are in the summary of the run.
    """
    baseline, split = str(request.blend), request.split
    if baseline not in BASELINES or request.subject in BASELINES:
        raise ConfigError(
            f"Predictions of prompts are blended with those of a baseline ({', '.join(BASELINES)}), not "
            f"{request.subject!r} with {baseline!r}."
        )
    if split == "validation":
        raise ConfigError("Validation rows choose the weights of a blend; score it on test rows.")
    unblended = replace(request, blend=None, name=None)
    prompts_run = run_evaluation(ws, unblended, execution)
    of_baseline = replace(
        unblended,
        subject=baseline,
        dataset=prompts_run.inputs["dataset"],
        template=None,
        precision="auto",
    )
    scored = {"own": prompts_run, "baseline": run_evaluation(ws, of_baseline, execution)}
    fitted = {
        "own": run_evaluation(ws, replace(unblended, split="validation"), execution),
        "baseline": run_evaluation(ws, replace(of_baseline, split="validation"), execution),
    }

    def compute(run_id: str, _folder: Path, _clock: stage.Clock) -> stage.StageResult:
        dataset = load_dataset(ws, ws.run(prompts_run.inputs["dataset"]))
        validation, rows = dataset.rows("validation"), dataset.rows(split)
        inputs, predictions = (
            np.column_stack([_predictions_of(ws, run, target_rows) for run in runs.values()])
            for runs, target_rows in ((fitted, validation), (scored, rows))
        )
        outcome = validation["outcome"].to_numpy(np.float64)
        blend = Blend(dataset.task).fit(inputs, outcome)
        predicted = blend.predict(predictions)
        summary = store_scores(ws, run_id, dataset, split, predicted)
        weights = dict(zip(scored, map(float, blend.weights), strict=True))
        summary |= {"weights": weights, "intercept": blend.intercept}
        return stage.StageResult(summary=summary)

    return stage.run_stage(
        ws,
        "evaluation",
        name=request.name or stage.slug(prompts_run.name, "with", baseline),
        config=prompts_run.config | {"method": BLENDED, "blended_with": baseline},
        inputs=prompts_run.inputs
        | {role: run.id for role, run in scored.items()}
        | {f"{role}_validation": run.id for role, run in fitted.items()},
        compute=compute,
    )


def _predictions_of(ws: Workspace, evaluation: Run, rows: pd.DataFrame) -> np.ndarray:
    """Return an evaluation's predictions for rows, in their order. Raises StoreError if its rows are others."""
    stored = read_predictions(ws, evaluation)
    keys = ["user_id", "item_id"]
    if stored[keys].to_numpy().tolist() != rows[keys].to_numpy().tolist():
        raise StoreError(
            f"The predictions of {evaluation.name!r} ({len(stored):,} rows) are not of the {len(rows):,} "
            "rows that the data set has now; delete that evaluation, then evaluate again."
        )
    return stored["prediction"].to_numpy(np.float64)


def store_scores(
    ws: Workspace, run_id: str, dataset: Dataset, split: str, predicted: np.ndarray
) -> dict[str, Any]:
    """Store predictions of a split, [rows], with their metrics; return the summary of their run."""
    frame = dataset.rows(split)[["user_id", "item_id", "outcome"]]
    frame = frame.assign(prediction=predicted.astype(np.float32))
    ws.put_table(run_id, PREDICTIONS, frame)
    y, users = frame["outcome"].to_numpy(np.float64), frame["user_id"].to_numpy()
    scores = metrics.bootstrap(dataset.task, y, [predicted], users, draws=DRAWS)[0]
    rows = []
    for metric, score in scores.items():
        interval = {name: getattr(score.interval, name) for name in ("value", "low", "high")}
        rows.append({"split": split, "metric": metric, **interval, "n": score.interval.n_users})
    ws.put_metrics(run_id, rows)
    put_user_metrics(ws, run_id, metrics.per_user(dataset.task, y, predicted, users))
    return {
        "task": dataset.task,
        "split": split,
        "rows": len(frame),
        "users": int(frame["user_id"].nunique()),
        "metrics": metrics.pooled(dataset.task, y, predicted, users),
    }


def pooled_metrics(ws: Workspace, evaluation: Run) -> dict[str, float | None]:
    """Return every metric of an evaluation over all rows, by name; None where it is undefined.

    Metrics that an older evaluation does not store are computed from its predictions, and left out
    if these are missing.
    """
    stored: dict[str, float | None] = dict(evaluation.summary["metrics"])
    task = str(evaluation.summary["task"])
    missing = [name for name in metrics.metrics_of(task) if name not in stored]
    if not missing:
        return stored
    try:
        rows = read_predictions(ws, evaluation)
    except StoreError:
        return stored
    y, p = (rows[name].to_numpy(np.float64) for name in ("outcome", "prediction"))
    computed = metrics.pooled(task, y, p, rows["user_id"].to_numpy())
    return stored | {
        name: computed[name] if np.isfinite(computed[name]) else None for name in missing
    }


def put_user_metrics(ws: Workspace, run_id: str, frame: pd.DataFrame) -> None:
    """Store the metrics of each user in the database and in a file.

    The database is for looking up one user. The file is for reading a column: of a million rows in
    0.1 s instead of seconds.
    """
    ws.put_user_metrics(run_id, frame)
    ws.put_table(run_id, USER_METRICS, frame)


def ids_of(frame: pd.DataFrame) -> pa.Array:
    """Return the column user_id of a frame as one array."""
    ids = pa.array(frame["user_id"], pa.string())
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def read_user_metric(ws: Workspace, evaluation: str, metric: str, users: pa.Array) -> np.ndarray:
    """Return one metric of some users in an evaluation, [users] float32; NaN if it is unknown.

    Evaluations of earlier versions have metrics only in the database and no pair accuracy, which is
    computed from their predictions. Raises StoreError.
    """
    try:
        frame = ws.get_table(evaluation, USER_METRICS, columns=["user_id", metric])
    except NotFoundError:
        frame = ws.user_metrics(evaluation).reindex(columns=["user_id", metric])
    except pa.ArrowInvalid:  # the file has no such column
        frame = pd.DataFrame({"user_id": users.to_pylist(), metric: np.nan})
    if metric == "pair_accuracy" and frame[metric].isna().all():
        with suppress(StoreError):
            frame = _user_metrics_of_predictions(ws, ws.run(evaluation))
    values, stored_ids = frame[metric].to_numpy(np.float32), ids_of(frame)
    if stored_ids.equals(users):
        return values
    rows = pc.index_in(users, stored_ids)
    aligned = np.full(len(users), np.nan, np.float32)
    aligned[rows.is_valid().to_numpy(zero_copy_only=False)] = values[rows.drop_null().to_numpy()]
    return aligned


def _user_metrics_of_predictions(ws: Workspace, evaluation: Run) -> pd.DataFrame:
    rows = read_predictions(ws, evaluation)
    y, p = (rows[name].to_numpy(np.float64) for name in ("outcome", "prediction"))
    return metrics.per_user(evaluation.summary["task"], y, p, rows["user_id"].to_numpy())


def method_kind(evaluation: Run) -> str:
    """Return source, retrained, random, migrated, refined, shuffled, reused, blended or baseline."""
    method = evaluation.config["method"]
    return "baseline" if method in BASELINES else str(method)


def method_label(ws: Workspace, evaluation: Run) -> str:
    """Return the name of an evaluation's method, as reports and pages show it."""
    method = evaluation.config["method"]
    if method in BASELINES:
        return BASELINES[method].label
    prompts = ws.run(evaluation.inputs["prompts"])
    if method == BLENDED:
        baseline = BASELINES[evaluation.config["blended_with"]].label
        return f"{prompts_label(ws, prompts)}, blended with {baseline.lower()}"
    return _prompts_label(ws, prompts, method)


def is_of_prompts_alone(evaluation: Run) -> bool:
    """Return whether an evaluation is of prompts on their own model, without a baseline."""
    return "prompts" in evaluation.inputs and evaluation.config["method"] not in (REUSED, BLENDED)


def reuses_prompts(refined: Run, start: Run) -> bool:
    """Return whether refined prompts started from those of another model or template, without a migration."""
    return refined.inputs["backbone"] != start.inputs["backbone"] or Template.from_config(
        refined.config
    ) != Template.from_config(start.config)


def prompts_label(ws: Workspace, prompts: Run) -> str:
    """Return the name of the method of a prompt table, evaluated or not."""
    return _prompts_label(ws, prompts, str(prompts.config["role"]))


def _prompts_label(ws: Workspace, prompts: Run, method: str) -> str:
    if method in LABELS:
        label = LABELS[method]
    elif method == "refined":
        start = ws.run(prompts.inputs["start"])
        reused = reuses_prompts(prompts, start)
        label = f"{'Reused prompts' if reused else _migration_label(ws, start)}, refined"
        if "selection" in prompts.inputs:
            selection = ws.run(prompts.inputs["selection"])
            label += f" for {selection.summary['selected']} users"
    else:
        label = _migration_label(ws, prompts)
    return f"{label}, item prompts too" if prompts.summary.get("item_tokens") else label


def _migration_label(ws: Workspace, run: Run) -> str:
    sources = [ws.run(i) for role, i in run.inputs.items() if role.startswith("source_")]
    start = "Migrated" if run.config["role"] == "migrated" else "Shuffled control"
    if len(sources) > 1:
        start += f" from {len(sources)} sources"
    elif not has_model(sources[0]):
        start += " from vectors"
    end = ", from predictions" if run.config.get("from_predictions") else ""
    if "selection" not in run.inputs:
        return f"{start}, all users{end}"
    selection = ws.run(run.inputs["selection"])
    return f"{start}, {selection.summary['selected']} users ({selection.config['strategy']}){end}"


def read_predictions(
    ws: Workspace,
    evaluation: stage.Reference,
    *,
    users: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read user_id, item_id, outcome and prediction of an evaluation, one row for each example.

    users, columns: those to read (default: all).
    """
    run = stage.find(ws, evaluation, "evaluation")
    where = None if users is None else {"user_id": users}
    return ws.get_table(run.id, PREDICTIONS, where=where, columns=columns)
