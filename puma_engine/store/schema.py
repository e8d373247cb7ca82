"""The tables of a workspace, as numbered migrations that never change after a release."""

from sqlite_utils import Database
from sqlite_utils.db import ForeignKey, Table
from sqlite_utils.migrations import Migrations

MIGRATIONS = Migrations("puma")

# Tables by kind with one typed row for each run, whose columns are filled from summary, config and cost.
DETAILS = {
    "dataset": "datasets",
    "backbone": "backbones",
    "prompts": "prompt_tables",
    "migration": "prompt_tables",
    "selection": "selections",
}


def _of_run(table: str, column: str = "run_id", on_delete: str = "CASCADE") -> ForeignKey:
    return ForeignKey(table, column, "runs", "id", on_delete=on_delete)


def _create(
    db: Database,
    name: str,
    columns: str,
    *,
    pk: str | tuple[str, ...] = "id",
    not_null: str = "",
    foreign_keys: tuple[ForeignKey, ...] = (),
    strict: bool = True,
) -> Table:
    """Create a table; columns: names with an optional type, as in "name rows:int share:float"."""
    pairs = (word.partition(":") for word in columns.split())
    types: dict[str, type] = {"int": int, "float": float}
    return db.table(name).create(
        {name: types.get(kind, str) for name, _, kind in pairs},
        pk=pk,  # type: ignore[arg-type]
        not_null=set(not_null.split()),
        foreign_keys=list(foreign_keys),
        strict=strict,
    )


@MIGRATIONS(name="0001_runs")
def _runs(db: Database) -> None:
    runs = _create(
        db,
        "runs",
        "id kind name status config versions seed:int device created started finished seconds:float"
        " cost summary error note",
        not_null="kind name status config versions created started",
    )
    runs.create_index(["kind", "created"])
    runs.create_index(["name"])
    inputs = _create(
        db,
        "run_inputs",
        "run_id role input_id",
        pk=("run_id", "role"),
        not_null="input_id",
        foreign_keys=(_of_run("run_inputs"), _of_run("run_inputs", "input_id", "RESTRICT")),
    )
    inputs.create_index(["input_id"])


@MIGRATIONS(name="0002_artifacts")
def _artifacts(db: Database) -> None:
    _create(
        db,
        "artifacts",
        "run_id name format file sha256 bytes:int rows:int created",
        pk=("run_id", "name"),
        not_null="format file sha256 bytes created",
        foreign_keys=(_of_run("artifacts"),),
    )


@MIGRATIONS(name="0003_metrics")
def _metrics(db: Database) -> None:
    metrics = _create(
        db,
        "metrics",
        "id:int run_id method split metric value:float low:float high:float n:int",
        not_null="run_id split metric",
        foreign_keys=(_of_run("metrics"),),
    )
    metrics.create_index(["run_id"])
    _create(
        db,
        "user_metrics",
        "run_id user_id n:int rmse:float mae:float accuracy:float ndcg:float auc:float uauc:float"
        " log_loss:float",
        pk=("run_id", "user_id"),
        foreign_keys=(_of_run("user_metrics"),),
    )


@MIGRATIONS(name="0004_details")
def _details(db: Database) -> None:
    for name, columns in {
        "datasets": "dataset task users:int items:int interactions:int content_hash",
        "backbones": "spec revision fingerprint family layers:int width:int vocabulary:int"
        " parameters:int dtype memory_bytes:int",
        "prompt_tables": "role template users:int tokens:int width:int users_trained:int",
        "selections": "strategy budget:int share:float selected:int users:int",
    }.items():
        # Not strict, since a value of an unexpected type must not undo a finished run.
        keys = (_of_run(name),)
        _create(db, name, f"run_id {columns}", pk="run_id", foreign_keys=keys, strict=False)


@MIGRATIONS(name="0005_jobs")
def _jobs(db: Database) -> None:
    jobs = _create(
        db,
        "jobs",
        "id command args title status device pid:int process attempt:int crashes:int cancel_asked"
        " run_id error created started finished heartbeat",
        not_null="command args title status attempt crashes created",
        foreign_keys=(_of_run("jobs", on_delete="SET NULL"),),
    )
    jobs.create_index(["status", "created"])
    _create(
        db,
        "job_progress",
        "job_id updated data",
        pk="job_id",
        not_null="updated data",
        foreign_keys=(ForeignKey("job_progress", "job_id", "jobs", "id", on_delete="CASCADE"),),
    )
    _create(
        db,
        "workers",
        "pid:int process devices started heartbeat",
        pk=("pid", "process"),
        not_null="devices started heartbeat",
    )


@MIGRATIONS(name="0006_pair_accuracy")
def _pair_accuracy(db: Database) -> None:
    db.table("user_metrics").add_column("pair_accuracy", float)


@MIGRATIONS(name="0007_file_hashes")
def _file_hashes(db: Database) -> None:
    _create(
        db,
        "file_hashes",
        "path size:int mtime_ns:int ctime_ns:int inode:int sha256",
        pk="path",
        not_null="size mtime_ns ctime_ns inode sha256",
    )
    # For backbones whose recorded fingerprint does not cover large files as a whole.
    db.table("backbones").add_column("content_fingerprint", str)


@MIGRATIONS(name="0008_checksums")
def _checksums(db: Database) -> None:
    db.table("runs").add_column("checksum", str)
    db.table("runs").add_column("results_checksum", str)
    _create(db, "audit", "id:int time action detail", not_null="time action detail")
