"""People, the sentence about one person: the record that shows best what a migration changed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dashboard.components.formatting import percent, short

STARS = {1: "one star", 2: "two stars", 3: "three stars", 4: "four stars", 5: "five stars"}
# How a sentence calls a method of a kind.
NOUNS = {
    "migrated": "the migration",
    "refined": "refining",
    "shuffled": "the check with swapped prompts",
    "source": "the old model",
    "retrained": "retraining",
    "random": "random prompts",
}


def most_changed_record(
    joined: pd.DataFrame, task: str, method: str, other: str
) -> pd.Series | None:
    """Return the record on which a method differs most from another, in the user's direction.

    joined: outcome, and the predictions of both methods by name. The direction is whether the method
    is worse or better on all of the user's records together. None without a record that both
    predicted.
    """
    rows = joined.dropna(subset=[method, other])
    if rows.empty:
        return None
    truth = rows["outcome"].to_numpy(np.float64)
    change = _losses(task, truth, rows[method]) - _losses(task, truth, rows[other])
    direction = 1.0 if change.sum() >= 0 else -1.0
    return rows.iloc[int(np.argmax(direction * change))]


def _losses(task: str, truth: np.ndarray, predicted: pd.Series) -> np.ndarray:
    values = predicted.to_numpy(np.float64)
    if task == "rating":
        return (values - truth) ** 2
    likelihood = np.where(truth >= 0.5, values, 1 - values)
    return -np.log(np.clip(likelihood, 1e-7, 1.0))


def sentence(
    user: str,
    joined: pd.DataFrame,
    titles: Mapping[str, str],
    task: str,
    *,
    method: tuple[str, str],
    other: tuple[str, str],
    other_name: str,
) -> str:
    """Return what happened to a person, as plain text, or "" if no record tells.

    joined: item_id, outcome and predictions by evaluation. method, other: evaluation and kind.
    other_name: how a method of another kind is called.
    """
    row = most_changed_record(joined, task, method[0], other[0])
    if row is None:
        return ""
    title = short(titles.get(row["item_id"], str(row["item_id"])), 70)
    values = float(row[other[0]]), float(row[method[0]])
    names = NOUNS.get(other[1], other_name), NOUNS.get(method[1], "this method")
    if task == "rating":
        stars = STARS.get(row["outcome"], f"{row['outcome']:.2g} stars")
        return (
            f"{short(user, 40)} gives “{title}” {stars}; {names[0]} says {values[0]:.1f}, "
            f"{names[1]} {values[1]:.1f}."
        )
    did = "clicked" if row["outcome"] >= 0.5 else "did not click"
    return (
        f"{short(user, 40)} {did} “{title}”; {names[0]} gives a click {percent(values[0])}, "
        f"{names[1]} {percent(values[1])}."
    )
