"""Selection over sharded safetensors: more users than fit in memory, outside any workspace."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.errors import ConfigError, SelectionError
from puma_engine.exchange.prompt_folders import ABOUT
from puma_engine.exchange.shards import COMPANIONS, PromptShards
from puma_engine.files import atomic_write
from puma_engine.selection import STRATEGIES, Selection, Signals, select_users
from puma_engine.selection.clustering import streamed_components

CHOSEN = "selection.parquet"


def select_stream(
    source: Path,
    target: Path,
    *,
    budget: int,
    strategy: str = PAPER_STRATEGY,
    signals: Path | None = None,
    seed: int = 0,
    clusters: int = 15,
    groups: int = 5,
    min_cluster: int = 50,
) -> dict[str, Any]:
    """Choose users of a folder of shards, and write the prompts of the chosen as a folder.

    signals: a Parquet file with user_id and the columns that the strategy reads beside the
    prompts (variance, loss, ...). The folder to write is a packed table that can be imported,
    with selection.parquet: each user's cluster, stratum and whether selected. Returns counts.
    Raises ConfigError, SelectionError, DataError, StoreError.
    """
    from puma_engine.exchange.prompt_writers import new_folder

    started = time.perf_counter()
    _checked_strategy(strategy)
    prompts = PromptShards(source)
    space = streamed_components(prompts, seed) if STRATEGIES[strategy].space else None
    known = _columns(signals, strategy, prompts.user_ids)
    chosen = select_users(
        strategy,
        Signals(prompts.user_ids, space=space, **known),
        budget,
        seed=seed,
        clusters=clusters,
        groups=groups,
        min_cluster=min_cluster,
    )
    with new_folder(target) as folder:
        _write(folder, source, prompts, chosen)
    spent = time.perf_counter() - started
    counts = {"users": len(prompts.user_ids), "selected": len(chosen.user_ids)}
    return counts | {"seconds": spent, "report": chosen.report}


def _checked_strategy(name: str) -> None:
    plan = STRATEGIES.get(name)
    if plan is not None and plan.space in (None, "pca"):
        return
    allowed = [one.name for one in STRATEGIES.values() if one.space in (None, "pca")]
    raise ConfigError(
        f"The strategy {name!r} cannot be streamed; those that can are {', '.join(allowed)}."
    )


def _columns(path: Path | None, strategy: str, users: np.ndarray) -> dict[str, np.ndarray]:
    """The signals that a strategy needs, in the order of the users."""
    needed = sorted(STRATEGIES[strategy].needs)
    if not needed:
        return {}
    if path is None:
        raise ConfigError(
            f"The strategy {strategy!r} needs {', '.join(needed)} of each user: name a Parquet "
            f"file with user_id, {', '.join(needed)} (--signals)."
        )
    import pyarrow.parquet as pq

    missing = {"user_id", *needed} - set(pq.read_schema(path).names)
    if missing:
        raise ConfigError(f"The file {path} has no column {', '.join(sorted(missing))}.")
    frame = pd.read_parquet(path, columns=["user_id", *needed])
    index = pd.Index(frame["user_id"].astype(str))
    if not index.is_unique:
        raise SelectionError(f"The file {path} names a user twice; each user has one row.")
    rows = index.get_indexer(pd.Index(users))
    if (rows < 0).any():
        raise SelectionError(
            f"{int((rows < 0).sum())} users of the shards are not in {path} (first: "
            f"{str(users[rows < 0][0])!r}); add them or leave them out of the shards."
        )
    return {name: frame[name].to_numpy()[rows] for name in needed}


def _write(folder: Path, source: Path, prompts: PromptShards, chosen: Selection) -> None:
    from puma_engine.exchange.prompt_writers import write_packed
    from puma_engine.prompts.table import PromptTable

    order = np.argsort(prompts.user_ids)
    rows = order[np.searchsorted(prompts.user_ids[order], chosen.user_ids)]
    tokens, width = prompts.shape if len(prompts.shape) == 2 else (1, *prompts.shape)
    vectors = prompts.take(rows).reshape(len(rows), tokens, width)
    about = source / ABOUT
    meta = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    write_packed(folder, PromptTable(chosen.user_ids, vectors), meta)
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    frame = pd.DataFrame({"user_id": prompts.user_ids} | chosen.group)
    frame["selected"] = np.isin(np.arange(len(frame)), rows)
    atomic_write(folder / CHOSEN, lambda temporary: frame.to_parquet(temporary, index=False))
