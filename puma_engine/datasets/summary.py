"""Summaries of a data set: statistics, and profiles of users and items."""

from typing import Any

import numpy as np
import pandas as pd

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
    summary: dict[str, Any] = {
        "name": ds.name,
        "task": ds.task,
        "users": int(users),
        "items": int(items),
        "records": len(frame),
        "density": len(frame) / (users * items),
        "mean_outcome": float(frame["outcome"].mean()),
        "outcomes": {str(v): c / len(frame) for v, c in zip(values, counts, strict=True)},
        "rows": {split: int(per_split.get(split, 0)) for split in SPLITS},
        "rows_per_user": _distribution(frame["user_id"].value_counts().to_numpy()),
        "text_characters": _distribution(ds.items["text"].str.len().to_numpy()),
    }
    if "time" in frame:
        summary["time"] = {"first": int(frame["time"].min()), "last": int(frame["time"].max())}
    if "history" in frame:
        summary["history"] = float(np.mean([len(past) for past in frame["history"]]))
    return summary


def user_profiles(ds: Dataset) -> pd.DataFrame:
    """Return a row for each user, by id: user_id, records, train (records), mean, variance.

    mean and variance are of the user's outcomes in all splits; the variance of one record is 0.
    """
    return _profiles(ds, "user_id")


def item_profiles(ds: Dataset) -> pd.DataFrame:
    """Return a row for each item, by id: item_id, text, records, mean (NaN without records)."""
    profiles = _profiles(ds, "item_id")[["item_id", "records", "mean"]]
    joined = ds.items.merge(profiles, on="item_id", how="left")
    joined["records"] = joined["records"].fillna(0).astype("int64")
    return joined.sort_values("item_id", ignore_index=True)


def _profiles(ds: Dataset, column: str) -> pd.DataFrame:
    codes, ids = pd.factorize(ds.interactions[column], sort=True)
    values = ds.interactions["outcome"].to_numpy(np.float64)
    train = (ds.interactions["split"] == "train").to_numpy(np.float64)
    count = np.bincount(codes)
    mean = np.bincount(codes, weights=values) / count
    variance = np.bincount(codes, weights=(values - mean[codes]) ** 2) / count
    return pd.DataFrame(
        {
            column: pd.Series(ids, dtype="str"),
            "records": count,
            "train": np.bincount(codes, weights=train).astype("int64"),
            "mean": mean.astype(np.float32),
            "variance": variance.astype(np.float32),
        }
    )


def _distribution(counts: np.ndarray) -> dict[str, float]:
    # Runs store these keys.
    return {
        "least": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "most": int(counts.max()),
    }
