"""Random pairs of users and items; an adapter learns from their predictions, without records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from puma_engine.backbone.tokens import clean_text
from puma_engine.datasets import Dataset
from puma_engine.datasets.seeded_hashing import text_keys
from puma_engine.defaults import held_out_pairs
from puma_engine.errors import MigrationError
from puma_engine.prompts.examples import ANSWER_COLUMN
from puma_engine.prompts.table_predictions import TablePredictions


def draw_pairs(
    trained: np.ndarray, held_out: np.ndarray, items: pd.DataFrame, pairs: int, seed: int
) -> pd.DataFrame:
    """Draw distinct random items for each user: the columns user_id, item_id and split.

    trained: users who get `pairs` pairs of the split train. held_out: users who get
    `held_out_pairs(pairs)` pairs of the split validation. items: item_id and text; only items with a
    text are drawn. No record is read, so a pair may be one that the user has rated. The items of a
    user depend on the seed, the user's id and the items alone. Raises MigrationError where the
    items are too few.
    """
    item_ids = np.sort(items["item_id"][[bool(clean_text(text)) for text in items["text"]]])
    users, n_held_out = np.union1d(trained, held_out), held_out_pairs(pairs)
    if pairs + n_held_out > len(item_ids):
        raise MigrationError(
            f"{pairs} pairs of each user and {n_held_out} held-out ones need {pairs + n_held_out} items with a text, but "
            f"the data set has {len(item_ids)}; ask for fewer pairs or give a data set with more items."
        )
    item_rows = np.empty((len(users), pairs + n_held_out), np.int64)
    for row, key in enumerate(text_keys(users, salt="pairs:")):
        generator = np.random.default_rng([seed, int(key)])
        item_rows[row] = generator.choice(len(item_ids), pairs + n_held_out, replace=False)
    parts = []
    for split, chosen, columns in (
        ("train", trained, item_rows[:, :pairs]),
        ("validation", held_out, item_rows[:, pairs:]),
    ):
        numbers = columns[np.searchsorted(users, np.sort(chosen))]
        ids = np.repeat(np.sort(chosen), numbers.shape[1])
        parts.append(
            pd.DataFrame({"user_id": ids, "item_id": item_ids[numbers.ravel()], "split": split})
        )
    return pd.concat(parts, ignore_index=True)


def pair_dataset(
    dataset: Dataset, pairs: pd.DataFrame, outcome: np.ndarray, answers: np.ndarray | None = None
) -> Dataset:
    """Return a data set of pairs, whose outcomes are predictions.

    dataset: gives the items' texts, the task and the name. outcome: [n], of the pairs in order.
    answers: the probability of each answer [n, A], kept in columns that begin with `ANSWER_COLUMN`.
    """
    frame = pairs.assign(outcome=outcome.astype(np.float32))
    if answers is not None:
        for number in range(answers.shape[1]):
            frame[f"{ANSWER_COLUMN}{number + 1}"] = answers[:, number].astype(np.float32)
    items = dataset.items[dataset.items["item_id"].isin(frame["item_id"].unique())]
    report = {"pairs": len(frame)}
    return Dataset(dataset.name, dataset.task, frame, items.reset_index(drop=True), report)


def mean_predictions(
    task: str, predictions: Sequence[TablePredictions]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the mean predictions [n] of several sources and, for ratings, the mean answer probabilities.

    For clicks they are None, since the outcome is the probability of an answer.
    """
    outcome = np.mean([part.outcome for part in predictions], axis=0)
    if task != "rating":
        return outcome, None
    return outcome, np.mean([part.answers for part in predictions], axis=0)
