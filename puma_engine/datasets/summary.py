"""What a data set holds, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.splits import SPLITS


def statistics(ds: Dataset) -> dict[str, Any]:
    """Return counts and distributions as plain JSON values.

    users, items (those with rows), records; density: records over users times items, 0-1;
    outcomes: share of records by outcome, ratings rounded to whole ones; rows_per_user and
    rows per split; text_characters: lengths of item texts; time: first and last Unix
    second, absent without times; history: mean length, absent without histories.
    """
    frame = ds.interactions
    users = frame["user_id"].nunique()
    items = frame["item_id"].nunique()
    rounded = np.floor(frame["outcome"].to_numpy(np.float64) + 0.5).astype(int)
    values, counts = np.unique(rounded, return_counts=True)
    per_split = frame["split"].value_counts()
    found: dict[str, Any] = {
        "name": ds.name,
        "task": ds.task,
        "users": int(users),
        "items": int(items),
        "records": len(frame),
        "density": len(frame) / (users * items),
        "mean_outcome": float(frame["outcome"].mean()),
        "outcomes": {str(v): c / len(frame) for v, c in zip(values, counts, strict=True)},
        "rows": {split: int(per_split.get(split, 0)) for split in SPLITS},
        "rows_per_user": _spread(frame["user_id"].value_counts().to_numpy()),
        "text_characters": _spread(ds.items["text"].str.len().to_numpy()),
    }
    if "time" in frame:
        found["time"] = {"first": int(frame["time"].min()), "last": int(frame["time"].max())}
    if "history" in frame:
        found["history"] = float(np.mean([len(past) for past in frame["history"]]))
    return found


def _spread(counts: np.ndarray) -> dict[str, float]:
    return {
        "least": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "most": int(counts.max()),
    }
