"""Settings of trainings that take a second, and a small file of ratings."""

import numpy as np
import pandas as pd

QUICK = {"epochs": 2, "batch_size": 64, "learning_rate": 1e-2}
SMALL = {"hidden": 16}


def write_ratings(path, users=24, rows=12, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        [
            {
                "user_id": f"{user:03}",
                "item_id": f"i{item}",
                "outcome": int(rng.integers(1, 6)),
                "text": f"Book {item} by Author {item % 4}",
            }
            for user in range(users)
            for item in rng.choice(30, size=rows, replace=False)
        ]
    )
    frame.to_csv(path, index=False)
    return path
