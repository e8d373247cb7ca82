"""How the chosen users are spread over the groups that all users fall into."""

from __future__ import annotations

import numpy as np
import pandas as pd


def coverage(cluster: np.ndarray, stratum: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """Count users and chosen users in each cell of cluster and stratum.

    cluster, stratum: labels [n] int; chosen [n] bool. Returns one row a cell that has users:
    cluster, stratum, users, chosen, share (of the cell's users who were chosen, in [0, 1]).
    """
    frame = pd.DataFrame({"cluster": cluster, "stratum": stratum, "chosen": chosen.astype(int)})
    cells = frame.groupby(["cluster", "stratum"], as_index=False).agg(
        users=("chosen", "size"), chosen=("chosen", "sum")
    )
    return cells.assign(share=cells["chosen"] / cells["users"])
