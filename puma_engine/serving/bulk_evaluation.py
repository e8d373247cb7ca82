"""Evaluate the users of a folder of shards with bounded memory, without making runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.backbone.templates import Template
from puma_engine.datasets import Dataset
from puma_engine.errors import Cancelled, DataError, JobError, MigrationError
from puma_engine.evaluation import metrics
from puma_engine.evaluation.streamed_metrics import intervals, user_sums
from puma_engine.exchange.shards import metadata_of, open_shard, shards_of
from puma_engine.exchange.storage import Folder, folder_of, refuse_unseen
from puma_engine.files import parse_json
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import check_backbone, fingerprint
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import (
    PromptTableReader,
    model_of,
    refuse_items,
    template_of,
)
from puma_engine.prompts.table import PromptTable
from puma_engine.store import Workspace, scratch

# Metadata keys of a table of scores: its settings, and its sums.
ORIGIN, SUMS = "puma_scores", "puma_sums"
ROWS, ITEMS, SUMMARY = "rows.parquet", "items.parquet", "summary.json"
PREFIX = "scores-"
_COLUMNS = ("user_id", "item_id", "outcome")

# Does pieces of work: its class, what it is made from, and the pieces; as `cluster_stream.stream`.
DoPieces = Callable[[type, Sequence[Any], Sequence[Mapping[str, Any]]], Iterator[tuple[int, bytes]]]


@dataclass(frozen=True)
class ScoringSettings:
    """Settings of scoring prompts: the model that reads them, its template, the head, and the data set's run."""

    spec: str
    revision: str | None
    quantise: str | None
    fingerprint: str
    template: dict[str, Any]
    head: dict[str, np.ndarray] | None
    dataset: str
    task: str
    split: str

    @property
    def identity(self) -> str:
        """A text that changes with the scores."""
        texts = {name: value for name, value in asdict(self).items() if name != "head"}
        digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
        for name, value in sorted((self.head or {}).items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()[:16]


class ShardEvaluation:
    """A model that scores the prompts of shards; see `jobs.node_stream.Work`."""

    def __init__(
        self, settings: ScoringSettings, source: str, target: str, device: str | None = None
    ) -> None:
        self.settings, self.device = settings, device
        self.source, self.target = folder_of(source), folder_of(target)

    @cached_property
    def backbone(self) -> Any:
        """The model. Raises JobError if its files differ from those of the calling process."""
        from puma_engine.backbone import FrozenBackbone

        settings = self.settings
        ws = Workspace.open(scratch.scratch_folder() / "workspace", create=True)
        if fingerprint(ws, settings.spec, settings.revision) != settings.fingerprint:
            raise JobError(
                f"The model {settings.spec} is not the same here; put its files under the same path on every "
                "node of the cluster."
            )
        return FrozenBackbone.load(
            settings.spec,
            device=self.device,
            revision=settings.revision,
            quantise=settings.quantise,
        )

    @cached_property
    def items(self) -> pd.DataFrame:
        """The texts of items."""
        with self.target.open(ITEMS) as file:
            return pq.read_table(file).to_pandas()

    def do(self, piece: Mapping[str, Any]) -> bytes:
        """Score a shard, and return the sums of `user_sums` as JSON. Raises DataError."""
        from puma_engine.evaluation.prediction import predict

        refuse_unseen(self.source, piece["name"])
        refuse_unseen(self.target, ROWS)
        with self.target.open(ROWS) as file:
            rows = pq.ParquetFile(file).read_row_group(piece["group"]).to_pandas()
        settings = self.settings
        dataset = Dataset("rows", settings.task, rows, self.items, {})  # type: ignore[arg-type]
        shard = open_shard(self.source, piece["name"])
        ids = np.array(shard.user_ids(), dtype=str)
        numbers = np.flatnonzero(np.isin(ids, dataset.users))
        vectors = shard.take(numbers).astype(np.float32, copy=False)
        tokens = shard.shape[0] if len(shard.shape) == 2 else 1
        vectors = vectors.reshape(len(numbers), tokens, -1)
        if vectors.shape[2] != self.backbone.info.width:
            raise DataError(
                f"Prompts of width {vectors.shape[2]} came in {piece['name']}, and the model reads "
                f"{self.backbone.info.width}; name the migration that these are of with --like."
            )
        table = PromptTable(ids[numbers], vectors, settings.head)
        template = Template.from_config(settings.template)
        predicted = predict(self.backbone, table, dataset, settings.split, template=template)
        y = rows["outcome"].to_numpy(np.float64)
        frame = metrics.per_user(settings.task, y, predicted, rows["user_id"].to_numpy(dtype=str))
        sums = json.dumps(
            user_sums(settings.task, frame) | {"rows": len(rows), "users": len(frame)}
        )
        scores = pa.Table.from_pandas(frame, preserve_index=False)
        scores = scores.replace_schema_metadata({ORIGIN: piece["origin"], SUMS: sums})
        self.target.write(scores_file(piece["name"]), partial(pq.write_table, scores))
        return sums.encode()


def evaluate_stream(
    ws: Workspace,
    source: str | Path,
    target: str | Path,
    like: stage.Reference,
    *,
    dataset: stage.Reference | None = None,
    split: str = "test",
    device: str | None = None,
    report: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    do_pieces: DoPieces | None = None,
) -> dict[str, Any]:
    """Score the prompts of every shard of a folder on the rows of a data set's split.

    source, target: folders, or URLs of storage that fsspec reaches; shards name their users, as
    those of `migrate_stream`. like: a migration or prompts run whose model, template and head read
    the prompts; dataset: default: that of the run. The target gets a table of users' metrics for
    each shard with rows, the rows, the items, and summary.json: every metric that follows from
    users' values (not the pooled AUC), with a 95 % interval. The prompts of one shard and the data
    set's rows are in memory. Shards with scores are skipped. do_pieces: scores shards elsewhere.
    Returns the summary. Raises NotFoundError, ConfigError, DataError, MigrationError, StoreError,
    Cancelled.
    """
    run = stage.find(ws, like, *stage.PROMPT_KINDS)
    refuse_items(run, "shards")
    model = check_backbone(ws, model_of(run))
    data = stage.find(ws, dataset or run.inputs["dataset"], "dataset")
    loaded = load_dataset(ws, data)
    settings = ScoringSettings(
        model.config["spec"],
        model.config["revision"],
        model.config.get("quantise"),
        fingerprint(ws, model.config["spec"], model.config["revision"]),
        template_of(run).to_config(),
        PromptTableReader(ws, run).head(),
        data.id,
        loaded.task,
        split,
    )
    source_folder, target_folder = folder_of(source), folder_of(target)
    if source_folder.location == target_folder.location:
        raise MigrationError("The folder to write must be another than the one to read.")
    with target_folder.claimed(settings.identity):
        rows, left_out = rows_by_shard(loaded, split, source_folder)
        finished, waiting = _finished(settings, source_folder, target_folder, rows)
        if waiting:
            _write_rows(loaded, rows, target_folder)

        def begin(name: str) -> None:
            if should_cancel is not None and should_cancel():
                raise Cancelled(f"Cancelled before {name}; run it again to go on.")
            if report is not None:
                report(name, len(finished), len(rows))

        def do_locally(
            work: type, arguments: Sequence[Any], pieces: Sequence[Mapping[str, Any]]
        ) -> Iterator[tuple[int, bytes]]:
            worker = work(*arguments, device)
            for number, piece in enumerate(pieces):
                begin(piece["name"])
                yield number, worker.do(piece)

        arguments = (settings, source_folder.location, target_folder.location)
        skipped = len(finished)
        for number, sums in (do_pieces or do_locally)(ShardEvaluation, arguments, waiting):
            finished[waiting[number]["name"]] = parse_json(sums)
            if do_pieces is not None:
                begin(waiting[number]["name"])
        summary = _summary(settings, finished) | {"rows_without_prompt": left_out}
        text = json.dumps(summary, indent=1) + "\n"
        target_folder.write(SUMMARY, lambda path: path.write_text(text, encoding="utf-8"))
    return {"shards": len(rows), "skipped": skipped} | summary


def rows_by_shard(
    dataset: Dataset, split: str, folder: Folder
) -> tuple[dict[str, pd.DataFrame], int]:
    """Return the rows of a split by the shard with their user's prompt, and the number of rows without one.

    Raises DataError for a user in two shards, and if no user has rows.
    """
    shard_of = np.full(len(dataset.users), -1)
    names = list(shards_of(folder))
    for number, name in enumerate(names):
        users = open_shard(folder, name).user_ids()
        if users is None:
            raise DataError(f"The shard {folder}/{name} does not name the user of each row.")
        ids = np.array([str(user) for user in users], dtype=str)
        positions = np.searchsorted(dataset.users, ids).clip(max=len(dataset.users) - 1)
        positions = positions[dataset.users[positions] == ids]
        if len(np.unique(positions)) < len(positions) or (shard_of[positions] >= 0).any():
            raise DataError(
                f"A user of {folder}/{name} occurs twice in {folder}; each has one prompt."
            )
        shard_of[positions] = number
    rows = dataset.rows(split)
    in_split = (dataset.interactions["split"] == split).to_numpy()
    shard = shard_of[dataset.user_rows[in_split]]
    rows_of_shard = {
        names[number]: rows[shard == number] for number in np.unique(shard) if number >= 0
    }
    if not rows_of_shard:
        raise DataError(
            f"No user of the shards of {folder} has {split} rows in the data set {dataset.name!r}; ids are "
            "compared as texts."
        )
    return rows_of_shard, int((shard < 0).sum())


def scores_file(shard: str) -> str:
    """Return the name of the table of users' metrics of a shard."""
    return f"{PREFIX}{Path(shard).stem}.parquet"


def _finished(
    settings: ScoringSettings, source: Folder, target: Folder, rows: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the sums of scored shards by name, and the pieces of the others."""
    finished, waiting, existing = {}, [], target.entries()
    versions = shards_of(source)
    for group, name in enumerate(rows):
        origin = f"{settings.identity}:{versions[name].version}"
        stored = metadata_of(target, scores_file(name)) if scores_file(name) in existing else {}
        stored_origin = stored.get(ORIGIN, "")
        if stored_origin and stored_origin.split(":")[0] != settings.identity:
            raise MigrationError(
                f"The file {target}/{scores_file(name)} is of another evaluation; give a folder of its own to each."
            )
        if stored_origin == origin:
            finished[name] = parse_json(stored[SUMS])
        else:
            waiting.append({"name": name, "group": group, "origin": origin})
    return finished, waiting


def _write_rows(dataset: Dataset, rows: Mapping[str, pd.DataFrame], target: Folder) -> None:
    """Write the items, and the rows as a Parquet file with a row group for each shard."""
    first = next(iter(rows.values()))
    columns = [name for name in (*_COLUMNS, "split", "history") if name in first]

    def write(path: Path) -> None:
        tables = (
            pa.Table.from_pandas(frame[columns], preserve_index=False) for frame in rows.values()
        )
        table = next(tables)
        if "history" in columns:
            position = table.schema.get_field_index("history")
            schema = table.schema.set(position, pa.field("history", pa.list_(pa.string())))
        else:
            schema = table.schema
        schema = schema.remove_metadata()
        with pq.ParquetWriter(path, schema, compression="zstd") as out:
            while table is not None:
                out.write_table(table.cast(schema), row_group_size=max(1, len(table)))
                table = next(tables, None)

    target.write(ROWS, write)
    items = pa.Table.from_pandas(dataset.items[["item_id", "text"]], preserve_index=False)
    target.write(ITEMS, partial(pq.write_table, items.replace_schema_metadata()))


def _summary(
    settings: ScoringSettings, finished: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the metrics over all shards, in the order of their names."""
    parts = [finished[name] for name in sorted(finished)]
    names = [name for name in parts[0] if name not in ("rows", "users")]
    sums = {name: np.sum([part[name] for part in parts], axis=0) for name in names}
    scores = {name: asdict(interval) for name, interval in intervals(sums).items()}
    for score in scores.values():
        score.pop("draws")
    return {
        "task": settings.task,
        "split": settings.split,
        "users": sum(part["users"] for part in parts),
        "rows": sum(part["rows"] for part in parts),
        "metrics": scores,
    }
