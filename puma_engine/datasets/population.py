"""Split users into foundation users, whose data pre-trains the zoo, and product users, all others."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from puma_engine.datasets.seeded_hashing import text_keys, uniform
from puma_engine.errors import DataError

Population = Literal["product", "foundation"]
POPULATIONS: tuple[Population, ...] = ("product", "foundation")
# Population of data sets that were not used to pre-train the zoo.
EVERYONE = "everyone"
FOUNDATION_SHARE = 0.30


def is_foundation(user_ids: Sequence[str] | np.ndarray, family: str) -> np.ndarray:
    """Return whether each user is a foundation user, [n] bool.

    The answer depends only on sha256("family:user_id"), so a user is on the same side
    in every data set of a family, whatever the seed and the other users.
    """
    return uniform(text_keys(user_ids, salt=f"{family}:")) < FOUNDATION_SHARE


def in_population(user_ids: np.ndarray, family: str, population: str) -> np.ndarray:
    """Return whether each user belongs to a population: "product", "foundation" or everyone, [n] bool."""
    if population == EVERYONE:
        return np.ones(len(user_ids), dtype=bool)
    if population not in POPULATIONS:
        raise DataError(
            f"There is no population {population!r}; choose {' or '.join(POPULATIONS)}."
        )
    foundation = is_foundation(user_ids, family)
    return foundation if population == "foundation" else ~foundation
