"""Random pairs: distinct items, drawn for each user by the user's id alone."""

import numpy as np
import pandas as pd
import pytest

from puma_engine.defaults import held_out_pairs
from puma_engine.errors import MigrationError
from puma_engine.migration.random_pairs import draw_pairs

ITEMS = pd.DataFrame({"item_id": [f"i{n}" for n in range(40)], "text": "A title"})
USERS = np.array([f"u{n}" for n in range(300)])


def items_of(pairs):
    return pairs.groupby(["user_id", "split"])["item_id"].agg(set)


def test_pairs_of_a_user_are_distinct_and_held_out_ones_are_others():
    pairs = draw_pairs(USERS, USERS[::2], ITEMS, 16, seed=0)
    assert not pairs.duplicated(["user_id", "item_id"]).any()
    counts = pairs.groupby("split")["user_id"].value_counts()
    assert (counts["train"] == 16).all() and len(counts["train"]) == 300
    assert (counts["validation"] == held_out_pairs(16)).all() and len(counts["validation"]) == 150
    # Each item is drawn about equally often: 300 * 16 / 40 = 120, with a standard deviation below 9.
    train_counts = pairs.loc[pairs["split"] == "train", "item_id"].value_counts()
    assert len(train_counts) == 40 and train_counts.between(120 - 45, 120 + 45).all()


def test_pairs_depend_on_seed_user_and_items_alone():
    all_pairs = items_of(draw_pairs(USERS, USERS, ITEMS, 8, seed=3))
    some_pairs = items_of(draw_pairs(USERS[7:12], USERS[9:20], ITEMS.iloc[::-1], 8, seed=3))
    assert some_pairs.equals(all_pairs[some_pairs.index])
    assert not items_of(draw_pairs(USERS, USERS, ITEMS, 8, seed=4)).equals(all_pairs)


def test_items_without_a_text_are_not_drawn():
    items = ITEMS.assign(text=["", " \x00 ", *["A title"] * 38])
    pairs = draw_pairs(USERS, USERS, items, 32, seed=0)
    assert set(pairs["item_id"]) == set(ITEMS["item_id"][2:])
    with pytest.raises(MigrationError, match="36 pairs of each user and 4 held-out ones .* has 38"):
        draw_pairs(USERS, USERS, items, 36, seed=0)
