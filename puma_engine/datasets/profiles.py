"""A data set user by user and item by item, as pages browse it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from puma_engine.datasets.dataset import Dataset


def user_profiles(ds: Dataset) -> pd.DataFrame:
    """Return a row a user, by id: user_id, records, train (records), mean, variance.

    mean and variance are those of the user's outcomes in all splits; the variance of a
    single record is 0.
    """
    frame = ds.interactions
    found = _by(frame["user_id"], frame["outcome"], "user_id", frame["split"] == "train")
    return found.rename(columns={"marked": "train"})


def item_profiles(ds: Dataset) -> pd.DataFrame:
    """Return a row an item, by id: item_id, text, records, mean (NaN without records)."""
    frame = ds.interactions
    found = _by(frame["item_id"], frame["outcome"], "item_id", frame["split"] == "train")
    joined = ds.items.merge(found[["item_id", "records", "mean"]], on="item_id", how="left")
    joined["records"] = joined["records"].fillna(0).astype("int64")
    return joined.sort_values("item_id", ignore_index=True)


def _by(ids: pd.Series, outcome: pd.Series, name: str, marked: pd.Series) -> pd.DataFrame:
    codes, unique = pd.factorize(ids, sort=True)
    values = outcome.to_numpy(np.float64)
    count = np.bincount(codes)
    mean = np.bincount(codes, weights=values) / count
    spread = np.bincount(codes, weights=(values - mean[codes]) ** 2) / count
    return pd.DataFrame(
        {
            name: pd.Series(unique, dtype="str"),
            "records": count,
            "marked": np.bincount(codes, weights=marked.to_numpy(np.float64)).astype("int64"),
            "mean": mean.astype(np.float32),
            "variance": spread.astype(np.float32),
        }
    )
