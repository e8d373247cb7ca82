"""Where the shipped data lie."""

from __future__ import annotations

import os
from pathlib import Path

from puma_engine.errors import DataError

ENVIRONMENT = "PUMA_DATA"


def data_root() -> Path:
    """Return the folder of the shipped data, `data/` of the checkout.

    PUMA_DATA names another folder; without it, the checkout this package lies in is
    taken, else `data` below the current folder. Raises DataError when none exists.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{ENVIRONMENT} names {root}, which is no folder; set it to the folder data/ of a "
                "checkout, or unset it."
            )
        return root
    candidates = (Path(__file__).resolve().parents[2] / "data", Path.cwd() / "data")
    for root in candidates:
        if (root / "goodbooks").is_dir() or (root / "zoo").is_dir():
            return root
    raise DataError(
        f"The shipped data were not found in {' or '.join(map(str, candidates))}; run inside a "
        f"checkout, or set {ENVIRONMENT} to its folder data/."
    )
