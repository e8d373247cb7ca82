"""Where the shipped data lie."""

from __future__ import annotations

import os
from pathlib import Path

from puma_engine.errors import DataError

ENVIRONMENT = "PUMA_DATA"


def data_root() -> Path:
    """Return the folder of the shipped data.

    PUMA_DATA names it. Without that it is `data/` of the checkout that holds this package, the
    copy inside an installed package, or `data/` of the current folder, whichever comes first.
    Raises DataError if there is none.
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
    package = Path(__file__).resolve().parents[1]
    candidates = (package.parent / "data", package / "shipped" / "data", Path.cwd() / "data")
    for root in candidates:
        if (root / "goodbooks").is_dir() or (root / "zoo").is_dir():
            return root
    raise DataError(
        f"The shipped data were not found in {' or '.join(map(str, candidates))}; run inside a "
        f"checkout, or set {ENVIRONMENT} to its folder data/."
    )
