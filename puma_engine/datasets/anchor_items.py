"""Anchor items: a few items that are predicted for every user, so that users and models can be compared.

The term comes from test equating, where two tests are compared by the items that both contain.
"""

import numpy as np

from puma_engine.datasets.dataset import Dataset
from puma_engine.errors import DataError

# Number of candidate items for each anchor; with more candidates, less popular items are chosen.
POOL = 8


def choose_anchors(dataset: Dataset, count: int) -> list[str]:
    """Return the ids of popular items with varied mean outcomes, ascending by that mean.

    Of the items with a text, the `POOL * count` with the most train rows are sorted by the mean of
    these rows and cut into `count` groups of equal size; the item with the most rows of each group
    is taken. Ties are decided by id. If there are fewer such items, all are returned. Raises
    DataError if there are fewer than two.
    """
    train = (dataset.interactions["split"] == "train").to_numpy()
    rows = dataset.item_rows[train]
    outcome = dataset.interactions["outcome"].to_numpy(np.float64)[train]
    items = len(dataset.items)
    records = np.bincount(rows, minlength=items)
    total = np.bincount(rows, weights=outcome, minlength=items)
    with_text = (dataset.items["text"].astype(str).str.strip() != "").to_numpy()
    usable = np.flatnonzero((records > 0) & with_text)
    if len(usable) < 2:
        raise DataError(
            f"Anchor items are two or more with train rows and a text; {dataset.name!r} has "
            f"{len(usable)}."
        )
    ids = dataset.items["item_id"].to_numpy(dtype=str)
    popular = usable[np.lexsort((ids[usable], -records[usable]))][: POOL * count]
    means = total[popular] / records[popular]
    by_mean = popular[np.lexsort((ids[popular], means))]
    groups = np.array_split(by_mean, min(count, len(by_mean)))
    chosen = [group[np.lexsort((ids[group], -records[group]))[0]] for group in groups]
    return [str(ids[row]) for row in chosen]
