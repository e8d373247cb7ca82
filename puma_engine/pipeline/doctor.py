"""Check the installation and a workspace; results are rows of check, status and detail.

status is ok, warn (it works with a limit) or fail.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sqlite3
from typing import Any

from puma_engine.datasets import REGISTRY, data_root
from puma_engine.errors import PumaError
from puma_engine.pipeline.backbones import is_here, is_unchanged, list_zoo
from puma_engine.pipeline.erasing import unfinished_erasures
from puma_engine.store import Workspace
from puma_engine.training.device import has_fast_bf16

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "pandas", "sqlite-utils")
SAFE_SQLITE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
FREE_BYTES = 2 << 30

Row = dict[str, Any]


def check_installation() -> list[Row]:
    """Check Python, packages, SQLite, devices, shipped data and the zoo."""
    rows = [_row("python", "ok", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append(_row(package, "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(_row(package, "fail", "not installed; run pip install -r requirements.txt"))
    sqlite = sqlite3.sqlite_version
    if sqlite_is_safe(tuple(int(part) for part in sqlite.split("."))):
        rows.append(_row("sqlite", "ok", sqlite))
    else:
        problem = "has a rare race when several processes write at once (fixed in 3.51.3)"
        advice = "run one worker a workspace and keep backups"
        rows.append(_row("sqlite", "warn", f"{sqlite} {problem}; {advice}"))
    rows += [_device(), _data()]
    lost = [entry["name"] for entry in list_zoo() if entry["shipped"] and not entry["built"]]
    advice = (
        f"no weights for {', '.join(lost)}; build them in a checkout with python -m research.zoo"
    )
    rows.append(
        _row("zoo", *(("warn", advice) if lost else ("ok", "all shipped backbones are here")))
    )
    return rows


def check_workspace(ws: Workspace, *, scrub: bool = False) -> list[Row]:
    """Check that every file of a workspace exists and is unchanged, and that the disk has room.

    scrub: check every page of the database, every record and the models' files, too.
    """
    problems = ws.scrub() if scrub else ws.verify()
    rows = [_row("workspace", "fail", problem) for problem in problems]
    if not problems:
        verdict = "all files, rows and records whole" if scrub else "all files whole"
        rows.append(_row("workspace", "ok", f"{len(ws.runs())} runs in {ws.root}, {verdict}"))
    rows += [_row("workspace", "fail", sentence) for sentence in unfinished_erasures(ws)]
    if ws.read_only:
        rows.append(_row("workspace", "warn", "it cannot be written, so it is open for viewing"))
    if scrub:
        for run in ws.runs("backbone", "finished"):
            spec = run.config["spec"]
            if run.published is not None:
                if not is_here(ws, run):
                    detail = f"{spec}, which a published comparison used, is not on this machine"
                    rows.append(_row("model", "warn", detail))
            elif not is_unchanged(ws, run, fresh=True):
                rows.append(
                    _row("model", "fail", f"the files of {spec} changed since it was added")
                )
    free = shutil.disk_usage(ws.root).free
    status = "ok" if free >= FREE_BYTES else "warn"
    return [*rows, _row("disk", status, f"{free / (1 << 30):.1f} GiB free")]


def _row(check: str, status: str, detail: str) -> Row:
    return {"check": check, "status": status, "detail": detail}


def sqlite_is_safe(version: tuple[int, ...]) -> bool:
    """Return whether this version of SQLite is free of the rare WAL-reset race between several writers."""
    fixed = [safe for safe in SAFE_SQLITE if safe[:2] == version[:2]]
    return version >= fixed[0] if fixed else version > SAFE_SQLITE[-1]


def _device() -> Row:
    try:
        import torch
    except ImportError as error:
        return _row("device", "fail", f"torch cannot be loaded: {error}")
    if not torch.cuda.is_available():
        bf16 = "; fast in bf16, in which large models are read" if has_fast_bf16() else ""
        count = torch.get_num_threads()
        threads = "1 thread" if count == 1 else f"{count} threads"
        return _row("device", "ok", f"CPU, {threads}{bf16}; no CUDA")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return _row("device", "ok", ", ".join(names))


def _data() -> Row:
    try:
        root = data_root()
    except PumaError as error:
        return _row("shipped data", "warn", str(error))
    families = {source.family for source in REGISTRY.values() if source.shipped}
    lost = sorted(family for family in families if not (root / family).is_dir())
    if lost:
        return _row("shipped data", "warn", f"{root} lacks {', '.join(lost)}")
    return _row("shipped data", "ok", str(root))
