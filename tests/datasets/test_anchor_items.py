"""Anchor items: popular, of different mean outcomes, and chosen from train rows only."""

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
    statistics = train.groupby("item_id")["outcome"].agg(["size", "mean"]).reset_index()
    popular = statistics.sort_values(["size", "item_id"], ascending=[False, True])[: POOL * count]
    by_mean = popular.sort_values(["mean", "item_id"]).reset_index(drop=True)
    expected = [
        group.sort_values(["size", "item_id"], ascending=[False, True])["item_id"].iloc[0]
        for _, group in by_mean.groupby(by_mean.index // POOL)
    ]
    anchors = choose_anchors(dataset, count)
    assert anchors == expected
    means = statistics.set_index("item_id")["mean"].loc[anchors]
    assert means.is_monotonic_increasing and means.max() - means.min() > statistics["mean"].std()


def test_anchors_do_not_depend_on_row_order_held_out_rows_or_items_without_text():
    dataset = data_of()
    anchors = choose_anchors(dataset, 6)
    shuffled = dataset.interactions.sample(frac=1, random_state=0).reset_index(drop=True)
    held_out = shuffled["split"] == "test"
    shuffled.loc[held_out, "outcome"] = 6 - shuffled.loc[held_out, "outcome"]
    items = dataset.items.sample(frac=1, random_state=1).reset_index(drop=True)
    assert choose_anchors(Dataset("books", "rating", shuffled, items, {}), 6) == anchors
    without_text = items.assign(text=items["text"].where(items["item_id"] != anchors[2], "  "))
    assert anchors[2] not in choose_anchors(
        Dataset("books", "rating", shuffled, without_text, {}), 6
    )


def test_all_of_few_items_are_anchors_and_a_single_item_is_refused():
    dataset = data_of(items=9)
    train = dataset.interactions["split"] == "train"
    rated = sorted(dataset.interactions.loc[train, "item_id"].unique())
    assert sorted(choose_anchors(dataset, 32)) == rated
    single_item = data_of(items=1)
    with pytest.raises(DataError, match="'books' has 1"):
        choose_anchors(single_item, 32)
