"""Anchor items are popular, differ in their means, and depend on the train rows alone."""

import numpy as np
import pandas as pd
import pytest

from puma_engine.datasets import Dataset
from puma_engine.datasets.anchor_items import POOL, choose_anchors
from puma_engine.errors import DataError


def data_of(items=120, users=60, seed=0):
    """A data set in which items are rated by very different numbers of users."""
    rng = np.random.default_rng(seed)
    popularity = rng.uniform(0.02, 0.9, items)
    rows = [
        (f"u{user}", f"i{item:03}", float(rng.integers(1, 6)), rng.choice(["train", "test"]))
        for item in range(items)
        for user in np.flatnonzero(rng.random(users) < popularity[item])
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "outcome", "split"])
    texts = pd.DataFrame({"item_id": sorted(frame["item_id"].unique()), "text": "Book"})
    return Dataset("books", "rating", frame, texts, {})


def test_each_anchor_is_the_most_rated_of_its_group_of_means():
    dataset, count = data_of(), 6
    train = dataset.interactions[dataset.interactions["split"] == "train"]
    about = train.groupby("item_id")["outcome"].agg(["size", "mean"]).reset_index()
    popular = about.sort_values(["size", "item_id"], ascending=[False, True])[: POOL * count]
    by_mean = popular.sort_values(["mean", "item_id"]).reset_index(drop=True)
    expected = [
        group.sort_values(["size", "item_id"], ascending=[False, True])["item_id"].iloc[0]
        for _, group in by_mean.groupby(by_mean.index // POOL)
    ]
    anchors = choose_anchors(dataset, count)
    assert anchors == expected
    means = about.set_index("item_id")["mean"].loc[anchors]
    assert means.is_monotonic_increasing and means.max() - means.min() > about["mean"].std()


def test_neither_the_order_of_rows_nor_held_out_rows_nor_empty_texts_matter():
    dataset = data_of()
    anchors = choose_anchors(dataset, 6)
    mixed = dataset.interactions.sample(frac=1, random_state=0).reset_index(drop=True)
    held_out = mixed["split"] == "test"
    mixed.loc[held_out, "outcome"] = 6 - mixed.loc[held_out, "outcome"]
    items = dataset.items.sample(frac=1, random_state=1).reset_index(drop=True)
    assert choose_anchors(Dataset("books", "rating", mixed, items, {}), 6) == anchors
    blank = items.assign(text=items["text"].where(items["item_id"] != anchors[2], "  "))
    assert anchors[2] not in choose_anchors(Dataset("books", "rating", mixed, blank, {}), 6)


def test_few_items_are_all_anchors_and_one_is_refused():
    dataset = data_of(items=9)
    train = dataset.interactions["split"] == "train"
    rated = sorted(dataset.interactions.loc[train, "item_id"].unique())
    assert sorted(choose_anchors(dataset, 32)) == rated
    lonely = data_of(items=1)
    with pytest.raises(DataError, match="'books' has 1"):
        choose_anchors(lonely, 32)
