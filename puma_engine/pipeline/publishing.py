"""Published comparisons: write a comparison to an archive, and add it to another workspace.

The summary of every run of an archive has an object "published" (`Run.published`):
- comparison, name: the run id and the name of the comparison.
- command: what measured it, as text, or None.
- date: when the comparison was finished (ISO 8601, UTC). device: what prompts were trained on.
  versions: of Python and packages.
- models, one a language model: name, spec, fingerprint, parameters, licence, origin.
- data: name and licence of the data set.
- left_out: names of this run's files that the archive lacks.

Prompts are in 16 bits and read as float32; all other numbers are those that were measured.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.defaults import ADDED_MIB, PUBLISHED_MIB
from puma_engine.errors import ConfigError, StoreError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import check_backbone
from puma_engine.pipeline.exporting import LICENCES
from puma_engine.pipeline.stored_prompts import ARTIFACT, ITEMS
from puma_engine.pipeline.verdicts import judge_comparison
from puma_engine.store import Run, Workspace
from puma_engine.store.archives import AddedRuns, add_archive, write_archive
from puma_engine.store.backups import copy_run
from puma_engine.store.rebuilding import restore_run, restore_user_metrics
from puma_engine.store.records import PUBLISHED
from puma_engine.store.run_records import read_record

MIB = 1 << 20
# Large files that no page shows: adapters, and the pairs that they learned from.
NOT_SHOWN = ("adapter", "item_adapter", "source_predictions")
# Kinds whose prompts are kept first if not all fit.
FIRST_KINDS = ("source", "migrated", "retrained", "refined", "random", "shuffled")
# Commands that read a prompt table with its model.
PROMPT_READERS = (
    *("evaluate", "predict", "predict_anchors"),
    *("refine", "predict_regressions"),
)


@dataclass(frozen=True)
class Published:
    """A written archive. left_out: names of files by run that did not fit or that no page shows."""

    file: Path
    bytes: int
    runs: int
    left_out: dict[str, list[str]]


def publish(
    ws: Workspace,
    comparison: stage.Reference,
    path: str | Path,
    *,
    command: str | None = None,
    most_mib: float = PUBLISHED_MIB,
) -> Published:
    """Write a comparison, and all runs that it was made from, to one archive for other workspaces.

    Maps of its prompts are included. Adapters are left out, and as many prompt tables as necessary
    for a file of at most most_mib MiB: first all but one of each kind, then the controls. command:
    how it was measured. The archive holds the rows and ids of the data set's users. Raises
    ConfigError, NotFoundError, StoreError.
    """
    _check_size(most_mib)
    run, file = stage.find(ws, comparison, "comparison"), Path(path)
    runs = _runs_of(ws, run)
    origin = _origin(ws, run, runs, command)
    with tempfile.TemporaryDirectory(prefix="puma-publish-") as folder:
        staged = Workspace.open(Path(folder) / "workspace", create=True)
        try:
            for step in runs:
                _stage_run(ws, staged, step)
            left_out = _compact(staged, runs, origin)
            trial = Path(folder) / "archive.zip"
            write_archive(staged, run.id, trial)
            for step in _by_priority(ws, run, runs):
                if trial.stat().st_size <= most_mib * MIB:
                    break
                names = [name for name in (ARTIFACT, ITEMS) if _has(staged, step, name)]
                if names:
                    _leave_out(staged, step, names, left_out)
                    write_archive(staged, run.id, trial)
            size = trial.stat().st_size
            if size > most_mib * MIB:
                raise StoreError(
                    f"Without any prompts the archive has {size / MIB:.1f} MiB, more than the "
                    f"{most_mib:g} allowed; raise the limit, or publish a comparison of fewer users."
                )
            write_archive(staged, run.id, file)
        finally:
            staged.close()
    return Published(file, file.stat().st_size, len(runs), left_out)


def _check_size(most_mib: float) -> None:
    if not most_mib > 0:
        raise ConfigError(f"The archive's size must be above 0 MiB, not {most_mib:g}.")


def add_published(ws: Workspace, path: str | Path, *, most_mib: float = ADDED_MIB) -> AddedRuns:
    """Add a published comparison from an archive; runs that are finished here are not changed.

    most_mib: largest size of the unpacked archive in MiB. Raises StoreError for a file that is no
    such archive, is damaged, or unpacks to more than that or than half of the free disk;
    ConfigError for a size of 0 or less.
    """
    _check_size(most_mib)
    return add_archive(ws, Path(path), required=PUBLISHED, max_bytes=round(most_mib * MIB))


def published_comparisons(ws: Workspace) -> list[Run]:
    """Return the comparisons of a workspace that were added from archives, the newest first."""
    runs = ws.runs(kind="comparison", status="finished")
    return [run for run in runs if run.published is not None]


def remove_published(ws: Workspace, comparison: stage.Reference) -> list[Run]:
    """Delete a published comparison with its runs, except those from which runs of this workspace were made.

    Returns what was deleted. Raises NotFoundError, StoreError.
    """
    run = stage.find(ws, comparison, "comparison")
    if run.published is None:
        raise StoreError(
            f"The comparison {run.name!r} is this workspace's own; use puma runs delete."
        )
    remaining = {other.id for other in published_comparisons(ws)} - {run.id}
    removed = []
    waiting = [
        other
        for other in ws.runs()
        if other.published is not None and other.published.get("comparison") not in remaining
    ]
    while free := [other for other in waiting if not ws.dependents(other.id)]:
        for other in free:
            ws.delete(other.id, published=True)
        removed += free
        waiting = [other for other in waiting if other not in free]
    return removed


def check_models(ws: Workspace, command: str, args: Mapping[str, Any]) -> None:
    """Raise BackboneError if a command needs the model of a published run, and it is not here.

    Called before a command is queued, so that it does not fail much later.
    """
    for text in _texts(args):
        matches = ws.matches(text) if text else []
        for run in matches if len(matches) == 1 else []:
            if run.published is None:
                continue
            # A model that is named by its source, such as a zoo name, is added again.
            if run.kind == "backbone" and text != run.config["spec"]:
                check_backbone(ws, run)
            elif command in PROMPT_READERS and "backbone" in run.inputs:
                check_backbone(ws, run.inputs["backbone"])


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Run):
        return [value.id]
    values = value.values() if isinstance(value, Mapping) else value
    return (
        [text for item in values for text in _texts(item)]
        if isinstance(value, Mapping | list | tuple)
        else []
    )


def _runs_of(ws: Workspace, comparison: Run) -> list[Run]:
    """Return the runs that a comparison was made from, with maps and anchor predictions; inputs first."""
    runs = ws.lineage(comparison.id)[::-1]
    known = {run.id for run in runs}
    maps = {
        other.id: other
        for run in runs
        if run.kind in stage.PROMPT_KINDS
        for other in ws.dependents(run.id)
        if other.kind in ("projection", "anchors") and other.status == "finished"
    }
    return runs + [run for run in maps.values() if set(run.inputs.values()) <= known]


def _origin(ws: Workspace, comparison: Run, runs: list[Run], command: str | None) -> dict[str, Any]:
    devices = {run.device for run in runs if run.kind in stage.PROMPT_KINDS and run.device}
    data = next(run for run in runs if run.kind == "dataset")
    source = str(data.config.get("source", "")).split("-")[0]
    return {
        "comparison": comparison.id,
        "name": comparison.name,
        # A published comparison that is published again keeps its command.
        "command": command or (comparison.published or {}).get("command"),
        "date": comparison.finished,
        "device": ", ".join(sorted(devices)) or comparison.device,
        "versions": comparison.versions,
        "models": [
            {"name": run.name}
            | {name: run.config.get(name) for name in ("spec", "fingerprint")}
            | {name: run.summary.get(name) for name in ("parameters", "licence", "origin")}
            for run in runs
            if run.kind == "backbone"
        ],
        "data": {"name": data.name, "licence": LICENCES.get(source)},
    }


def _stage_run(ws: Workspace, staged: Workspace, run: Run) -> None:
    restore_run(staged, read_record(ws.record_path(run.id)))
    copy_run(ws, staged, run.id)
    restore_user_metrics(staged, run.id)


def _compact(staged: Workspace, runs: list[Run], origin: dict[str, Any]) -> dict[str, list[str]]:
    """Make the files of staged runs small, and mark the runs; return what is left out."""
    left_out: dict[str, list[str]] = {}
    for run in runs:
        # Files that an earlier archive left out are still missing.
        missing = list((run.published or {}).get("left_out", ()))
        if missing:
            left_out[run.id] = missing
        staged.rewrite_summary(run.id, run.summary | {PUBLISHED: origin | {"left_out": missing}})
        for row in staged.artifact_rows(run.id):
            name = row["name"]
            if name in NOT_SHOWN:
                _leave_out(staged, run, [name], left_out)
            elif row["format"] == "parquet":
                frame = staged.get_table(run.id, name)
                staged.rewrite_table(run.id, name, frame, compression="zstd")
            elif name in (ARTIFACT, ITEMS):
                arrays, ids, meta = staged.get_tensors(run.id, name)
                halved = {key: _halved(key, array) for key, array in arrays.items()}
                staged.rewrite_tensors(run.id, name, halved, ids, meta)
    return left_out


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    """Return the vectors of a prompt table in 16 bits; other arrays, and too large values, unchanged."""
    if name not in ("vectors", "other") or array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.isfinite(half).all() else array


def _leave_out(
    staged: Workspace, run: Run, names: list[str], left_out: dict[str, list[str]]
) -> None:
    for name in names:
        staged.drop_artifact(run.id, name)
    summary = dict(staged.run(run.id).summary)
    gone = left_out.setdefault(run.id, [])
    gone += names
    staged.rewrite_summary(run.id, summary | {PUBLISHED: summary[PUBLISHED] | {"left_out": gone}})


def _by_priority(ws: Workspace, comparison: Run, runs: list[Run]) -> list[Run]:
    """Return the runs with prompts in the order in which they are left out if the file is too large.

    One run of each kind is left out last; of migrations the one that the verdict is about.
    """
    methods = ws.get_table(comparison.id, "methods")
    is_judged = methods["method"] == judge_comparison(ws, comparison).method
    compared = pd.concat([methods[is_judged], methods[~is_judged]])["run"].dropna().tolist()
    with_prompts = {run.id: run for run in runs if run.kind in stage.PROMPT_KINDS}
    ranked: list[tuple[int, int, Run]] = []
    number: Counter[str] = Counter()
    for run_id in dict.fromkeys([*compared, *with_prompts]):
        role = str(with_prompts[run_id].config.get("role"))
        place = FIRST_KINDS.index(role) if role in FIRST_KINDS else len(FIRST_KINDS)
        ranked.append((number[role], place, with_prompts[run_id]))
        number[role] += 1
    return [run for *_, run in sorted(ranked, key=lambda item: item[:2], reverse=True)]


def _has(ws: Workspace, run: Run, name: str) -> bool:
    return any(row["name"] == name for row in ws.artifact_rows(run.id))
