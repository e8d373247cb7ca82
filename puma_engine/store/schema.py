"""The tables of a workspace, as numbered steps that are never edited once released."""

from __future__ import annotations

from typing import Any

from sqlite_utils import Database
from sqlite_utils.db import ForeignKey, Table
from sqlite_utils.migrations import Migrations

MIGRATIONS = Migrations("puma")

# One typed row a run, by kind; columns are filled from its summary, config and cost.
DETAILS = {
    "dataset": "datasets",
    "backbone": "backbones",
    "prompts": "prompt_tables",
    "migration": "prompt_tables",
    "selection": "selections",
}


def _of_run(table: str, column: str = "run_id", on_delete: str = "CASCADE") -> ForeignKey:
    return ForeignKey(table, column, "runs", "id", on_delete=on_delete)


def _text(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, str)


def _create(
    db: Database,
    name: str,
    columns: dict[str, Any],
    *,
    strict: bool = True,
    **settings: Any,
) -> Table:
    return db.table(name).create(columns, strict=strict, **settings)


@MIGRATIONS(name="0001_runs")
def _runs(db: Database) -> None:
    columns = _text("id", "kind", "name", "status", "config", "versions")
    columns |= {
        "seed": int,
        "device": str,
        "created": str,
        "started": str,
        "finished": str,
    }
    columns |= {
        "seconds": float,
        "cost": str,
        "summary": str,
        "error": str,
        "note": str,
    }
    needed = {"kind", "name", "status", "config", "versions", "created", "started"}
    runs = _create(db, "runs", columns, pk="id", not_null=needed)
    runs.create_index(["kind", "created"])
    runs.create_index(["name"])
    inputs = _create(
        db,
        "run_inputs",
        {"run_id": str, "role": str, "input_id": str},
        pk=("run_id", "role"),
        not_null={"input_id"},
        foreign_keys=[
            _of_run("run_inputs"),
            _of_run("run_inputs", "input_id", on_delete="RESTRICT"),
        ],
    )
    inputs.create_index(["input_id"])


@MIGRATIONS(name="0002_artifacts")
def _artifacts(db: Database) -> None:
    columns = _text("run_id", "name", "format", "file", "sha256")
    columns |= {"bytes": int, "rows": int, "created": str}
    _create(
        db,
        "artifacts",
        columns,
        pk=("run_id", "name"),
        not_null={"format", "file", "sha256", "bytes", "created"},
        foreign_keys=[_of_run("artifacts")],
    )


@MIGRATIONS(name="0003_metrics")
def _metrics(db: Database) -> None:
    columns = {"id": int, "run_id": str, "method": str, "split": str, "metric": str}
    columns |= {"value": float, "low": float, "high": float, "n": int}
    metrics = _create(
        db,
        "metrics",
        columns,
        pk="id",
        not_null={"run_id", "split", "metric"},
        foreign_keys=[_of_run("metrics")],
    )
    metrics.create_index(["run_id"])
    scores = _text("run_id", "user_id") | {"n": int}
    scores |= dict.fromkeys(("rmse", "mae", "accuracy", "ndcg", "auc", "uauc", "log_loss"), float)
    _create(
        db,
        "user_metrics",
        scores,
        pk=("run_id", "user_id"),
        foreign_keys=[_of_run("user_metrics")],
    )


@MIGRATIONS(name="0004_details")
def _details(db: Database) -> None:
    tables: dict[str, dict[str, Any]] = {
        "datasets": {"dataset": str, "task": str, "users": int, "items": int}
        | {"interactions": int, "content_hash": str},
        "backbones": {"spec": str, "revision": str, "fingerprint": str, "family": str}
        | {
            "layers": int,
            "width": int,
            "vocabulary": int,
            "parameters": int,
            "dtype": str,
        }
        | {"memory_bytes": int},
        "prompt_tables": {"role": str, "template": str, "users": int, "tokens": int}
        | {"width": int, "users_trained": int},
        "selections": {"strategy": str, "budget": int, "share": float, "selected": int}
        | {"users": int},
    }
    for name, columns in tables.items():
        settings = {"pk": "run_id", "foreign_keys": [_of_run(name)]}
        # Not strict: a fact of an unexpected type must not undo a finished run.
        _create(db, name, {"run_id": str} | columns, strict=False, **settings)


@MIGRATIONS(name="0005_jobs")
def _jobs(db: Database) -> None:
    columns = _text("id", "command", "args", "title", "status", "device")
    columns |= {"pid": int, "process": str, "attempt": int, "crashes": int}
    columns |= _text("cancel_asked", "run_id", "error")
    columns |= _text("created", "started", "finished", "heartbeat")
    jobs = _create(
        db,
        "jobs",
        columns,
        pk="id",
        not_null={
            "command",
            "args",
            "title",
            "status",
            "attempt",
            "crashes",
            "created",
        },
        foreign_keys=[_of_run("jobs", on_delete="SET NULL")],
    )
    jobs.create_index(["status", "created"])
    _create(
        db,
        "job_progress",
        {"job_id": str, "updated": str, "data": str},
        pk="job_id",
        not_null={"updated", "data"},
        foreign_keys=[ForeignKey("job_progress", "job_id", "jobs", "id", on_delete="CASCADE")],
    )
    _create(
        db,
        "workers",
        {"pid": int, "process": str, "devices": str, "started": str, "heartbeat": str},
        pk=("pid", "process"),
        not_null={"devices", "started", "heartbeat"},
    )
